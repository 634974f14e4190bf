"""One particle set as five programs' files (tests/fixtures): the same poses, CTF, images, map."""

import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from cryoformer_nb import InputError, load_particles
from cryoformer_nb.core.files import read_map, write_stack
from cryoformer_nb.imaging.ctf import ctf
from cryoformer_nb.imaging.projector import project
from cryoformer_nb.imaging.simulator import form_images
from cryoformer_nb.particles.consensus import consensus
from cryoformer_nb.particles.particles import write_star

SETS = {
    "RELION 3.0": "relion30.star",
    "RELION 3.1": "relion31.star",
    "RELION 5": "relion5.star",
    "cryoSPARC": "J7_005_particles.cs",
    "cryoDRGN": "cryodrgn",
}


def refused(call) -> str:
    "The message of the refusal: one line that says what was expected and what was found."
    with pytest.raises(InputError) as info:
        call()
    message = str(info.value)
    assert "\n" not in message
    assert "expected" in message
    assert "found" in message
    return message


def correlation(a, b) -> float:
    return float(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1])


@pytest.fixture(scope="module")
def star(fixtures):
    return load_particles(fixtures / "relion31.star")


@pytest.fixture(scope="module")
def mean_map(fixtures) -> np.ndarray:
    "The mean of the two states, six particles each."
    maps = [read_map(fixtures / "truth" / f"vol_{state:03d}.mrc")[0] for state in (0, 1)]
    return (maps[0] + maps[1]) / 2


# ---------------------------------------------------------------- the same particles from each


@pytest.fixture(scope="module", params=SETS)
def particles(request, fixtures):
    return load_particles(fixtures / SETS[request.param])


def test_box_pixel_size_and_contrast(particles):
    assert len(particles) == 12
    assert particles.box == 16
    assert particles.pixel_size == pytest.approx(4.0, abs=1e-6)
    assert particles.sign == 1


def test_rotations(particles, fixtures):
    "R takes a point of the volume to (R p)_xy of the image, whatever the file calls it."
    given = np.load(fixtures / "truth" / "rotations.npy")
    assert np.abs(particles.rotations.numpy() - given).max() < 1e-5
    # rot -12, tilt 90, psi -35 degrees: the third row is (cos 12, -sin 12, 0)
    assert particles.rotations[4, 2].tolist() == pytest.approx([0.978148, -0.207912, 0], abs=1e-5)


def test_shifts_are_pixels_of_the_image(particles, generator):
    "Pixels, A, pixels of a refinement at half the sampling, fractions of the box: all the same."
    assert particles.shifts_px[1].tolist() == pytest.approx([1.25, -0.5], abs=1e-5)
    given = np.array([row[3:5] for row in generator.ROWS])
    assert np.abs(particles.shifts_px.numpy() - given).max() < 1e-5


def test_transfer_parameters(particles, generator):
    assert particles.ctf_params[1].tolist() == pytest.approx([11500, 11500, 0, 300, 2.7, 0.1, 0])
    rows = [(*row[5:8], *generator.OPTICS[row[9]], row[8]) for row in generator.ROWS]
    assert np.allclose(particles.ctf_params.numpy(), rows, rtol=1e-5, atol=1e-4)


def test_transfer_function(particles, generator):
    "Every coefficient, against the formula in polar coordinates of tools/fixtures.py."
    ours = ctf(particles.ctf_params, 16, particles.pixel_size).numpy()
    for row, h in zip(generator.ROWS, ours):
        theirs = generator.transfer(*row[5:8], *generator.OPTICS[row[9]], row[8])
        assert np.abs(h - theirs).max() < 2e-3


def test_images(particles, fixtures):
    data = np.fromfile(fixtures / "particles.mrcs", dtype="<f4", offset=1024).reshape(12, 16, 16)
    assert np.array_equal(particles.images(slice(None)), data)
    assert np.array_equal(particles.images([7, 2]), data[[7, 2]])


def test_back_projected_map(particles, star, mean_map):
    volume = consensus(particles).volume
    assert correlation(volume, mean_map) > 0.9
    reference = consensus(star).volume
    assert (volume - reference).abs().max() < 1e-4 * reference.abs().max()


