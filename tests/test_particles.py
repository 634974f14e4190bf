"""Particle sets that other programs wrote, and damaged ones: each loads, or is refused in one line that fits."""
import errno
import re
import resource
import warnings

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
import torch

from cryoformer_nb.conventions import InputError
from cryoformer_nb.files import write_map, write_stack
from cryoformer_nb.particles import detect_sign, load_particles, write_star
from cryoformer_nb.rotations import random_rotations


def refused(call) -> str:
    with pytest.raises(InputError) as info: call()
    message = str(info.value)
    assert "\n" not in message and "expected" in message and "found" in message
    return message


def make(folder, images, name="set.star", stack="s.mrcs", rows=None, **columns):
    "A RELION 3.1 set of the images given (or of a stack that is already there)."
    folder.mkdir(exist_ok=True, parents=True)
    n = rows or len(images)
    if images is not None: write_stack(folder / stack, images, 1.5)
    table = {"rlnImageName": [f"{k + 1}@{stack}" for k in range(n)], "rlnOpticsGroup": 1, "rlnAngleRot": 0.0, "rlnAngleTilt": 0.0, "rlnAnglePsi": 0.0,
             "rlnOriginXAngst": 0.0, "rlnOriginYAngst": 0.0, "rlnDefocusU": 15000.0, "rlnDefocusV": 15000.0, "rlnDefocusAngle": 0.0} | columns
    optics = pd.DataFrame({"rlnOpticsGroup": [1], "rlnVoltage": [300.0], "rlnSphericalAberration": [2.7], "rlnAmplitudeContrast": [0.1], "rlnImagePixelSize": [1.5]})
    starfile.write({"optics": optics, "particles": pd.DataFrame(table)}, folder / name, float_format="%.9g")
    return folder / name


def noise(n=6, box=16): return np.random.default_rng(0).normal(size=(n, box, box)).astype(np.float32)


# ---------------------------------------------------------------- foreign files

LOADS = {  # file: (particles, box, pixel size)
    "relion31.star": (5, 256, 2.806), "relion31.v2.star": (5, 256, 2.806), "sta_testing_bin8.star": (219, 64, 1.96)}
REFUSED = {
    "FinalRefinement-OriginalParticles-PfCRT.star": "rlnAmplitudeContrast", "empiar_10076_7.star": "rlnAngleRot, rlnAngleTilt, rlnAnglePsi",
    "relion31.6opticsgroups.star": "1.24, 1.25 A", "relion5.star": "toy_images_a.mrcs", "sample_incomplete_ctf_params.star": "no column rlnVoltage",
    "sample_particles_relion30.star": "stack sample.mrcs", "sample_particles_relion31.star": "stack sample.mrcs", "toy_projections.star": "pixel size"}


