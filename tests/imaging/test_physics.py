"""The forward model against RELION's projections, a set simulated elsewhere, other formulas.

A wrong convention (a transposed rotation, a flipped shift or angle) must fail by a wide margin,
so every check also measures the wrong choice.
"""

import numpy as np
import pytest
import starfile
import torch

from cryoformer_nb.core.conventions import InputError
from cryoformer_nb.core.files import read_map
from cryoformer_nb.core.fourier import fourier_crop3, rfft2c, shell_index
from cryoformer_nb.core.rotations import (
    euler_to_matrix,
    matrix_to_euler,
    random_rotations,
    rotvec_to_matrix,
)
from cryoformer_nb.imaging.ctf import ctf
from cryoformer_nb.imaging.density import gaussian_projection, gaussian_volume
from cryoformer_nb.imaging.projector import image_positions, lattice_coordinates, project, splat
from cryoformer_nb.imaging.simulator import form_images, simulate
from cryoformer_nb.imaging.structures import atoms_to_map, load_atoms, load_models
from cryoformer_nb.imaging.truth import true_volumes


def correlation(a, b) -> float:
    return float(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1])


# RELION's own projections

pytestmark = pytest.mark.filterwarnings("ignore:.*holds no pixel size")


def relion_set(shared, name):
    import mrcfile

    tables = starfile.read(shared(f"relion_projections/{name}.star"))
    p = tables["particles"]
    origin = (
        "rlnOrigin{}" if "rlnOriginX" in p else "rlnOrigin{}Angst"
    )  # RELION 3.0: pixels; later: Angstrom. The pixel size of this set is 1 A.
    R = euler_to_matrix(
        torch.tensor(p[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].values, dtype=torch.float32)
    )
    t = torch.tensor(p[[origin.format("X"), origin.format("Y")]].values, dtype=torch.float32)
    with mrcfile.open(shared(f"relion_projections/{name}.mrcs"), permissive=True) as m:
        images = np.array(m.data)
    volume, _ = read_map(shared("relion_projections/clean70SRibosome_vol_65p.mrc"), any_box=True)
    return fourier_crop3(torch.tensor(volume), 64), R, t, images


@pytest.mark.parametrize("name", ["rln_proj_64_centered", "rln_proj_64_shifted"])
@pytest.mark.parametrize("method,least", [("slice", 0.999), ("ray", 0.98), ("splat", 0.98)])
def test_relion_projections(shared, name, method, least):
    volume, R, t, images = relion_set(shared, name)
    assert (t.abs().max() > 5) == ("shifted" in name)
    for mine, theirs in zip(project(volume, R, t, 64, method), images):
        assert correlation(mine, theirs) > least
    for mine, theirs in zip(project(volume, R.mT, t, 64, method), images):
        assert correlation(mine, theirs) < 0.5, "a transposed rotation must not pass"
    if "shifted" in name:
        for wrong in (-t, t.flip(1)):
            for mine, theirs in zip(project(volume, R, wrong, 64, method), images):
                assert correlation(mine, theirs) < 0.7, "a wrong shift must not pass"
    mirrored = project(volume.flip(0), R, t, 64, method)
    assert max(correlation(a, b) for a, b in zip(mirrored, images)) < 0.8, (
        "the other hand must not pass"
    )


def test_relion_euler_angles_round_trip(shared):
    _, R, _, _ = relion_set(shared, "rln_proj_64_centered")
    assert torch.allclose(euler_to_matrix(matrix_to_euler(R)), R, atol=1e-5)


# A set simulated by another program


@pytest.fixture(scope="module")
def adk(shared):
    import mrcfile

    folder = shared("adk")
    n = 400
    tables = starfile.read(folder / "particles.star")
    p, o = tables["particles"][:n], tables["optics"].iloc[0]
    with mrcfile.mmap(folder / "particles.mrcs", permissive=True) as m:
        images = torch.tensor(np.array(m.data[:n]))
    constant = [
        float(o[c]) for c in ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")
    ]
    params = torch.tensor(
        np.c_[
            p[["rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"]].values,
            np.tile(constant + [0], (n, 1)),
        ],
        dtype=torch.float32,
    )
    R = euler_to_matrix(
        torch.tensor(p[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].values, dtype=torch.float32)
    )
    t = torch.tensor(p[["rlnOriginXAngst", "rlnOriginYAngst"]].values / 1.5, dtype=torch.float32)
    truth = folder / "truth"
    assert np.allclose(R, np.load(truth / "rotations.npy")[:n], atol=1e-4) and np.allclose(
        t, np.load(truth / "shifts_px.npy")[:n], atol=1e-4
    )
    with np.load(truth / "atoms.npz") as z:
        xyz, weight = torch.tensor(z["xyz"]), torch.tensor(z["weight"])
    labels = np.load(truth / "labels.npy")[:n]

    def predict(R, t, params):
        centres = xyz[labels] @ R.mT
        centres[..., :2] -= t[:, None] * 1.5
        images = gaussian_projection(centres, weight, 1.5, 64, 1.5)
        return form_images(images, None if params is None else ctf(params, 64, 1.5))

    return truth, images, R, t, params, predict


