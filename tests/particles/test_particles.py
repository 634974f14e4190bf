"""Particle sets of other programs, and damaged ones: each loads or is refused in one line."""

import errno
import pickle
import re
import resource
import warnings
from dataclasses import replace

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
import torch

from cryoformer_nb.command.cli import main
from cryoformer_nb.core.conventions import InputError
from cryoformer_nb.core.files import write_map, write_stack
from cryoformer_nb.core.fsc import fsc
from cryoformer_nb.core.rotations import euler_to_matrix, random_rotations
from cryoformer_nb.imaging.backprojection import detect_sign
from cryoformer_nb.imaging.projector import project
from cryoformer_nb.imaging.simulator import simulate
from cryoformer_nb.particles.consensus import back_project, consensus, wiener
from cryoformer_nb.particles.cryodrgn import read_pose_pickle, write_pickles
from cryoformer_nb.particles.cryosparc import read_cs, write_cs
from cryoformer_nb.particles.particles import load_particles, write_star
from cryoformer_nb.particles.table import ANGLES


def refused(call, *args, **options) -> str:
    with pytest.raises(InputError) as info:
        call(*args, **options)
    message = str(info.value)
    assert "\n" not in message
    assert "expected" in message
    assert "found" in message
    return message


def make(folder, images, name="set.star", stack="s.mrcs", rows=None, **columns):
    "A RELION 3.1 set of the images given (or of a stack that is already there)."
    folder.mkdir(exist_ok=True, parents=True)
    n = rows or len(images)
    if images is not None:
        write_stack(folder / stack, images, 1.5)
    table = {
        "rlnImageName": [f"{k + 1}@{stack}" for k in range(n)],
        "rlnOpticsGroup": 1,
        "rlnAngleRot": 0.0,
        "rlnAngleTilt": 0.0,
        "rlnAnglePsi": 0.0,
        "rlnOriginXAngst": 0.0,
        "rlnOriginYAngst": 0.0,
        "rlnDefocusU": 15000.0,
        "rlnDefocusV": 15000.0,
        "rlnDefocusAngle": 0.0,
    } | columns
    optics = pd.DataFrame(
        {
            "rlnOpticsGroup": [1],
            "rlnVoltage": [300.0],
            "rlnSphericalAberration": [2.7],
            "rlnAmplitudeContrast": [0.1],
            "rlnImagePixelSize": [1.5],
        }
    )
    starfile.write(
        {"optics": optics, "particles": pd.DataFrame(table)}, folder / name, float_format="%.9g"
    )
    return folder / name


def noise(n=6, box=16):
    return np.random.default_rng(0).normal(size=(n, box, box)).astype(np.float32)


# ---------------------------------------------------------------- foreign files

LOADS = {  # file: (particles, box, pixel size)
    "relion31.star": (5, 256, 2.806),
    "relion31.v2.star": (5, 256, 2.806),
    "sta_testing_bin8.star": (219, 64, 1.96),
}
REFUSED = {
    "FinalRefinement-OriginalParticles-PfCRT.star": "rlnAmplitudeContrast",
    "empiar_10076_7.star": "rlnAngleRot, rlnAngleTilt, rlnAnglePsi",
    "relion31.6opticsgroups.star": "1.24, 1.25 A",
    "relion5.star": "toy_images_a.mrcs",
    "sample_incomplete_ctf_params.star": "no column rlnVoltage",
    "sample_particles_relion30.star": "stack sample.mrcs",
    "sample_particles_relion31.star": "stack sample.mrcs",
    "toy_projections.star": "pixel size",
}


