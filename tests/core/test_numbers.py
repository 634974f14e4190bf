"""Rotations as other programs write them down, and an FSC counted coefficient by coefficient."""

import numpy as np
import pytest
import torch

from cryoformer_nb import fsc
from cryoformer_nb.core.files import read_map
from cryoformer_nb.core.rotations import euler_to_matrix, matrix_to_euler, rotvec_to_matrix

#: rlnAngleRot, Tilt, Psi of rows 0, 2 and 4 of cryoDRGN's test file FinalRefinement-...-PfCRT.star,
#: and what its parse_pose_star (R_from_relion) made of them, pose.star.pkl.
EULER = [
    [16.09353, 86.352776, 98.22569],
    [76.3789, 103.415276, 164.73022],
    [-115.40303, 84.93408, 154.97389],
]
CRYODRGN = [
    [
        [-0.2830989, 0.9484029, 0.1427829],
        [-0.0208307, -0.1549183, 0.9877077],
        [0.9588645, 0.2766447, 0.0636131],
    ],
    [
        [-0.2032482, 0.2795439, 0.9383738],
        [0.9519534, -0.1678022, 0.2561781],
        [0.2290742, 0.9453558, -0.2320073],
    ],
    [
        [0.4164531, -0.1091977, 0.9025756],
        [-0.8024808, 0.4224506, 0.4213788],
        [-0.4273072, -0.8997841, 0.0883018],
    ],
]


def test_euler_angles_give_the_matrices_of_cryodrgn():
    ours = euler_to_matrix(torch.tensor(EULER, dtype=torch.float64))
    assert np.abs(ours.numpy() - CRYODRGN).max() < 1e-6


def test_euler_angles_give_the_matrices_of_relion(generator):
    "Term by term as in RELION's Euler_angles2matrix."
    angles = np.array([row[:3] for row in generator.ROWS])
    theirs = np.array([generator.rotation(*a) for a in angles])
    ours = euler_to_matrix(torch.tensor(angles))
    assert np.abs(ours.numpy() - theirs).max() < 1e-12
    again = euler_to_matrix(matrix_to_euler(ours))
    assert torch.allclose(again, ours, atol=1e-6)


def test_rotation_vector_is_the_transpose_in_cryosparc():
    "Row 0 of cryoDRGN's cryosparc_P12_J24_001_particles.cs, and the matrix in its pose.cs.pkl."
    pose = torch.tensor([[2.3386633, -0.25595567, -1.2236784]], dtype=torch.float64)
    theirs = [
        [0.5816298, -0.3773045, -0.7206581],
        [0.0568315, -0.8649117, 0.4986967],
        [-0.8114659, -0.331013, -0.4816158],
    ]
    assert np.abs(rotvec_to_matrix(pose)[0].T.numpy() - theirs).max() < 1e-6


# ---------------------------------------------------------------- FSC


def counted(a, b) -> list:
    "FSC of shells 0..D/2, one Fourier coefficient after the other: shell = rint(radius)."
    box = len(a)
    A, B = np.fft.fftn(a), np.fft.fftn(b)
    sums = np.zeros((box, 3))
    index = [k if k < box // 2 else k - box for k in range(box)]
    for k, z in enumerate(index):
        for j, y in enumerate(index):
            for i, x in enumerate(index):
                f, g = A[k, j, i], B[k, j, i]
                terms = (f * g.conjugate()).real, abs(f) ** 2, abs(g) ** 2
                sums[round((x * x + y * y + z * z) ** 0.5)] += terms
    cross, one, two = sums[: box // 2 + 1].T
    return cross / np.sqrt(one * two)


FSC_OF_THE_PAIR = [1.0, 0.9378, 0.7564, 0.3821, 0.3554, 0.367, 0.2944, 0.1622, 0.0515]
RESOLUTION = 23.84  # A, where the curve falls under 0.5


@pytest.fixture(scope="module")
def pair(fixtures):
    "Two states, one of them moved by a pixel along z."
    maps = [read_map(fixtures / "truth" / f"vol_{k:03d}.mrc")[0] for k in (0, 1)]
    return maps[0].astype(float), np.roll(maps[1].astype(float), 1, 0)


def test_fsc_is_what_counting_gives(pair):
    curve = fsc(*pair, 4.0)
    assert np.abs(curve.value - counted(*pair)).max() < 1e-6


def test_fsc_of_a_small_pair(pair):
    "The numbers themselves, so that a change of the definition is seen."
    curve = fsc(*pair, 4.0)
    assert curve.value.tolist() == pytest.approx(FSC_OF_THE_PAIR, abs=1e-4)
    assert curve.frequency.tolist() == pytest.approx([s / 64 for s in range(9)])
    assert curve.resolution_05 == pytest.approx(RESOLUTION, abs=0.02)