@pytest.mark.parametrize("name", LOADS)
def test_foreign_star_loads(shared, name):
    particles = load_particles(shared("formats/" + name))
    assert (len(particles), particles.box, pytest.approx(particles.pixel_size, abs=1e-4)) == LOADS[name]
    assert torch.linalg.det(particles.rotations).allclose(torch.ones(len(particles)), atol=1e-5)
    statistics = particles.statistics()
    assert (statistics.std > 0).all()
    index = len(particles) - 1
    file = particles.path.parent / particles.table["rlnImageName"][index].split("@")[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")     # headers without machine stamp
        image = mrcfile.open(file, permissive=True).data[index]
    assert np.array_equal(particles.sign * particles.images([index])[0], image)


@pytest.mark.parametrize("name", REFUSED)
def test_foreign_star_is_refused(shared, name):
    assert REFUSED[name] in refused(lambda: load_particles(shared("formats/" + name)))


def test_no_foreign_star_is_forgotten(shared):
    assert {p.name for p in shared("formats").glob("*.star")} == set(LOADS) | set(REFUSED)


def test_other_formats_are_refused(shared):
    for name in ("empiar_10076_7.cs", "pose.star.pkl", "toy_projections.txt", "hand.mrcs"):
        assert "expected a RELION .star file" in refused(lambda: load_particles(shared("formats/" + name)))


def test_relion_projections_without_ctf_are_refused(shared):
    assert "rlnDefocusU" in refused(lambda: load_particles(shared("relion_projections/rln_proj_64_shifted.star")))


def test_relion_pixel_origins_in_a_new_star(shared, tmp_path):
    "RELION's own projector wrote rlnOriginX in pixels beside data_optics; with a CTF added the set loads, and refined poses keep that unit."
    blocks = starfile.read(shared("relion_projections/rln_proj_64_shifted.star"), always_dict=True)
    blocks["optics"]["rlnAmplitudeContrast"] = 0.1
    blocks["particles"] = blocks["particles"].assign(rlnDefocusU=1e4, rlnDefocusV=1e4, rlnDefocusAngle=0.0)
    starfile.write(blocks, tmp_path / "set.star")
    particles = load_particles(tmp_path / "set.star", datadir=shared("relion_projections"))
    x = blocks["particles"]["rlnOriginX"].to_numpy()
    assert np.allclose(particles.shifts_px[:, 0], x)
    again = load_particles(write_star(particles, tmp_path / "again.star", shifts_px=particles.shifts_px + 2), datadir=shared("relion_projections"))
    assert np.allclose(again.shifts_px[:, 0], x + 2, atol=1e-5) and "rlnOriginXAngst" not in again.table


def test_adk_poses_are_the_truth(shared):
    particles = load_particles(shared("adk/particles.star"))
    assert len(particles) == 4000 and particles.box == 64 and particles.pixel_size == 1.5
    assert np.allclose(particles.rotations, np.load(shared("adk/truth/rotations.npy")), atol=1e-6)
    assert np.allclose(particles.shifts_px, np.load(shared("adk/truth/shifts_px.npy")), atol=1e-5)
    assert particles.sign == 1 and "bright" in repr(particles)
    small = load_particles(shared("adk/particles.star"), box=32)
    assert small.pixel_size == 3 and torch.allclose(small.shifts_px * 2, particles.shifts_px) and small.images([0]).shape == (1, 32, 32)


def test_contrast_needs_few_images_and_follows_the_data(shared):
    particles = load_particles(shared("adk/particles.star"))
    for start in range(0, 4000, 500):
        rows = np.arange(start, start + 50)
        arguments = particles.ctf_params[rows], particles.shifts_px[rows], particles.pixel_size
        assert detect_sign(particles.images(rows), *arguments)[0] == 1 and detect_sign(5 - 3 * particles.images(rows), *arguments)[0] == -1


# ---------------------------------------------------------------- round trips

def test_write_star_round_trip(tmp_path):
    particles = load_particles(make(tmp_path, noise(), rlnTomoName="0007", rlnTiny=1.2345678e-7))
    rotations = random_rotations(6, torch.Generator().manual_seed(0))
    rotations[0], rotations[1] = torch.eye(3), torch.diag(torch.tensor([1.0, -1, -1]))     # tilt 0 and 180
    shifts = torch.arange(12.0).reshape(6, 2) - 5
    again = load_particles(write_star(particles, tmp_path / "again.star", rotations, shifts))
    assert torch.allclose(again.rotations, rotations, atol=1e-6) and torch.allclose(again.shifts_px, shifts, atol=1e-5)
    assert list(again.table) == list(particles.table) and len(again.optics) == 1
    assert again.table["rlnTomoName"][3] == "0007" and again.table["rlnTiny"][0] == 1.2345678e-7


def test_optics_group_values_reach_their_particles(tmp_path):
    star = make(tmp_path, noise(), rlnOpticsGroup=[2, 1, 2, 1, 1, 2])
    blocks = starfile.read(star, always_dict=True)
    blocks["optics"] = pd.concat([blocks["optics"]] * 2).assign(rlnOpticsGroup=[1, 2], rlnVoltage=[300.0, 200.0], rlnSphericalAberration=[2.7, 0.01])
    starfile.write(blocks, star)
    params = load_particles(star).ctf_params
    assert params[:, 3].tolist() == [200, 300, 200, 300, 300, 200] and params[0, 4] == pytest.approx(0.01)
    blocks["optics"]["rlnImagePixelSize"] = [1.5, 1.500001]
    starfile.write(blocks, star)
    assert load_particles(star).pixel_size == pytest.approx(1.5), "a rounding difference is no other pixel size"


def test_many_stacks_keep_order_and_few_open_files(tmp_path):
    images = noise(300, 8)
    for k in range(300): write_stack(tmp_path / f"{k}.mrcs", images[k:k + 1], 1.5)
    order = np.random.default_rng(1).permutation(300)
    star = make(tmp_path, None, rows=300, rlnImageName=[f"1@{k}.mrcs" for k in order])
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, limits[1]), limits[1]))
    try:
        particles = load_particles(star, invert=False)
        assert np.array_equal(particles.whole(1 << 20), images[order]) and len(particles.stacks.open) <= 64
    finally: resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("dtype", (np.float16, np.int8, np.int16, np.uint16))
def test_other_modes(tmp_path, dtype):
    images = (noise() * 20 + 60).astype(dtype)
    mrcfile.new(tmp_path / "s.mrcs", images).close()
    particles = load_particles(make(tmp_path, None, rows=6), invert=False)
    assert particles.images([4, 0]).dtype == torch.float32 and np.array_equal(particles.images([4, 0]), images[[4, 0]].astype(np.float32))