@pytest.mark.slow
def test_adk_images_are_signal_plus_white_noise(adk):
    _, images, R, t, params, predict = adk
    clean = predict(R, t, params)
    clean = clean * ((clean * images).sum() / clean.square().sum())
    residual = images - clean
    assert abs(float(clean.var() / residual.var()) - 0.1) < 0.005, (
        "the stated signal-to-noise ratio"
    )
    assert abs(correlation(clean, images) - (0.1 / 1.1) ** 0.5) < 0.01, (
        "as much correlation as that ratio allows"
    )
    shells = shell_index(64, 2).flatten()
    power = (
        torch.bincount(shells, rfft2c(residual).abs().square().mean(0).flatten())
        / torch.bincount(shells)
        / (residual.var() * 64**2)
    )
    assert (power[1:33] - 1).abs().max() < 0.08 and abs(float(power[1:33].mean()) - 1) < 0.01, (
        "white: nothing of the signal is left in any shell"
    )


@pytest.mark.slow
def test_adk_wrong_conventions_lose_the_signal(adk):
    _, images, R, t, params, predict = adk
    right = correlation(predict(R, t, params), images)
    for wrong in (
        predict(R.mT, t, params),
        predict(R, -t, params),
        predict(R, t.flip(1), params),
        predict(R, t, None),
    ):
        assert correlation(wrong, images) < 0.8 * right
    turned = params.clone()
    turned[:, 2] *= -1
    assert correlation(predict(R, t, turned), images) < right, (
        "the astigmatism's angle: a small effect, of known direction"
    )


def test_adk_volumes_are_the_sum_of_gaussians(adk):
    truth, *_ = adk
    for state in (0, 42, 97):
        stored, pixel_size = read_map(truth / f"vol_{state:03d}.mrc")
        mine = true_volumes(truth, [state])[0].numpy()
        assert pixel_size == 1.5 and correlation(mine, stored) > 0.999
        assert correlation(mine.transpose(2, 1, 0), stored) < 0.9
    half = true_volumes(truth, [42, 0], box=32)
    assert half.shape == (2, 32, 32, 32) and torch.allclose(
        half, fourier_crop3(true_volumes(truth, [42, 0]), 32), atol=1e-6
    )
    with pytest.raises(InputError, match="97"):
        true_volumes(truth, [98])


# The transfer function, written a second time


def ctf_by_the_book(u, v, angle, kv, cs, w, phase, box, pixel_size):
    "In float64, in polar coordinates, from the phase chi of the aberrated wave, RELION's sign."
    h, m, e, c = 6.62607015e-34, 9.1093837015e-31, 1.602176634e-19, 299792458.0
    energy = e * kv * 1e3
    wavelength = h * c / np.sqrt(energy * (2 * m * c**2 + energy)) * 1e10
    ky, kx = np.meshgrid(
        np.fft.fftfreq(box, pixel_size), np.fft.rfftfreq(box, pixel_size), indexing="ij"
    )
    k, theta = np.hypot(kx, ky), np.arctan2(ky, kx)
    defocus = (
        u * np.cos(theta - np.deg2rad(angle)) ** 2 + v * np.sin(theta - np.deg2rad(angle)) ** 2
    )
    chi = np.pi * wavelength * k**2 * (
        defocus - 0.5 * cs * 1e7 * wavelength**2 * k**2
    ) + np.deg2rad(phase)
    return np.sqrt(1 - w**2) * np.sin(chi) + w * np.cos(chi)