@pytest.mark.parametrize("name", LOADS)
def test_foreign_star_loads(shared, name):
    particles = load_particles(shared("formats/" + name))
    assert (len(particles), particles.box, pytest.approx(particles.pixel_size, abs=1e-4)) == LOADS[
        name
    ]
    assert torch.linalg.det(particles.rotations).allclose(torch.ones(len(particles)), atol=1e-5)
    statistics = particles.statistics()
    assert (statistics.std > 0).all()
    index = len(particles) - 1
    file = particles.path.parent / particles.table["rlnImageName"][index].split("@")[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # headers without machine stamp
        image = mrcfile.open(file, permissive=True).data[index]
    assert np.array_equal(particles.sign * particles.images([index])[0], image)


@pytest.mark.parametrize("name", REFUSED)
def test_foreign_star_is_refused(shared, name):
    assert REFUSED[name] in refused(lambda: load_particles(shared("formats/" + name)))


def test_no_foreign_star_is_forgotten(shared):
    assert {p.name for p in shared("formats").glob("*.star")} == set(LOADS) | set(REFUSED)


def test_files_that_lack_something_are_refused(shared):

    def f(name):
        return shared("formats/" + name)

    for name, word in (
        ("empiar_10076_7.cs", "alignments3D/pose), found no alignments"),
        ("cryosparc_J2_particles_exported.cs", "found alignments2D"),
        ("cryosparc_P12_J24_001_particles.cs", "--datadir"),
        ("hand.mrcs", "no poses (--pose-pkl) and no CTF (--ctf-pkl)"),
        ("toy_projections.txt", "--ctf-pkl"),
        ("pose.star.pkl", "found '.pkl'"),
    ):
        assert word in refused(load_particles, f(name))
    refusals = {
        "expected the poses of 1000 images, found 100": dict(
            poses=f("hand_rot_trans.pkl"), ctf=f("test_ctf.pkl")
        ),
        "expected the CTF of 1000 images, found 100": dict(
            poses=f("toy_rot_trans.pkl"), ctf=f("test_ctf.100.pkl")
        ),
        "no CTF (--ctf-pkl)": dict(poses=f("toy_rot_trans.pkl")),
        "no poses (--pose-pkl)": dict(ctf=f("test_ctf.pkl")),
        "is it the pose pickle?": dict(poses=f("toy_rot_trans.pkl"), ctf=f("toy_rot_trans.pkl")),
        "--passthrough": dict(passthrough=f("empiar_10076_7.cs")),
        "expected the poses of 1000 images, found 2019": dict(
            poses=f("cryosparc_P12_J24_001_particles.cs"), ctf=f("test_ctf.pkl")
        ),
    }
    for word, options in refusals.items():
        assert word in refused(load_particles, f("toy_projections.mrcs"), **options)
    assert "CTF of 220 images, found 219" in refused(
        lambda: load_particles(
            f("ay19102021_L3_position6_ribo_it09_bin8_1.82A.mrcs"),
            poses=f("sta_pose.pkl"),
            ctf=f("sta_ctf.pkl"),
        )
    )
    assert "expected one file of poses" in refused(lambda: load_particles(shared("formats")))
    assert "expected particles (*.txt" in refused(lambda: load_particles(shared("adk/cryodrgn")))


# ---------------------------------------------------------------- cryoSPARC and cryoDRGN


def test_cryosparc_table_agrees_with_the_poses_that_cryodrgn_read_from_it(shared):
    read = read_cs(shared("formats/cryosparc_P12_J24_001_particles.cs"))
    table = read.columns
    rotations, fractions = read_pose_pickle(shared("formats/pose.cs.pkl"), len(table))
    assert abs(euler_to_matrix(torch.tensor(table[ANGLES].values)).numpy() - rotations).max() < 1e-4
    assert (
        abs(table[["rlnOriginXAngst", "rlnOriginYAngst"]].values / 2.95 / 180 - fractions).max()
        < 1e-5
    )
    assert len(table) == 2019
    assert read.optics["rlnVoltage"].tolist() == [200]
    assert set(table["rlnRandomSubset"]) == {1, 2}
    assert (
        table["rlnImageName"][0]
        == "000001@J19/extract/20150917_05196_DNA-TET-25k-DE20_raw.region_000."
        "sum-all_003-072_particles.mrc"
    )


def test_cryosparc_ctf_and_images_agree_with_the_star_file(shared):
    "The same seven images of EMPIAR-10076 in both formats; neither has poses."
    read = read_cs(shared("formats/empiar_10076_7.cs"), poses=False)
    star = starfile.read(shared("formats/empiar_10076_7.star"))
    columns = ["rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"]
    assert np.allclose(read.columns[columns], star[columns].astype(float), atol=1e-2)
    optics = read.optics.iloc[0]
    assert np.allclose(
        [optics["rlnVoltage"], optics["rlnSphericalAberration"], optics["rlnAmplitudeContrast"]],
        star.iloc[0][["rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast"]].astype(
            float
        ),
        atol=1e-4,
    )
    assert [n.split("@")[1] for n in read.columns["rlnImageName"]] == [
        n.split("@")[1] for n in star["rlnImageName"]
    ]
    assert abs(optics["rlnImagePixelSize"] - 1e4 * 5 / 38168) < 1e-3


def test_cryosparc_file_with_poses_of_the_same_images_loads(shared, tmp_path):
    poses = tmp_path / "poses.pkl"
    poses.write_bytes(pickle.dumps((random_rotations(7).numpy(), np.full((7, 2), 0.05))))
    particles = load_particles(shared("formats/empiar_10076_7.cs"), poses=poses)
    assert (len(particles), particles.box, particles.images([6]).shape) == (7, 320, (1, 320, 320))
    assert torch.allclose(particles.shifts_px, torch.tensor(16.0))
    again = load_particles(
        write_star(particles, tmp_path / "poses.star"), datadir=shared("formats")
    )
    assert torch.allclose(again.rotations, particles.rotations, atol=1e-5)
    assert torch.allclose(again.shifts_px, particles.shifts_px, atol=1e-4)


def test_cryodrgn_pickles_of_adk_agree_with_the_star_file(shared):
    star = load_particles(shared("adk/particles.star"))
    drgn = load_particles(
        shared("adk/particles.mrcs"),
        poses=shared("adk/cryodrgn/poses.pkl"),
        ctf=shared("adk/cryodrgn/ctf.pkl"),
    )
    assert abs(star.rotations - drgn.rotations).max() < 1e-4
    assert abs(star.shifts_px - drgn.shifts_px).max() < 1e-4
    assert torch.allclose(star.ctf_params, drgn.ctf_params, rtol=1e-5, atol=1e-3)
    assert drgn.pixel_size == 1.5
    assert drgn.sign == star.sign
    assert torch.equal(star.images([7, 3999]), drgn.images([7, 3999]))


def test_cryodrgn_pickles_agree_with_relion_star_files(shared):
    given = load_particles(shared("formats/sta_testing_bin8.star"))
    other = load_particles(
        shared("formats/sta_testing_bin8.star"),
        poses=shared("formats/sta_pose.pkl"),
        ctf=shared("formats/sta_ctf.pkl"),
    )
    # its shifts were never initialised
    assert len(other) == 219
    assert abs(given.rotations - other.rotations).max() < 1e-4
    assert torch.allclose(given.ctf_params, other.ctf_params, rtol=1e-4, atol=1e-2)
    table = starfile.read(
        shared("formats/FinalRefinement-OriginalParticles-PfCRT.star")
    )  # without its stack
    rotations, fractions = read_pose_pickle(shared("formats/pose.star.pkl"), len(table))
    assert abs(euler_to_matrix(torch.tensor(table[ANGLES].values)).numpy() - rotations).max() < 1e-4
    assert abs(table[["rlnOriginX", "rlnOriginY"]].values / 300 - fractions).max() < 1e-5
    assert abs(other.pixel_size / (1.82 * 512 / 64) - 1) < 1e-6, (
        "the pixel size in the pickle is that of a box of 512"
    )


@pytest.mark.parametrize(
    "stack", ("toy_projections.mrcs", "toy_projections.txt", "toy_projections.star")
)
def test_cryodrgn_images_are_projections_of_their_volume(shared, stack):
    """Rotations of the pickle turn the volume into the images; transposed, shuffled they do not.

    The images are centred, whatever the pickle's shifts say, and have no CTF."""
    particles = load_particles(
        shared("formats/" + stack),
        poses=shared("formats/toy_rot_trans.pkl"),
        ctf=shared("formats/test_ctf.pkl"),
        invert=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        volume = torch.tensor(
            mrcfile.open(
                shared("formats/toymodel_small_nocenter.mrc"), permissive=True
            ).data.astype(np.float32)
        )
    rows = np.arange(0, 1000, 50)
    images, R, centred = (
        particles.images(rows),
        particles.rotations[rows],
        torch.zeros(len(rows), 2),
    )

    def agreement(R):
        return float(
            np.mean(
                [
                    np.corrcoef(a.flatten(), b.flatten())[0, 1]
                    for a, b in zip(project(volume, R, centred, particles.box), images)
                ]
            )
        )

    assert len(particles) == 1000
    assert particles.pixel_size == 1
    assert agreement(R) > 0.98
    assert max(agreement(R.mT), agreement(R.flip(0))) < 0.6


@pytest.mark.slow
def test_cryodrgn_shifts_have_our_sign(shared):
    """Half maps of the `hand` set agree best with rotations and shifts as read.

    Its volume lies in another orientation and is no help here."""
    particles = load_particles(
        shared("formats/hand.mrcs"),
        poses=shared("formats/hand_rot_trans.pkl"),
        ctf=shared("formats/test_ctf.100.pkl"),
        invert=False,
    )
    assert particles.pixel_size == 30 / 64
    assert len(particles) == 100
    R, t, agreement = particles.rotations, particles.shifts_px, {}
    for name, poses in dict(
        right=(R, t),
        minus=(R, -t),
        none=(R, 0 * t),
        swapped=(R, t.flip(1)),
        transposed=(R.mT.contiguous(), t),
    ).items():
        R, t = poses
        turned = replace(particles, rotations=R, shifts_px=t)
        total, weight = back_project(turned, torch.ones(64, 33))
        agreement[name] = (
            fsc(*wiener(total, weight, 0.01 * weight.mean(), 64), 1.0).value[1:12].mean()
        )
    assert agreement["right"] > 0.75, agreement
    assert max(v for k, v in agreement.items() if k != "right") < agreement["right"] - 0.1, (
        agreement
    )


@pytest.mark.slow
def test_cryosparc_and_cryodrgn_files_give_the_run_of_the_star_file(tmp_path, capsys):
    "From each kind of file the same particles, on the command line too; poses.star loads again."
    star = simulate(tmp_path / "set", n=60, box=32, shift_px=1.0, snr=1.0, seed=2)
    p = load_particles(star)
    (tmp_path / "drgn").mkdir()
    (tmp_path / "drgn" / "particles.mrcs").symlink_to(tmp_path / "set" / "particles.mrcs")
    write_pickles(tmp_path / "drgn", p.rotations, p.shifts_px, p.ctf_params, p.box, p.pixel_size)
    write_cs(
        tmp_path / "set" / "J5_particles.cs",
        list(p.table["rlnImageName"]),
        p.rotations,
        p.shifts_px,
        p.ctf_params,
        p.box,
        p.pixel_size,
        p.table["rlnRandomSubset"],
    )
    np.save(tmp_path / "rows.npy", np.arange(0, 60, 2))
    small = [
        "--epochs",
        "0.2",
        "--quiet",
        "--set",
        "batch=8",
        "queries=2",
        "levels=4",
        "hidden=16",
        "encoder_width=16",
        "encoder_layers=2",
    ]
    stack = str(tmp_path / "drgn" / "particles.mrcs")
    inputs = {
        "cs": [str(tmp_path / "set" / "J5_particles.cs")],
        "folder": [str(tmp_path / "drgn")],
        "pickles": [
            stack,
            "--pose-pkl",
            str(tmp_path / "drgn/poses.pkl"),
            "--ctf-pkl",
            str(tmp_path / "drgn/ctf.pkl"),
        ],
        "part": [str(star), "--ind", str(tmp_path / "rows.npy")],
    }
    for kind, arguments in inputs.items():
        assert main(["train", *arguments, "--out", str(tmp_path / kind), *small]) == 0, (
            capsys.readouterr().err
        )
        again = load_particles(tmp_path / kind / "poses.star", datadir=tmp_path / "set")
        rows = np.arange(0, 60, 2) if kind == "part" else np.arange(60)
        assert torch.allclose(again.rotations, p.rotations[rows], atol=1e-5), kind
        assert torch.allclose(again.shifts_px, p.shifts_px[rows], atol=1e-4), kind
        assert torch.equal(again.images([3]), p.images([rows[3]]))
        assert torch.allclose(again.ctf_params, p.ctf_params[rows], rtol=1e-5, atol=1e-3)
        assert len(np.load(tmp_path / kind / "latents.npy")) == len(rows)


# ---------------------------------------------------------------- parts of a set


def test_subsets_and_half_sets(tmp_path):
    particles = load_particles(
        make(tmp_path, noise(), rlnRandomSubset=[1, 2, 2, 1, 1, 2]), invert=False
    )
    one, two = particles.halves()
    assert torch.equal(one.images(slice(None)), particles.images([0, 3, 4]))
    assert torch.equal(two.images([2]), particles.images([5]))
    assert len(one.table) == 3
    assert torch.equal(particles.subset([4, 4, 0]).images([1, 2]), particles.images([4, 0]))
    assert "3 of 6" in repr(one)
    assert len(load_particles(write_star(two, tmp_path / "two.star"), invert=False)) == 3
    for rows in ([6], [-1], [], [[0]], [0.5]):
        assert "particle numbers from 0 to 5" in refused(particles.subset, rows)
    lone = load_particles(make(tmp_path, noise(), rlnRandomSubset=2), invert=False)
    assert "found 2 only" in refused(lone.halves)
    assert [len(rows) for rows in lone.half_rows(strict=False)] == [3, 3]
    plain = load_particles(make(tmp_path, noise()), invert=False)
    assert [rows.tolist() for rows in plain.half_rows()] == [[0, 2, 4], [1, 3, 5]]


def test_relion_projections_without_ctf_are_refused(shared):
    assert "rlnDefocusU" in refused(
        lambda: load_particles(shared("relion_projections/rln_proj_64_shifted.star"))
    )


def test_relion_pixel_origins_in_a_new_star(shared, tmp_path):
    """RELION's own projector wrote rlnOriginX in pixels beside data_optics.

    With a CTF added the set loads, and refined poses keep that unit."""
    blocks = starfile.read(shared("relion_projections/rln_proj_64_shifted.star"), always_dict=True)
    blocks["optics"]["rlnAmplitudeContrast"] = 0.1
    blocks["particles"] = blocks["particles"].assign(
        rlnDefocusU=1e4, rlnDefocusV=1e4, rlnDefocusAngle=0.0
    )
    starfile.write(blocks, tmp_path / "set.star")
    particles = load_particles(tmp_path / "set.star", datadir=shared("relion_projections"))
    x = blocks["particles"]["rlnOriginX"].to_numpy()
    assert np.allclose(particles.shifts_px[:, 0], x)
    again = load_particles(
        write_star(particles, tmp_path / "again.star", shifts_px=particles.shifts_px + 2),
        datadir=shared("relion_projections"),
    )
    assert np.allclose(again.shifts_px[:, 0], x + 2, atol=1e-5)
    assert "rlnOriginXAngst" not in again.table


def test_adk_poses_are_the_truth(shared):
    particles = load_particles(shared("adk/particles.star"))
    assert len(particles) == 4000
    assert particles.box == 64
    assert particles.pixel_size == 1.5
    assert np.allclose(particles.rotations, np.load(shared("adk/truth/rotations.npy")), atol=1e-6)
    assert np.allclose(particles.shifts_px, np.load(shared("adk/truth/shifts_px.npy")), atol=1e-5)
    assert particles.sign == 1
    assert "bright" in repr(particles)
    small = load_particles(shared("adk/particles.star"), box=32)
    assert small.pixel_size == 3
    assert torch.allclose(small.shifts_px * 2, particles.shifts_px)
    assert small.images([0]).shape == (1, 32, 32)


def test_contrast_needs_few_images_and_follows_the_data(shared):
    particles = load_particles(shared("adk/particles.star"))
    for start in range(0, 4000, 500):
        rows = np.arange(start, start + 50)
        y, h = particles.whitened(rows, torch.ones(()))
        poses = particles.rotations[rows], particles.shifts_px[rows]
        assert detect_sign(y, h, *poses)[0] == 1
        assert detect_sign(-y, h, *poses)[0] == -1


# ---------------------------------------------------------------- round trips


def test_write_star_round_trip(tmp_path):
    particles = load_particles(make(tmp_path, noise(), rlnTomoName="0007", rlnTiny=1.2345678e-7))
    rotations = random_rotations(6, torch.Generator().manual_seed(0))
    rotations[0], rotations[1] = (
        torch.eye(3),
        torch.diag(torch.tensor([1.0, -1, -1])),
    )  # tilt 0 and 180
    shifts = torch.arange(12.0).reshape(6, 2) - 5
    again = load_particles(write_star(particles, tmp_path / "again.star", rotations, shifts))
    assert torch.allclose(again.rotations, rotations, atol=1e-6)
    assert torch.allclose(again.shifts_px, shifts, atol=1e-5)
    assert list(again.table) == list(particles.table)
    assert len(again.optics) == 1
    assert again.table["rlnTomoName"][3] == "0007"
    assert again.table["rlnTiny"][0] == 1.2345678e-7


def test_optics_group_values_reach_their_particles(tmp_path):
    star = make(tmp_path, noise(), rlnOpticsGroup=[2, 1, 2, 1, 1, 2])
    blocks = starfile.read(star, always_dict=True)
    blocks["optics"] = pd.concat([blocks["optics"]] * 2).assign(
        rlnOpticsGroup=[1, 2], rlnVoltage=[300.0, 200.0], rlnSphericalAberration=[2.7, 0.01]
    )
    starfile.write(blocks, star)
    params = load_particles(star).ctf_params
    assert params[:, 3].tolist() == [200, 300, 200, 300, 300, 200]
    assert params[0, 4] == pytest.approx(0.01)
    blocks["optics"]["rlnImagePixelSize"] = [1.5, 1.500001]
    starfile.write(blocks, star)
    assert load_particles(star).pixel_size == pytest.approx(1.5), (
        "a rounding difference is no other pixel size"
    )


def test_many_stacks_keep_order_and_few_open_files(tmp_path):
    images = noise(300, 8)
    for k in range(300):
        write_stack(tmp_path / f"{k}.mrcs", images[k : k + 1], 1.5)
    order = np.random.default_rng(1).permutation(300)
    star = make(tmp_path, None, rows=300, rlnImageName=[f"1@{k}.mrcs" for k in order])
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, limits[1]), limits[1]))
    try:
        particles = load_particles(star, invert=False)
        assert np.array_equal(particles.images(slice(None)), images[order])
        assert len(particles.stacks.open) <= 64
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("dtype", (np.float16, np.int8, np.int16, np.uint16))
def test_other_modes(tmp_path, dtype):
    images = (noise() * 20 + 60).astype(dtype)
    mrcfile.new(tmp_path / "s.mrcs", images).close()
    particles = load_particles(make(tmp_path, None, rows=6), invert=False)
    assert particles.images([4, 0]).dtype == torch.float32
    assert np.array_equal(particles.images([4, 0]), images[[4, 0]].astype(np.float32))


