"""Box 256 on a small machine: a support of 1.7 million voxels fits in memory."""

import subprocess
import sys

import pytest

PROBE = """
import resource, torch
from cryoformer_nb.model.config import Config
from cryoformer_nb.model.fourier_model import build_model
from cryoformer_nb.particles.masks import sphere_mask

box, b = 256, 2
mask = sphere_mask(box, 74)
model = build_model(Config(), mask, 0.5 * mask, torch.ones(box, box // 2 + 1), 1.0)
z, R = torch.randn(b, 4), torch.eye(3).expand(b, 3, 3)
model.predict(z, R, torch.zeros(b, 2), torch.ones(b, box, box // 2 + 1)).abs().sum().backward()
assert model.grid.table.grad.abs().max() > 0 and model.base.grad.abs().max() > 0
highest, mean = model.highest(torch.randn(4, 4)), model.mean_volume(z)
assert highest.shape == mean.shape == (box, box, box)
print(int(mask.sum()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


@pytest.mark.slow
def test_support_of_1_7_million_voxels():
    "Gradients and maps in under 4 GiB, where the matrices of the lattice alone took 3.5."
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    voxels, peak = map(float, done.stdout.split())
    assert voxels > 1.6e6
    assert peak < 4, f"{peak:.1f} GiB"