CTFS = [
    (15000, 12000, 25, 300, 2.7, 0.1, 0),
    (8000, 11000, -70, 200, 2.0, 0.07, 0),
    (30000, 29500, 135, 120, 0.01, 0.15, 90),
]


@pytest.mark.parametrize("params", CTFS)
def test_ctf_independent_formula(params):
    mine = ctf(torch.tensor([params], dtype=torch.float64), 96, 1.2)[0].numpy()
    assert (
        np.abs(mine - ctf_by_the_book(*params, 96, 1.2)).max() < 1e-3
    )  # frequencies are float32, and phases reach 1000 radians
    single = ctf(torch.tensor([params], dtype=torch.float32), 96, 1.2)[0].numpy()
    assert np.abs(single - mine).max() < 2e-3
    turned = ctf_by_the_book(*params[:2], -params[2], *params[3:], 96, 1.2)
    assert np.abs(mine - turned).max() > 0.1


@pytest.mark.parametrize("params", CTFS)
def test_ctf_against_torch_ctf(params):
    torch_ctf = pytest.importorskip(
        "torch_ctf", reason="torch-ctf is not installed; it is only an extra witness"
    )
    u, v, angle, kv, cs, w, phase = map(float, params)
    if u < v:
        u, v, angle = v, u, angle + 90  # it gives NaN otherwise
    theirs = torch_ctf.calculate_ctf_2d(
        (u + v) / 2e4, (u - v) / 2e4, angle, kv, cs, w, phase, 1.2, (96, 96), True, False
    )
    mine = ctf(torch.tensor([params], dtype=torch.float32), 96, 1.2)[0]
    assert (mine - theirs).abs().max() < 5e-3


# Projectors


def test_projection_against_torch_fourier_slice():
    other = pytest.importorskip(
        "torch_fourier_slice",
        reason="torch-fourier-slice is not installed; it is only an extra witness",
    )
    volume = blob_volume(32)
    R = random_rotations(4, torch.Generator().manual_seed(3))
    for mine, theirs in zip(
        project(volume, R, torch.zeros(4, 2), 32, "slice"), other.project_3d_to_2d(volume, R.mT)
    ):  # it takes the transpose
        assert correlation(mine, theirs) > 0.999
    wrong = other.project_3d_to_2d(volume, R)
    assert (
        min(
            correlation(a, b)
            for a, b in zip(project(volume, R, torch.zeros(4, 2), 32, "slice"), wrong)
        )
        < 0.9
    )


def blobs(dtype=torch.float32):
    t = torch.linspace(0, 1, 25, dtype=dtype)
    return torch.stack([6 * torch.cos(8 * t) + 1, 5 * torch.sin(8 * t), 16 * t - 7], -1), 1 + t


def blob_volume(box):
    return gaussian_volume(*blobs(), 1.5, box, 1.0)


def test_float64_projection_converges_to_the_closed_form():
    "Ray sums of a callable density leave only rounding."
    from cryoformer_nb.imaging.density import gaussian_density

    centres, weights = blobs(torch.float64)
    g = torch.Generator().manual_seed(0)
    R = rotvec_to_matrix(torch.randn(3, 3, generator=g, dtype=torch.float64))
    t = torch.randn(3, 2, generator=g, dtype=torch.float64)
    moved = centres @ R.mT
    moved[..., :2] -= t[:, None]
    exact = gaussian_projection(moved, weights, 1.5, 48, 1.0)
    rays = project(lambda p: gaussian_density(p, centres, weights, 1.5), R, t, 48, "ray")
    assert (rays - exact).abs().max() < 1e-10 * exact.max()


def test_splat_needs_no_gradient_of_what_is_fixed():
    coords = lattice_coordinates(32)[::700] * 0.5
    values = torch.rand(2, len(coords), requires_grad=True)
    R, t = random_rotations(2, torch.Generator().manual_seed(0)), torch.zeros(2, 2)
    image = splat(values, image_positions(coords, R, t), 32)
    image.square().sum().backward()
    assert values.grad.shape == values.shape and image.shape == (2, 32, 32)
    t.requires_grad_()
    splat(values.detach(), image_positions(coords, R, t), 32).square().sum().backward()
    assert t.grad.abs().max() > 0


