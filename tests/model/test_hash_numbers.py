"""The hash of tiny-cuda-nn: the entries that its grid encoding takes for a few corners."""

import pytest
import torch

from cryoformer_nb.model.hash_volume import level_entries

#: Corner x, y, z and its entry in tables of 2^15 and 2^19: coherent_prime_hash of
#: include/tiny-cuda-nn/common_device.h in 32-bit unsigned arithmetic, then % hashmap_size.
HASHED = {
    (1, 2, 3): (30172, 128476),
    (63, 0, 17): (20698, 512218),
    (5, 40, 31): (6310, 235686),
    (64, 64, 64): (2368, 231744),
    (127, 90, 255): (29998, 390446),
}


@pytest.mark.parametrize("size", [15, 19])
@pytest.mark.parametrize("corner", HASHED)
def test_hashed_entry(corner, size):
    "With scale 1 the point corner - 0.5 lies on that corner: it alone has weight."
    point = torch.tensor([corner], dtype=torch.float64) - 0.5
    index, weight = level_entries(point, 1.0, 512, 1 << size, False)
    assert weight[0].tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    assert index[0, 0].item() == HASHED[corner][size == 19]


def test_dense_entry():
    "Levels that fit are not hashed: x + y r + z r^2, as grid_index of tiny-cuda-nn counts."
    point = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64) - 0.5
    index, _ = level_entries(point, 1.0, 17, 4920, True)
    assert index[0, 0].item() == 1 + 2 * 17 + 3 * 17**2