def test_big_endian_and_single_image(tmp_path):
    image = noise(1)
    with mrcfile.new(tmp_path / "s.mrcs") as mrc:
        mrc.set_data(image[0].astype(">f4"))
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
    for k, (value, word) in enumerate(
        ((np.nan, "NaN"), (np.inf, "infinity"), (None, "single grey value"))
    ):
        images = noise()
        if value is None:
            images[3] = 4.25
        else:
            images[3, 2, 2] = value
        particles = load_particles(make(tmp_path / str(k), images), invert=False)
        message = refused(particles.statistics)
        assert word in message
        assert "row 4 (4@s.mrcs)" in message
        if value is not None:
            assert "row 4" in refused(particles.images, [1, 3])


@pytest.mark.parametrize(
    "changes, word",
    (
        (dict(rlnImageName=["0@s.mrcs"] * 6), "index from 1"),
        (dict(rlnImageName=["7@s.mrcs"] * 6), "found 6 images"),
        (dict(rlnImageName=["x@s.mrcs"] * 6), "index@stack"),
        (dict(rlnDefocusU=[1e4] * 5 + [np.nan]), "rlnDefocusU"),
        (dict(rlnVoltage=300), None),
        (dict(rlnCtfDataAreCtfPremultiplied=1), None),
        (dict(rlnImagesPhaseFlipped="no"), "rlnImagesPhaseFlipped"),
        (dict(rlnOpticsGroup=3), "group 3"),
        (dict(rlnImageSize=128), "128 pixels"),
    ),
)
def test_bad_columns(tmp_path, changes, word):
    star = make(tmp_path, noise(), **changes)
    if word is None:
        assert len(load_particles(star)) == 6
    else:
        assert word in refused(lambda: load_particles(star))


