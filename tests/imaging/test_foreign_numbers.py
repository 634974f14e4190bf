"""RELION's projections as 8 x 8 numbers an image, and values of the transfer function."""

import numpy as np
import pytest
import torch

from cryoformer_nb.core.rotations import euler_to_matrix
from cryoformer_nb.imaging.ctf import ctf
from cryoformer_nb.imaging.density import gaussian_projection, gaussian_volume
from cryoformer_nb.imaging.projector import project

# ---------------------------------------------------------------- RELION's projector

#: rot, tilt, psi (degrees), origin x, y (pixels) of ASPIRE's test file rln_proj_64_shifted.star:
#: projections of a ribosome by relion_project.
POSES = [
    [235.820138, 113.08603, 50.468981, 6.0, 10.0],
    [86.698555, 31.958115, 139.545228, 10.0, -5.0],
    [48.456166, 71.176316, 185.30483, -8.0, 11.0],
    [215.714386, 105.017323, 154.043384, -13.0, -3.0],
]
#: The means of its images over blocks of 8 x 8 pixels, first row y = -32 .. -25; 99 is the highest.
# fmt: off
IMAGES = [
    [
        [-2, -30, -37, 21, -13, -19, -1, 0],
        [-18, -25, 99, 47, 39, -25, -1, -1],
        [-24, 30, 41, 40, 44, -20, -8, -1],
        [-23, 8, 46, 12, -11, 31, 0, 1],
        [-6, -15, 23, 5, -48, -7, -1, 0],
        [0, -8, -2, 46, -12, 0, -1, -1],
        [-1, -1, 0, 0, 0, 0, -1, -2],
        [0, -1, -4, -9, -3, -1, 1, 0],
    ],
    [
        [-1, -1, 0, -1, 1, 0, -1, -1],
        [1, -1, -12, -11, 0, 0, -1, 0],
        [-14, -21, -4, -14, -27, -6, 0, -1],
        [-33, 55, 60, 52, 21, -26, 0, -1],
        [-18, 47, 40, 33, 41, -15, -2, -3],
        [-34, 33, 32, 2, -7, 1, 0, -4],
        [25, -19, -12, 53, -28, -4, -1, -1],
        [0, -9, -16, 8, -2, -1, 1, 0],
    ],
    [
        [-1, -1, -6, -43, 5, -12, -25, -4],
        [0, -1, -29, 60, 46, 31, 19, -38],
        [-1, -4, -1, 56, 29, 67, 42, -14],
        [-2, -1, -18, 26, 59, -23, 37, 17],
        [0, 0, -11, -31, 9, -47, 1, 10],
        [0, -1, 0, -2, 1, -10, -5, 0],
        [-1, 0, -1, 0, 0, 0, -1, 0],
        [-1, 0, -1, -2, -12, -11, -3, -1],
    ],
    [
        [0, 0, 0, -1, 0, -1, -1, -1],
        [0, -1, -1, -1, -6, -5, -3, 0],
        [-3, 1, -1, -19, -23, -13, -28, -19],
        [6, 1, -14, 17, 45, 76, -65, 6],
        [3, 0, -22, 20, 66, 50, 80, 55],
        [-11, 1, -8, -28, 48, 52, 28, -10],
        [-1, -1, -1, -21, -10, -11, -15, -30],
        [-1, -1, -1, -1, -8, -12, -8, 0],
    ],
]
#: The ribosome as fourteen Gaussians of 6 pixels, x, y, z (pixels from the centre) and weight:
#: fitted to the volume that RELION projected, without looking at the images.
BLOBS = [
    [5, -8, -8, -4.4],
    [8, -6, 11, 5.6],
    [-6, 3, 5, 0.9],
    [-6, 9, -6, 8.8],
    [23, 0, -1, 1.0],
    [-10, -1, -9, 2.3],
    [4, -5, -5, 8.4],
    [0, 6, -13, 6.8],
    [-10, 11, -9, -5.2],
    [2, 9, -16, -4.0],
    [8, -6, 5, -7.1],
    [-2, 4, -6, -10.0],
    [-10, -6, 5, 1.2],
    [5, 5, 2, 2.6],
]
# fmt: on


