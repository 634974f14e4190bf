"""Offset, gradient and scale of images as programs leave them: no result depends on them."""

import shutil

import numpy as np
import pytest
import torch

from cryoformer_nb.core.files import write_stack
from cryoformer_nb.core.fourier import irfft2c, rfft2c, shell_index
from cryoformer_nb.imaging.simulator import simulate
from cryoformer_nb.particles.consensus import consensus
from cryoformer_nb.particles.particles import load_particles


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    star = simulate(tmp_path_factory.mktemp("sets") / "arm", n=300, box=32, snr=0.3, seed=5)
    return load_particles(star)


def changed(particles, folder, images):
    "The same set with other images."
    folder.mkdir()
    shutil.copy(particles.path, folder)
    write_stack(folder / "particles.mrcs", images.numpy(), particles.pixel_size)
    return load_particles(folder / "particles.star")


rng = np.random.default_rng(0)
grid = torch.linspace(-1, 1, 32)
random = torch.tensor(rng.standard_normal((3, 300, 1, 1)), dtype=torch.float32)
CASES = {
    "a constant": lambda x: x + 10,
    "offsets": lambda x: x + 10 * random[0],
    "gradients": lambda x: x + 6 * random[0] * grid + 6 * random[1] * grid[:, None],
    "scales": lambda x: x * torch.exp(0.4 * random[2]),
    "counts": lambda x: (1000 + 50 * x) * torch.exp(0.4 * random[2]),
}


@pytest.mark.parametrize("case", CASES)
def test_images_come_as_they_are(clean, tmp_path, case):
    other = changed(clean, tmp_path / "set", CASES[case](clean.images(slice(None))))
    assert other.sign == 1
    given = clean.normalised(slice(None))
    assert torch.allclose(other.normalised(slice(None)), given, atol=2e-3)
    expected, found = consensus(clean), consensus(other)
    assert torch.allclose(found.noise, expected.noise, rtol=1e-3)
    change = (found.volume - expected.volume).norm() / expected.volume.norm()
    assert change < 5e-3  # rounding moves a voxel from one class of density to another


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("case", ["as they are", "high-passed", "of mean zero"])
def test_contrast_is_what_reconstructs(clean, tmp_path, case, sign):
    "Without low frequencies no mean tells; the third moment of the average map does."
    images = clean.images(slice(None))
    if case == "high-passed":
        images = irfft2c(torch.where(shell_index(32, 2) > 2, rfft2c(images), 0))
    if case == "of mean zero":
        images = images - images.mean((1, 2), keepdim=True)
    found = changed(clean, tmp_path / "set", 7 + sign * images)
    assert found.sign == sign and "third moment" in found.notes[0]


@pytest.mark.parametrize("name", ["real/apoferritin", "spike_real/particles.star"])
def test_contrast_of_foreign_sets(shared, name):
    "A hollow shell in real images, whose centres are darker than their rims; a spike in noise."
    assert load_particles(shared(name)).sign == 1


def test_masked_corners_are_no_background(clean, tmp_path):
    "Images cut to a circle and set to zero outside, wherever their grey values lie."
    grid = torch.arange(32) - 16
    circle = grid[:, None] ** 2 + grid**2 < 15**2
    images = 20 + 3 * clean.images(slice(None))
    other = changed(clean, tmp_path / "set", torch.where(circle, images, 0.0))
    found, given = other.normalised(slice(None)), clean.normalised(slice(None))
    assert other.sign == 1 and not found[:, ~circle].any()
    assert (
        torch.corrcoef(torch.stack([found[:, circle].flatten(), given[:, circle].flatten()]))[0, 1]
        > 0.98
    )
    maps = torch.stack([consensus(p).volume.flatten() for p in (other, clean)])
    assert torch.corrcoef(maps)[0, 1] > 0.95
