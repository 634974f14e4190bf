"""Training that begins with the latent of a linear model, and without it."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from cryoformer_nb.analysis.metrics import latent_r2
from cryoformer_nb.core.conventions import InputError
from cryoformer_nb.imaging.simulator import simulate
from cryoformer_nb.imaging.truth import read_labels
from cryoformer_nb.model.config import PRESETS, Config
from cryoformer_nb.particles.consensus import consensus
from cryoformer_nb.particles.particles import load_particles
from cryoformer_nb.training.run import Run
from cryoformer_nb.training.steps import Trainer
from cryoformer_nb.training.train import train

QUICK = dict(levels=6, log2_table=11, hidden=16, queries=2, blocks=1)


@pytest.fixture(scope="module")
def arm(tmp_path_factory):
    "600 noisy images, which two passes of training alone learn no motion from."
    return simulate(tmp_path_factory.mktemp("arm") / "set", "arm", n=600, box=32, snr=0.1, seed=0)


@pytest.fixture(scope="module")
def begun(arm, tmp_path_factory):
    "Two passes that begin with the linear latent."
    out = tmp_path_factory.mktemp("begun") / "run"
    return train(arm, out, epochs=2, config=Config(**QUICK), progress=False)


def test_the_latent_begins_with_the_motion_and_keeps_it(arm, begun, tmp_path):
    config = Config(latent_start="random", **QUICK)
    without = train(arm, tmp_path / "run", epochs=2, config=config, progress=False)
    truth = read_labels(arm.parent / "truth")
    found = [latent_r2(run.latents, truth) for run in (begun, without)]
    print(found)
    assert found[0] > 0.6 > found[1] + 0.2


def test_a_run_knows_its_linear_model(arm, begun):
    again = Run(begun.path)
    particles = replace(load_particles(arm), contrast=torch.as_tensor(again.contrast))
    y, h = particles.whitened(np.arange(50), again.model.noise)
    with torch.no_grad():
        z = again.model.encode(y, particles.rotations[:50], particles.shifts_px[:50], h)
    assert np.allclose(z, begun.latents[:50], atol=1e-3)
    trainer = Trainer(particles, again.config, consensus(particles))
    trainer.restore(again.checkpoint)
    for name in ("maps", "mean", "variance", "shell", "weight"):
        ours, other = (getattr(model.linear, name) for model in (trainer.model, again.model))
        assert torch.equal(ours, other), name
    moved = [p for group in trainer.optimizer.param_groups for p in group["params"]]
    assert any(p is trainer.model.linear.weight for p in moved), "a resumed run learns it on"


def test_the_papers_presets_know_no_linear_model():
    assert all(preset["latent_start"] == "random" for preset in PRESETS.values())


def test_a_damaged_linear_model_is_an_error_in_one_line(begun, tmp_path):
    shutil.copytree(begun.path, tmp_path / "run")
    file = tmp_path / "run" / "checkpoint.pt"
    state = torch.load(file, weights_only=True)
    state["model"]["linear.variance"] = torch.ones(3)
    torch.save(state, file)
    with pytest.raises(InputError, match="checkpoint"):
        print(Run(tmp_path / "run").model)