def test_splat_where_everything_falls_outside():
    values, far = torch.ones(1, 4, requires_grad=True), torch.full((1, 4, 2), 1e6)
    image = splat(values, far, 16)
    image.sum().backward()
    assert image.abs().max() == 0 and values.grad.abs().max() == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_projectors_on_a_gpu():
    volume, R = blob_volume(32), random_rotations(4, torch.Generator().manual_seed(1))
    t = torch.randn(4, 2, generator=torch.Generator().manual_seed(2))
    for method in ("ray", "slice", "splat"):
        there, here = (
            project(volume.cuda(), R.cuda(), t.cuda(), 32, method).cpu(),
            project(volume, R, t, 32, method),
        )
        assert (there - here).abs().max() < 1e-4 * here.max()
    assert torch.allclose(
        ctf(torch.tensor([CTFS[0]]).cuda(), 64, 1.5).cpu(),
        ctf(torch.tensor([CTFS[0]]), 64, 1.5),
        atol=1e-3,
    )


# Atoms


def test_structures_of_both_formats(shared):
    for name in ("structures/adk_open.pdb", "structures/1uao.pdb", "structures/8zpm.cif"):
        xyz, weights, elements = load_atoms(shared(name))
        assert (
            xyz.shape == (len(elements), 3)
            and len(weights) == len(elements)
            and "H" not in elements
            and weights.min() >= 0
        )
    xyz, weights, _ = load_atoms(shared("structures/adk_open.pdb"))
    assert len(xyz) == 1656 and set(weights.tolist()) == {6, 7, 8, 16}, (
        "a file without element column: CA is carbon, HE is hydrogen"
    )
    scattering = atoms_to_map(shared("structures/adk_open.pdb"), 64, 1.5, 5.0)
    model = gaussian_volume(xyz - xyz.mean(0), weights, 0.225 * 5.0 * 1.05, 64, 1.5)
    assert (
        correlation(scattering, model) > 0.98
        and correlation(scattering, model.transpose(0, 2)) < 0.9
    )
    with pytest.raises(InputError, match="larger box"):
        atoms_to_map(shared("structures/adk_open.pdb"), 32, 1.0, 5.0)


def test_simulate_from_a_structure(shared, tmp_path):
    star = simulate(
        tmp_path / "set",
        preset=shared("structures/adk_closed.pdb"),
        n=20,
        box=32,
        pixel_size=3.0,
        seed=1,
    )
    assert len(starfile.read(star)["particles"]) == 20
    assert np.load(tmp_path / "set/truth/labels.npy").max() == 0, "one model: a homogeneous set"
    assert len(list((tmp_path / "set/truth").glob("vol_*.mrc"))) == 1
    again = simulate(
        tmp_path / "again",
        preset=tmp_path / "set/truth/atoms.npz",
        n=20,
        box=32,
        pixel_size=3.0,
        seed=1,
    )
    assert np.allclose(read_stack(star), read_stack(again), atol=1e-3), (
        "atoms.npz reproduces its own set"
    )


def read_stack(star):
    import mrcfile

    return mrcfile.read(star.with_suffix(".mrcs"))


def test_models_of_a_file_are_states(tmp_path):
    atom = "ATOM  {:5d}  CA  ALA A{:4d}    {:8.3f}{:8.3f}{:8.3f}  1.00 20.00           C"
    models = [
        f"MODEL     {m + 1:4d}\n"
        + "\n".join(atom.format(i + 1, i + 1, 4 * i, m, 0) for i in range(3))
        + "\nENDMDL"
        for m in range(2)
    ]
    (tmp_path / "two.pdb").write_text("\n".join(models) + "\nEND\n")
    xyz, weights, _ = load_models(tmp_path / "two.pdb")
    assert (
        xyz.shape == (2, 3, 3)
        and (xyz[1] - xyz[0])[..., 1].eq(1).all()
        and weights.tolist() == [6, 6, 6]
    )


@pytest.mark.parametrize(
    "wrong,expected",
    [
        ({"preset": "leg"}, "arm, spike"),
        ({"n": 0}, "n = 0"),
        ({"box": 63}, "even"),
        ({"snr": -1}, "positive"),
        ({"pixel_size": 0.5}, "larger box"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**60}, "seed"),
    ],
)
def test_simulate_refuses(tmp_path, wrong, expected):
    with pytest.raises(InputError, match=expected) as caught:
        simulate(tmp_path / "x", **{"n": 5, "box": 32, **wrong})
    assert "\n" not in str(caught.value) and not (tmp_path / "x").exists()