def test_boxes(tmp_path):
    assert "square" in refused(lambda: load_particles(make(tmp_path, noise()[:, :12])))
    assert "even box" in refused(lambda: load_particles(make(tmp_path, noise()[:, :15, :15])))
    write_stack(tmp_path / "t.mrcs", noise(6, 8), 1.5)
    star = make(tmp_path, noise(), rlnImageName=["1@s.mrcs"] * 3 + ["1@t.mrcs"] * 3)
    assert "one box" in refused(lambda: load_particles(star))
    star = make(tmp_path, noise())
    for box in (15, 18, 2):
        assert "--box" in refused(load_particles, star, box=box)


def test_unreadable_tables(tmp_path):
    star = make(tmp_path, noise())
    good = star.read_text()
    cases = {
        "empty": "",
        "prose": "no star file\nat all\n",
        "binary": "\x00\x01data_\x02",
        "no loop": "data_particles\n",
        "short row": good + "1@s.mrcs\n",
        "long row": good + "1 " * 30 + "\n",
    }
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

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(starfile, "write", full)
    assert "No space left" in refused(lambda: write_star(particles, tmp_path / "poses.star"))
    monkeypatch.setattr(
        "builtins.open",
        lambda *args, **kwargs: type(
            "Full", (), {"write": full, "__enter__": lambda s: s, "__exit__": lambda *a: None}
        )(),
    )
    assert "No space left" in refused(
        lambda: write_map(tmp_path / "v.mrc", np.zeros((4, 4, 4)), 1.0)
    )
    monkeypatch.undo()
    assert (tmp_path / "poses.star").read_text() == "precious"
    assert not (tmp_path / "v.mrc").exists()
    assert not list(tmp_path.glob(".tmp*"))