def correlations(ours) -> np.ndarray:
    "Of each image (4, 64, 64), in blocks, with RELION's."
    blocks = np.asarray(ours).reshape(4, 8, 8, 8, 8).mean((2, 4))
    pairs = zip(blocks, np.array(IMAGES))
    return np.array([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs])


def closed_form(R, t):
    "Projections of the Gaussians."
    blobs = torch.tensor(BLOBS)
    centres = blobs[:, :3] @ R.mT
    centres[..., :2] -= t[:, None]
    return gaussian_projection(centres, blobs[:, 3], 6.0, 64, 1.0)


@pytest.fixture(scope="module")
def poses():
    values = torch.tensor(POSES)
    return euler_to_matrix(values[:, :3]), values[:, 3:]


def test_closed_form_resembles_the_images_of_relion(poses):
    assert correlations(closed_form(*poses)).min() > 0.75


@pytest.mark.parametrize("method", ["slice", "ray", "splat"])
def test_projector_resembles_the_images_of_relion(poses, method):
    blobs = torch.tensor(BLOBS)
    volume = gaussian_volume(blobs[:, :3], blobs[:, 3], 6.0, 64, 1.0)
    assert correlations(project(volume, *poses, 64, method)).min() > 0.75


MIRROR = torch.diag(torch.tensor([1.0, 1.0, -1.0]))
WRONG = {
    "transposed": lambda R, t: (R.mT, t),
    "other hand": lambda R, t: (R @ MIRROR, t),
    "minus the shift": lambda R, t: (R, -t),
    "x and y of the shift swapped": lambda R, t: (R, t.flip(1)),
    "no shift": lambda R, t: (R, 0 * t),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_conventions_do_not(poses, what):
    assert correlations(closed_form(*WRONG[what](*poses))).max() < 0.65


# ---------------------------------------------------------------- transfer function

#: Voltage (kV) and electron wavelength (A), as tabulated in textbooks of electron microscopy.
WAVELENGTHS = {300: 0.019687, 200: 0.025079, 120: 0.033492}

#: u, v, angle, kV, mm, amplitude contrast, phase shift; frequency x, y (1/A); value.
#: CTFFIND4's formula (Rohou and Grigorieff 2015, eq. 2 to 4), times -1 for bright particles, in
#: double precision by hand.
VALUES = [
    ((15000, 12000, 25, 300, 2.7, 0.1, 0), (0.05, 0.0), 0.72215),
    ((15000, 12000, 25, 300, 2.7, 0.1, 0), (0.0, 0.05), 0.89350),
    ((15000, 12000, 25, 300, 2.7, 0.1, 0), (0.05, 0.05), -0.99595),
    ((8000, 11000, -70, 200, 2.0, 0.07, 0), (0.1, -0.05), 0.15592),
    ((30000, 29500, 135, 120, 0.01, 0.15, 90), (0.0, 0.1), 0.99932),
]


@pytest.mark.parametrize("params, frequency, value", VALUES)
def test_value_of_the_transfer_function(params, frequency, value):
    "Box 80 at 1 A: frequencies are multiples of 1/80 A."
    x, y = (round(80 * f) for f in frequency)
    h = ctf(torch.tensor([params], dtype=torch.float64), 80, 1.0)[0]
    assert h[y % 80, x].item() == pytest.approx(value, abs=2e-4)
    assert h[0, 0].item() == pytest.approx(np.sin(np.arcsin(params[5]) + np.deg2rad(params[6])))


@pytest.mark.parametrize("voltage", WAVELENGTHS)
def test_wavelength(voltage):
    "Read off the transfer function: without aberrations the phase is pi lambda defocus k^2."
    h = ctf(torch.tensor([[10000.0, 10000, 0, voltage, 0, 0, 0]], dtype=torch.float64), 80, 2.0)[0]
    phase = np.arcsin(h[0, 4].item())
    assert phase / (np.pi * 10000 * (4 / 160) ** 2) == pytest.approx(WAVELENGTHS[voltage], abs=2e-6)
