"""Particles that are held out judge the motion: maps fall back to the average where it is noise."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cryoformer_nb.analysis.metrics import mean_fsc, per_particle_fsc
from cryoformer_nb.core.fourier import shell_filter
from cryoformer_nb.imaging.simulator import simulate
from cryoformer_nb.model.config import Config
from cryoformer_nb.particles.consensus import consensus
from cryoformer_nb.particles.particles import load_particles
from cryoformer_nb.training.run import Run, read_checkpoint
from cryoformer_nb.training.steps import Trainer, split_rows
from cryoformer_nb.training.train import Clock, train

SMALL = Config(levels=4, log2_table=10, blocks=1, hidden=16, encoder_width=32)


@pytest.fixture(scope="module")
def star(tmp_path_factory):
    return simulate(tmp_path_factory.mktemp("held") / "arm", n=1000, box=32, snr=0.1, seed=3)


def test_held_out_particles_are_in_no_step(star):
    particles = load_particles(star)
    trainer = Trainer(particles, SMALL, consensus(particles))
    assert len(trainer.held) == 50
    seen = torch.cat([trainer.rows_of(k) for k in range(3 * trainer.steps_per_epoch)])
    assert not np.isin(trainer.held, seen).any()
    assert len(seen.unique()) > 930, "and all others take part"


def test_who_is_held_out_survives_a_checkpoint(star, tmp_path):
    particles = load_particles(star)
    first = Trainer(particles, SMALL, consensus(particles))
    first.held, first.rows = split_rows(len(particles), 0.125, seed=9)
    first.best, first.worse, first.settling = torch.rand(len(first.held)), 2, (70, 0.25)
    first.save(tmp_path / "checkpoint.pt")
    again = Trainer(particles, SMALL, first.average)
    again.restore(read_checkpoint(tmp_path / "checkpoint.pt"))
    assert torch.equal(again.held, first.held)
    assert torch.equal(again.rows, first.rows)
    assert torch.equal(again.best, first.best)
    assert (again.worse, again.settling) == (2, (70, 0.25))


def test_a_run_that_settles_ends_within_a_quarter_of_its_steps():
    clock, at = Clock(steps=1000), SimpleNamespace(step=200, settling=None)
    assert clock.progress(at) == 0.2
    at.settling = (200, 0.2)
    shares = []
    for at.step in range(200, 251):
        shares.append(clock.progress(at))
    assert shares[0] == 0.2
    assert shares[-1] == pytest.approx(1)
    assert np.allclose(np.diff(shares), 0.8 / 50)
    at.step, at.settling = 999, (980, 0.98)
    assert clock.progress(at) == 0.999, "no later than without"


@pytest.mark.slow
def test_maps_are_no_worse_than_the_average_in_any_shell(star, tmp_path):
    run = train(star, tmp_path / "run", epochs=100, progress=False)
    assert run.checkpoint["settling"]
    assert run.history.epoch.iloc[-1] < 50, "it saw that those held out are predicted worse"
    rows = np.arange(0, 1000, 20)

    def guesses(k):
        z = run.latents[k]
        raw = run.model.volumes(torch.as_tensor(z)).numpy()
        return np.stack([run.volumes(z), raw, np.repeat(run.mean[None], len(k), 0)])

    curves = per_particle_fsc(guesses, star.parent / "truth", rows, run.box)
    shown, raw, average = curves.mean(1)
    assert (shown - average)[1:].min() > -0.01
    assert (shown - average)[1:6].max() > 0.05, "and better where it moves"
    assert mean_fsc(shown) > mean_fsc(raw) + 0.01
    weights = run.motion_weights
    assert (np.diff(weights) <= 0).all()
    assert weights[1:4].min() > 0.9
    assert weights[-1] < 0.2
    again = Run(tmp_path / "run")
    raw = again.model.volumes(torch.as_tensor(run.latents[:1]))
    own = run.checkpoint["motion"]["mean"]
    moved = shell_filter(raw - own, torch.as_tensor(weights))
    expected = (torch.as_tensor(run.mean) + moved).clamp(min=0)
    assert np.allclose(again.volumes(run.latents[:1]), expected, atol=1e-5)