def test_big_endian_and_single_image(tmp_path):
    image = noise(1)
    with mrcfile.new(tmp_path / "s.mrcs") as mrc: mrc.set_data(image[0].astype(">f4"))
    particles = load_particles(make(tmp_path, None, rows=1, rlnImageName=["s.mrcs"]), invert=False)
    assert np.array_equal(particles.images([0]), image)


# ---------------------------------------------------------------- damage

def test_truncated_stack(tmp_path):
    star = make(tmp_path, noise())
    data = (tmp_path / "s.mrcs").read_bytes()
    for cut in (len(data) - 1, 2000, 1023, 0):
        (tmp_path / "s.mrcs").write_bytes(data[:cut])
        assert re.search("truncated|fewer bytes", refused(lambda: load_particles(star)))


def test_nan_constant_and_infinite_images_are_named(tmp_path):
    for k, (value, word) in enumerate(((np.nan, "NaN"), (np.inf, "infinity"), (None, "single grey value"))):
        images = noise()
        if value is None: images[3] = 4.25
        else: images[3, 2, 2] = value
        particles = load_particles(make(tmp_path / str(k), images), invert=False)
        message = refused(particles.statistics)
        assert word in message and "row 4 (4@s.mrcs)" in message
        if value is not None: assert "row 4" in refused(lambda: particles.images([1, 3]))


@pytest.mark.parametrize("changes, word", (
    (dict(rlnImageName=["0@s.mrcs"] * 6), "index from 1"), (dict(rlnImageName=["7@s.mrcs"] * 6), "found 6 images"), (dict(rlnImageName=["x@s.mrcs"] * 6), "index@stack"),
    (dict(rlnDefocusU=[1e4] * 5 + [np.nan]), "rlnDefocusU"), (dict(rlnVoltage=300), None), (dict(rlnCtfDataAreCtfPremultiplied=1), "untouched"),
    (dict(rlnOpticsGroup=3), "group 3"), (dict(rlnImageSize=128), "128 pixels")))
def test_bad_columns(tmp_path, changes, word):
    star = make(tmp_path, noise(), **changes)
    if word is None: assert len(load_particles(star)) == 6
    else: assert word in refused(lambda: load_particles(star))


def test_boxes(tmp_path):
    assert "square" in refused(lambda: load_particles(make(tmp_path, noise()[:, :12])))
    assert "even box" in refused(lambda: load_particles(make(tmp_path, noise()[:, :15, :15])))
    write_stack(tmp_path / "t.mrcs", noise(6, 8), 1.5)
    star = make(tmp_path, noise(), rlnImageName=["1@s.mrcs"] * 3 + ["1@t.mrcs"] * 3)
    assert "one box" in refused(lambda: load_particles(star))
    star = make(tmp_path, noise())
    for box in (15, 18, 2): assert "--box" in refused(lambda: load_particles(star, box=box))


def test_unreadable_tables(tmp_path):
    star = make(tmp_path, noise())
    good = star.read_text()
    cases = {"empty": "", "prose": "no star file\nat all\n", "binary": "\x00\x01data_\x02", "no loop": "data_particles\n", "short row": good + "1@s.mrcs\n", "long row": good + "1 " * 30 + "\n"}
    for text in cases.values():
        star.write_text(text)
        refused(lambda: load_particles(star))
    star.write_bytes(b"\xff\xfe\x00data_\xff" * 50)
    refused(lambda: load_particles(star))
    refused(lambda: load_particles(tmp_path))
    (tmp_path / "folder.star").mkdir()
    refused(lambda: load_particles(tmp_path / "folder.star"))


def test_full_disk(tmp_path, monkeypatch):
    particles = load_particles(make(tmp_path, noise()))
    (tmp_path / "poses.star").write_text("precious")
    def full(*args, **kwargs): raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(starfile, "write", full)
    assert "No space left" in refused(lambda: write_star(particles, tmp_path / "poses.star"))
    monkeypatch.setattr("builtins.open", lambda *args, **kwargs: type("Full", (), {"write": full, "__enter__": lambda s: s, "__exit__": lambda *a: None})())
    assert "No space left" in refused(lambda: write_map(tmp_path / "v.mrc", np.zeros((4, 4, 4)), 1.0))
    monkeypatch.undo()
    assert (tmp_path / "poses.star").read_text() == "precious" and not (tmp_path / "v.mrc").exists() and not list(tmp_path.glob(".tmp*"))


def test_memory_stays_bounded(tmp_path):
    "A stack of 80 MB is visited with chunks; what is held beside the page cache stays far below it."
    import tracemalloc
    rng = np.random.default_rng(0)
    write_stack(tmp_path / "s.mrcs", (rng.normal(size=(100, 64, 64)).astype(np.float32) for _ in range(50)), 1.5)
    particles = load_particles(make(tmp_path, None, rows=5000), invert=False)
    tracemalloc.start()
    particles.statistics(chunk=64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6 and particles.whole(80_000_000) is None
