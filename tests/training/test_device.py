"""Training and looking at a run on a device: proved without one, by `simulated_device`."""

import warnings

import numpy as np
import pytest
import torch
import torch.optim.optimizer as optimizer
from simulated_device import DEVICE, numbers, on_device

from cryoformer_nb.analysis.flexibility import named_maps
from cryoformer_nb.imaging.simulator import simulate
from cryoformer_nb.model.config import Config
from cryoformer_nb.particles.consensus import consensus
from cryoformer_nb.particles.particles import load_particles
from cryoformer_nb.training import run as run_module
from cryoformer_nb.training import steps
from cryoformer_nb.training import train as train_module
from cryoformer_nb.training.inference import particle_losses, reproject
from cryoformer_nb.training.run import Run
from cryoformer_nb.training.steps import Trainer
from cryoformer_nb.training.train import train

SMALL = dict(batch=8, queries=2, levels=4, hidden=16, encoder_width=32)

#: Settings that lead through other code.
WAYS = [
    {},
    dict(projector="slice"),
    dict(readout="ffn", interpolation="nearest"),
    dict(deformation_blocks=False),
    dict(spatial_attention=False, readout="ffn"),
    dict(encoder="image", base="off", positive=False, contrast=False),
    dict(domain="fourier", projector="slice"),
    dict(poses="table"),
    dict(poses="residual"),
    dict(poses="encoder"),
]


@pytest.fixture(scope="module")
def star(tmp_path_factory):
    folder = tmp_path_factory.mktemp("device") / "set"
    return simulate(folder, "arm", n=420, box=16, pixel_size=7.0, snr=1.0, seed=1)


@pytest.fixture(scope="module")
def average(star):
    return consensus(load_particles(star))


@pytest.fixture
def device(monkeypatch):
    "Whatever is to run on a device runs on the simulated one."
    for module in (steps, train_module, run_module):
        monkeypatch.setattr(module, "choose_device", lambda name: DEVICE)
    fused = optimizer._get_fused_kernels_supported_devices
    monkeypatch.setattr(
        optimizer, "_get_fused_kernels_supported_devices", lambda: [*fused(), DEVICE.type]
    )
    # a warning of torch's for tensors that lie nowhere; these are copied
    warnings.filterwarnings("ignore", "for .*: copying from a non-meta parameter")
    save = torch.save  # what is written are numbers, wherever they lay
    monkeypatch.setattr(torch, "save", lambda state, name: save(numbers(state), name))
    with on_device() as waits:
        yield waits


def test_the_simulated_device_refuses_what_a_gpu_would():
    with on_device() as waits:
        here, there = torch.ones(3), torch.ones(3, device=DEVICE)
        assert there.device == DEVICE
        assert not waits
        with pytest.raises(AssertionError, match="of the CPU"):
            here + there
        with pytest.raises(AssertionError, match="of the CPU"):
            there[here > 0]
        assert (there + 1).cpu().tolist() == [2, 2, 2]
        turned = torch.tensor([1j], device=DEVICE)
        assert (turned.conj() * turned).cpu().tolist() == [1], "conjugates are views"
        assert float(there.sum()) == 3
        there[there > 0] = 0
        assert len(waits) == 4


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_steps_lie_on_one_device_and_wait_for_nothing(star, average, device, way):
    trainer = Trainer(load_particles(star), Config(**SMALL, **way), average)
    trainer.advance(0.5)
    before = len(device)
    trainer.advance(0.5)
    assert device[before:] == []
    assert {p.device for p in trainer.model.parameters()} == {DEVICE}


def test_rays_ask_how_many_points_lie_in_the_support(star, average, device):
    "The one projector that waits: its points differ from image to image."
    trainer = Trainer(load_particles(star), Config(**SMALL, projector="ray"), average)
    trainer.advance(0.5)
    before = len(device)
    trainer.advance(0.5)
    assert set(device[before:]) == {"aten.index.Tensor"}


def looked_at(run: Run, particles) -> dict:
    "What reports and widgets ask of a run, by name."
    return dict(
        named_maps(run, 4),
        volumes=run.volumes(run.latents[:2]),
        losses=particle_losses(run, particles),
        images=reproject(run, particles, np.arange(3)).numpy(),
    )


@pytest.mark.slow
@pytest.mark.parametrize("way", [{}, dict(poses="refine"), WAYS[6]], ids=str)
def test_a_run_on_a_device_is_the_run_on_the_cpu(star, tmp_path, request, way):
    "Trained there, it is the same but for rounding; looked at there, it shows the same."
    particles = load_particles(star)
    config = Config(**SMALL | way | dict(batch=32))
    options = dict(epochs=1, config=config, progress=False)
    here = train(particles, tmp_path / "cpu", **options)
    known = looked_at(here, particles)
    request.getfixturevalue("device")
    there = train(particles, tmp_path / "device", **options)
    assert there.checkpoint["step"] == here.checkpoint["step"]
    assert np.allclose(there.latents, here.latents, atol=1e-3)
    assert np.abs(there.mean - here.mean).max() < 1e-2 * np.abs(here.mean).max()
    run = Run.load(tmp_path / "cpu")
    assert run.model.device == DEVICE
    for name, found in looked_at(run, particles).items():
        assert np.abs(found - known[name]).max() <= 1e-3 * np.abs(known[name]).max(), name
    train(particles, tmp_path / "device", epochs=1.5, resume=True, progress=False)