def test_half_sets(particles, request):
    "Rows 1, 3, 5 .. are half 2 in the files that have half sets; without, even and odd rows."
    first, second = (rows.tolist() for rows in particles.half_rows())
    if "cryoDRGN" in request.node.name:
        first, second = second, first
    assert first == [1, 3, 5, 7, 9, 11]
    assert second == [0, 2, 4, 6, 8, 10]


WRONG = {
    "rotations transposed": lambda p: dict(rotations=p.rotations.mT.contiguous()),
    "shifts swapped": lambda p: dict(shifts_px=p.shifts_px.flip(1)),
    "no shifts": lambda p: dict(shifts_px=0 * p.shifts_px),
    "no phase shift": lambda p: dict(ctf_params=p.ctf_params * torch.tensor([1.0] * 6 + [0.0])),
    "other hand": lambda p: dict(
        rotations=p.rotations * torch.tensor([[1.0, 1, -1], [1, 1, -1], [-1, -1, 1]])
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_convention_spoils_the_map(star, mean_map, what):
    "Twelve particles are enough to tell."
    wrong = replace(star, **WRONG[what](star))
    right = correlation(consensus(star).volume, mean_map)
    assert correlation(consensus(wrong).volume, mean_map) < right - 0.04


def test_minus_the_shifts_leaves_no_map(star):
    wrong = replace(star, shifts_px=-star.shifts_px)
    assert "found none" in refused(lambda: consensus(wrong))


# ---------------------------------------------------------------- images and their truth


def predicted(fixtures, particles, rotations, shifts_px, method="slice"):
    "Each image from the true map of its state."
    labels, out = np.load(fixtures / "truth" / "labels.npy"), []
    for k, state in enumerate(labels.astype(int)):
        volume = torch.tensor(read_map(fixtures / "truth" / f"vol_{state:03d}.mrc")[0])
        out.append(project(volume, rotations[k : k + 1], shifts_px[k : k + 1], 16, method))
    return form_images(torch.cat(out), ctf(particles.ctf_params, 16, particles.pixel_size))


@pytest.mark.parametrize("method", ["slice", "ray", "splat"])
def test_images_are_projections_of_the_true_maps(fixtures, star, method):
    R, t, images = star.rotations, star.shifts_px, star.images(slice(None))
    for mine, theirs in zip(predicted(fixtures, star, R, t, method), images):
        assert correlation(mine, theirs) > 0.88
    assert correlation(predicted(fixtures, star, R, t, method), images) > 0.95


def test_wrong_poses_do_not_predict_the_images(fixtures, star):
    R, t, images = star.rotations, star.shifts_px, star.images(slice(None))
    assert correlation(predicted(fixtures, star, R.mT, t), images) < 0.8
    assert correlation(predicted(fixtures, star, R, -t), images) < 0.5
    assert correlation(predicted(fixtures, star, R, t.flip(1)), images) < 0.6


def test_what_is_left_is_white_noise_of_the_stated_size(fixtures, star, generator):
    clean = predicted(fixtures, star, star.rotations, star.shifts_px)
    images = star.images(slice(None))
    clean = clean * ((clean * images).sum() / clean.square().sum())
    residual = (images - clean).numpy()
    assert residual.std() == pytest.approx(generator.NOISE, rel=0.05)
    power = np.abs(np.fft.fft2(residual)).mean(0)
    low, high = power[:4, :4].mean(), power[6:10, 6:10].mean()
    assert low == pytest.approx(high, rel=0.25)


def test_contrast_follows_the_data(fixtures, tmp_path, star):
    "Twelve images are enough."
    assert "bright (third moment" in star.notes[0]
    shutil.copy(fixtures / "relion31.star", tmp_path)
    dark = 5 - 3 * star.images(slice(None))
    write_stack(tmp_path / "particles.mrcs", dark.numpy(), star.pixel_size)
    found = load_particles(tmp_path / "relion31.star")
    assert found.sign == -1 and "dark, inverted (third moment" in found.notes[0]


def test_a_smaller_box(fixtures, star):
    small = load_particles(fixtures / "relion31.star", box=8)
    assert small.pixel_size == 8
    assert torch.allclose(small.shifts_px * 2, star.shifts_px)
    assert small.images([0]).shape == (1, 8, 8)
    assert small.images([0]).mean() == pytest.approx(star.images([0]).mean().item(), abs=1e-5)


def test_support_keeps_both_states(fixtures, star):
    support = consensus(star).support.numpy()
    for state in (0, 1):
        volume, _ = read_map(fixtures / "truth" / f"vol_{state:03d}.mrc")
        assert (volume * support).sum() / volume.sum() > 0.95
    assert support.mean() < 0.5


# ---------------------------------------------------------------- numbers of other programs

#: Axis times angle in alignments3D/pose of rows 0, 1 and 1000 of cryoDRGN's test file
#: cryosparc_P12_J24_001_particles.cs (box 180), shifts in pixels, and what cryoDRGN's
#: parse_pose_csparc made of them (pose.cs.pkl).
CRYOSPARC = [
    ([2.3386633, -0.25595567, -1.2236784], [11.334375, -1.828125]),
    ([-1.0133039, -2.72435, -1.9319392], [1.265625, -4.640625]),
    ([1.7285773, 0.0035062, -1.7636396], [5.540625, -2.334375]),
]
CRYODRGN_OF_IT = [
    [
        [0.5816298, -0.3773045, -0.7206581],
        [0.0568315, -0.8649117, 0.4986967],
        [-0.8114659, -0.331013, -0.4816158],
    ],
    [
        [-0.776346, 0.6286885, 0.0451415],
        [0.2505589, 0.2421032, 0.93734],
        [0.578366, 0.7390107, -0.3454792],
    ],
    [
        [0.090844, -0.4428897, -0.8919618],
        [0.4464328, -0.7825149, 0.4340136],
        [-0.8901938, -0.4376285, 0.1266339],
    ],
]
FRACTIONS = [[0.0629688, -0.0101562], [0.0070312, -0.0257812], [0.0307813, -0.0129687]]


@pytest.fixture
def three(fixtures, tmp_path):
    "A copy of the cryoSPARC files whose first three poses are those of the foreign file."
    for name in ("J7_005_particles.cs", "J7_passthrough_particles.cs", "particles.mrcs"):
        shutil.copy(fixtures / name, tmp_path / name)
    data = np.load(tmp_path / "J7_005_particles.cs")
    for k, (pose, shift) in enumerate(CRYOSPARC):
        data["alignments3D/pose"][k] = pose
        # fractions of a box of 180 px, as pixels of 8 A in a box of 64 A
        data["alignments3D/shift"][k] = np.array(shift) / 180 * 8
    with open(tmp_path / "J7_005_particles.cs", "wb") as file:
        np.save(file, data)
    return tmp_path


def test_cryosparc_poses_are_what_cryodrgn_read(three):
    particles = load_particles(three / "J7_005_particles.cs")
    assert np.abs(particles.rotations[:3].numpy() - CRYODRGN_OF_IT).max() < 1e-5
    assert np.abs(particles.shifts_px[:3].numpy() / 16 - FRACTIONS).max() < 1e-6


def test_poses_of_one_program_for_the_images_of_another(fixtures, three, star):
    mixed = load_particles(fixtures / "relion30.star", poses=three / "J7_005_particles.cs")
    assert np.abs(mixed.rotations[:3].numpy() - CRYODRGN_OF_IT).max() < 1e-5
    assert torch.allclose(mixed.ctf_params, star.ctf_params)
    poses = fixtures / "cryodrgn" / "poses.pkl"
    stack = load_particles(
        fixtures / "particles.mrcs", poses=poses, ctf=fixtures / "cryodrgn" / "ctf.pkl"
    )
    assert torch.allclose(stack.shifts_px, star.shifts_px, atol=1e-5)
    turned = load_particles(three / "J7_005_particles.cs", poses=poses)
    assert torch.allclose(turned.rotations, star.rotations, atol=1e-5)


# ---------------------------------------------------------------- written and read again


@pytest.mark.parametrize("name", SETS.values())
def test_poses_written_as_star_are_read_again(fixtures, tmp_path, name):
    particles = load_particles(fixtures / name)
    again = load_particles(write_star(particles, tmp_path / "poses.star"), datadir=fixtures)
    assert torch.allclose(again.rotations, particles.rotations, atol=1e-5)
    assert torch.allclose(again.shifts_px, particles.shifts_px, atol=1e-4)
    assert torch.allclose(again.ctf_params, particles.ctf_params, rtol=1e-5, atol=1e-3)
    assert torch.equal(again.images([11]), particles.images([11]))


def test_pixel_origins_keep_their_unit(fixtures, tmp_path):
    "RELION's own projector writes rlnOriginX in pixels beside data_optics."
    text = (fixtures / "relion31.star").read_text().replace("Angst #", " #")
    (tmp_path / "set.star").write_text(text)
    particles = load_particles(tmp_path / "set.star", datadir=fixtures)
    assert particles.shifts_px[1].tolist() == [5, -2]
    moved = write_star(particles, tmp_path / "again.star", shifts_px=particles.shifts_px + 2)
    again = load_particles(moved, datadir=fixtures)
    assert again.shifts_px[1].tolist() == pytest.approx([7, 0], abs=1e-5)
    assert "rlnOriginXAngst" not in again.table


# ---------------------------------------------------------------- files that lack something


@pytest.mark.parametrize(
    "name, old, new, word",
    [
        ("relion30.star", "_rlnAmplitudeContrast", "_rlnOther", "rlnAmplitudeContrast"),
        ("relion30.star", "_rlnVoltage", "_rlnOther", "no column rlnVoltage"),
        ("relion30.star", "_rlnMagnification", "_rlnOther", "pixel size"),
        ("relion30.star", "particles.mrcs", "sample.mrcs", "stack sample.mrcs"),
        ("relion31.star", "_rlnAngle", "_rlnOther", "rlnAngleRot, rlnAngleTilt, rlnAnglePsi"),
        ("relion31.star", "_rlnDefocus", "_rlnOther", "rlnDefocusU"),
        ("relion31.star", "12@particles", "13@particles", "13 of particles.mrcs"),
        ("relion31.star", "data_particles", "data_particles\n\nloop_", "expected"),
        ("relion5.star", "   16            2", "   18            2", "18 pixels"),
    ],
)
def test_star_file_that_lacks_something(fixtures, tmp_path, name, old, new, word):
    text = (fixtures / name).read_text()
    assert old in text, "the damage is done"
    (tmp_path / name).write_text(text.replace(old, new))
    message = refused(lambda: load_particles(tmp_path / name, datadir=fixtures))
    assert word in message


def test_two_pixel_sizes(fixtures, tmp_path):
    head, _, rest = (fixtures / "relion31.star").read_text().partition("opticsGroup2")
    rest = rest.replace("4.000000", "1.240000", 1)
    (tmp_path / "set.star").write_text(head + "opticsGroup2" + rest)
    message = refused(lambda: load_particles(tmp_path / "set.star", datadir=fixtures))
    assert "found 1.24, 4 A" in message


@pytest.mark.parametrize(
    "field, new, word",
    [
        ("alignments3D/pose", "other/pose", "alignments3D/pose), found alignments3D"),
        ("alignments3D", "alignments2D", "found alignments2D"),
        ("alignments3D", "other", "found no alignments"),
        ("blob/path", "other/path", "blob/path"),
    ],
)
def test_cryosparc_file_that_lacks_something(three, field, new, word):
    data = np.load(three / "J7_005_particles.cs")
    data.dtype.names = [n.replace(field, new) for n in data.dtype.names]
    with open(three / "J7_005_particles.cs", "wb") as file:
        np.save(file, data)
    assert word in refused(lambda: load_particles(three / "J7_005_particles.cs"))


def test_cryosparc_file_without_its_passthrough(three):
    (three / "J7_passthrough_particles.cs").unlink()
    assert "ctf/" in refused(lambda: load_particles(three / "J7_005_particles.cs"))


def test_cryosparc_file_without_its_stack(three):
    (three / "particles.mrcs").unlink()
    assert "--datadir" in refused(lambda: load_particles(three / "J7_005_particles.cs"))


def test_stack_without_poses_or_transfer_function(fixtures):
    stack, poses = fixtures / "particles.mrcs", fixtures / "cryodrgn" / "poses.pkl"
    ctf_file = fixtures / "cryodrgn" / "ctf.pkl"
    assert "no poses (--pose-pkl) and no CTF (--ctf-pkl)" in refused(lambda: load_particles(stack))
    assert "no CTF (--ctf-pkl)" in refused(lambda: load_particles(stack, poses=poses))
    assert "no poses (--pose-pkl)" in refused(lambda: load_particles(stack, ctf=ctf_file))
    assert "is it the pose pickle?" in refused(
        lambda: load_particles(stack, poses=poses, ctf=poses)
    )
    assert "found '.pkl'" in refused(lambda: load_particles(poses))
    passthrough = fixtures / "J7_passthrough_particles.cs"
    assert "--passthrough" in refused(lambda: load_particles(stack, passthrough=passthrough))


def test_pickles_of_another_stack(fixtures, tmp_path):
    stack, folder = fixtures / "particles.mrcs", fixtures / "cryodrgn"
    rotations, shifts = pickle.loads((folder / "poses.pkl").read_bytes())
    (tmp_path / "poses.pkl").write_bytes(pickle.dumps((rotations[:7], shifts[:7])))
    values = pickle.loads((folder / "ctf.pkl").read_bytes())
    (tmp_path / "ctf.pkl").write_bytes(pickle.dumps(values[:7]))
    few = dict(poses=tmp_path / "poses.pkl", ctf=folder / "ctf.pkl")
    assert "poses of 12 images, found 7" in refused(lambda: load_particles(stack, **few))
    few = dict(poses=folder / "poses.pkl", ctf=tmp_path / "ctf.pkl")
    assert "CTF of 12 images, found 7" in refused(lambda: load_particles(stack, **few))


def test_folder_without_particles_or_with_two_poses(fixtures, tmp_path):
    for name in ("poses.pkl", "ctf.pkl"):
        shutil.copy(fixtures / "cryodrgn" / name, tmp_path / name)
    assert "expected particles (*.txt" in refused(lambda: load_particles(tmp_path))
    shutil.copy(fixtures / "particles.mrcs", tmp_path / "particles.mrcs")
    assert len(load_particles(tmp_path)) == 12
    shutil.copy(tmp_path / "poses.pkl", tmp_path / "old_poses.pkl")
    assert "expected one file of poses" in refused(lambda: load_particles(tmp_path))


# ---------------------------------------------------------------- the fixtures themselves


def test_fixtures_are_what_the_script_writes(fixtures, generator, tmp_path):
    generator.write(tmp_path)

    def names(folder):
        return {p.relative_to(folder) for p in folder.rglob("*") if p.is_file()}

    assert names(tmp_path) == names(fixtures)
    for name in names(tmp_path):
        mine, kept = (tmp_path / name), (fixtures / name)
        if name.suffix in (".star", ".pdb", ".cif", ".txt"):
            assert mine.read_text() == kept.read_text(), f"{name} is not what the script writes"
        elif name.suffix in (".mrc", ".mrcs"):
            arrays = [np.fromfile(p, dtype="<f4", offset=1024) for p in (mine, kept)]
            assert np.allclose(*arrays, atol=1e-6), f"{name} is not what the script writes"


def test_fixtures_are_small(fixtures):
    assert sum(p.stat().st_size for p in fixtures.rglob("*") if p.is_file()) < 300_000


def test_a_column_says_that_images_were_premultiplied(fixtures, tmp_path):
    text = (fixtures / "relion5.star").read_text()
    shutil.copy(fixtures / "particles.mrcs", tmp_path)
    (tmp_path / "set.star").write_text(text.replace("           0\n", "           1\n"))
    assert (load_particles(tmp_path / "set.star", invert=False).source.applied == 2).all()