def test_memory_stays_bounded(tmp_path):
    "A stack of 80 MB is visited in chunks; what is held beside the page cache stays far below."
    import tracemalloc

    rng = np.random.default_rng(0)
    write_stack(
        tmp_path / "s.mrcs",
        (rng.normal(size=(100, 64, 64)).astype(np.float32) for _ in range(50)),
        1.5,
    )
    particles = load_particles(make(tmp_path, None, rows=5000), invert=False)
    tracemalloc.start()
    particles.statistics(chunk=64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6
    assert particles.whole(80_000_000) is None


def test_one_particle_at_a_time(fixtures):
    particles, noise = load_particles(fixtures / "relion31.star"), torch.ones(16, 9)
    both = particles.whitened(torch.tensor([3, 7]), noise)
    for k, row in enumerate((3, 7)):
        for rows in ([row], np.array([row]), torch.tensor([row])):
            for one, of_both in zip(particles.whitened(rows, noise), both):
                assert torch.allclose(one[0], of_both[k], atol=1e-5), type(rows)


def test_a_limit_of_half_the_set_takes_as_many_of_each_half(tmp_path):
    "Every second row of a set would be one half set of it, whose halves are even and odd rows."
    particles = load_particles(simulate(tmp_path / "set", "arm", n=39, box=24, seed=1))
    one, two = particles.half_samples(20)
    assert len(one) == len(two) == 10
    assert set(one) <= set(particles.half_rows()[0]) and set(two) <= set(particles.half_rows()[1])
    weight = back_project(particles, torch.ones(24, 13), limit=20)[1].flatten(1).sum(1)
    assert weight.min() > 0.7 * weight.max()
    del particles.table["rlnRandomSubset"]
    one, two = particles.half_samples(100, rows=np.arange(5, 9))
    assert one.tolist() + two.tolist() == [6, 8, 5, 7]
    assert list(map(len, particles.half_samples(20))) == [10, 10]
    assert "two particles" in refused(consensus, particles.subset(np.arange(1)))
