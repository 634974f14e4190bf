"""The paper's own network: its encoders pass a signal, its two evaluations agree, and it learns."""

from dataclasses import replace

import pytest
import torch

from cryoformer_nb.core.fourier import frequencies
from cryoformer_nb.core.rotations import geodesic_angle, random_rotations
from cryoformer_nb.imaging.simulator import simulate
from cryoformer_nb.model.config import Config
from cryoformer_nb.model.encoders import ImageEncoder, OrientationEncoder
from cryoformer_nb.particles.consensus import consensus
from cryoformer_nb.particles.particles import load_particles
from cryoformer_nb.training.losses import image_loss
from cryoformer_nb.training.results import latents
from cryoformer_nb.training.steps import Trainer

#: Small, but with every part of the paper's network.
SMALL = dict(queries=4, levels=8, log2_table=12, batch=16)


@pytest.fixture(scope="module")
def arm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets") / "arm"
    particles = load_particles(simulate(folder, n=400, box=24, pixel_size=4.67, snr=0.5, seed=3))
    return particles, consensus(particles)


@pytest.mark.parametrize("box", [16, 64])
def test_encoders_tell_particles_apart_before_training(box):
    "With PyTorch's default weights the spread of the output was 4e-5."
    torch.manual_seed(0)
    images = torch.randn(200, box, box)
    encoder = ImageEncoder(box, 4)
    encoder.calibrate(images, None, None)
    with torch.no_grad():
        spread = encoder(images).std(0)
        R, t = OrientationEncoder(box)(images)
    assert 0.1 < spread.min(), spread
    assert spread.max() < 10, spread
    assert geodesic_angle(R[:100], R[100:]).median() > 0.1
    assert t.std(0).min() > 0.1


def test_the_lattice_is_the_ray_path_but_for_the_interpolation(arm):
    """The same weights and poses, and a field that is smooth beside a pixel: equal up to half of
    Nyquist, but for what the edges of support and regions lose."""
    images, smooth = [], SMALL | dict(base_resolution=4, levels=1)
    for name in ("paper", "paper-lattice"):
        trainer = Trainer(arm[0], replace(Config.preset(name), **smooth), arm[1])
        with torch.no_grad():
            noise = torch.Generator().manual_seed(0)
            table = trainer.model.grid.table
            table.copy_(torch.randn(table.shape, generator=noise))
            y, R, t, h = trainer.batch(torch.arange(6))
            R = random_rotations(6, torch.Generator().manual_seed(1))
            z = torch.randn(6, 8, generator=noise)
            images.append(trainer.model.predict(z, R, t, torch.ones_like(h)))
    rays, lattice = images
    low = frequencies(24).norm(dim=-1) < 0.25
    error = ((rays - lattice).abs().square() * low).sum() / (rays.abs().square() * low).sum()
    assert error.sqrt() < 0.05, error.sqrt()


@pytest.mark.parametrize("name", ["paper-lattice", pytest.param("paper", marks=pytest.mark.slow)])
def test_a_preset_learns(arm, name):
    "The loss of the same images falls, and the latents of different particles come apart."
    steps, images = (60, 32) if name == "paper-lattice" else (30, 8)
    config = replace(Config.preset(name), **SMALL | dict(batch=images // 2, warmup=10))
    trainer = Trainer(arm[0], config, arm[1])
    assert not trainer.model.base.requires_grad
    assert (trainer.model.base == 0).all(), "nothing but the network makes density"
    y, R, t, h = trainer.batch(torch.arange(images))

    @torch.no_grad()
    def loss():
        z = trainer.model.encode(y, R, t, h)
        return image_loss(trainer.model.predict(z, R, t, h), y, trainer.weights).mean().item()

    before = loss()
    for _ in range(steps):
        trainer.advance(0.2)
    assert loss() < before - 0.02
    assert latents(trainer).std(0).min() > 0.05
