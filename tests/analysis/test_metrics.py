"""The score of a run against a truth that another program wrote."""

from types import SimpleNamespace

import numpy as np
import pytest

from cryoformer_nb.analysis.metrics import latent_r2, mean_fsc, per_particle_fsc, score
from cryoformer_nb.core.files import read_map
from cryoformer_nb.core.fsc import fsc
from cryoformer_nb.imaging.truth import population_mean, true_volumes


def test_true_volumes_are_those_of_the_file(shared):
    for state in (0, 42, 97):
        foreign, pixel_size = read_map(shared(f"adk/truth/vol_{state:03d}.mrc"))
        ours = np.asarray(true_volumes(shared("adk/truth"), [state], 64))[0]
        assert (
            fsc(ours, foreign, pixel_size).value[1:].min() > 0.9999
            and np.corrcoef(ours.ravel(), foreign.ravel())[0, 1] > 0.99999
        )


def test_ceiling_of_adk(shared):
    "A run that returns the true population mean for every particle scores the ceiling, about 0.79 as documented; noise in the latent costs R2."
    truth = shared("adk/truth")
    labels = np.load(truth / "labels.npy")
    mean = population_mean(truth, 64)
    run = SimpleNamespace(
        latents=labels[:, None] + np.random.default_rng(0).normal(size=(4000, 1)),
        box=64,
        mean=mean,
        volumes=lambda z: np.repeat(mean[None], len(z), 0),
    )
    result = score(run, truth, n=60)
    assert result["ceiling"] == pytest.approx(0.79, abs=0.015) and result[
        "mean_fsc"
    ] == pytest.approx(result["ceiling"], abs=1e-6)
    assert 0.98 < result["latent_r2"] < 1 and "rotation_median" not in result
    assert len(result["fsc_curve"]) == 33 and len(set(result["particles"])) == 60


def test_a_smaller_box_keeps_the_coarse_shells(shared):
    truth = shared("adk/truth")
    states = np.load(truth / "labels.npy")
    rows = np.array([0, 1, 2])
    curves = per_particle_fsc(
        lambda k: np.asarray(true_volumes(truth, states[k], 32)), truth, rows, 32
    )
    assert curves.shape == (3, 17) and mean_fsc(curves).min() > 0.999
    whole = per_particle_fsc(
        lambda k: np.repeat(np.asarray(true_volumes(truth, [50], 64)), len(k), 0), truth, rows, 64
    )
    small = per_particle_fsc(
        lambda k: np.repeat(np.asarray(true_volumes(truth, [50], 32)), len(k), 0), truth, rows, 32
    )
    assert np.allclose(whole[:, :16], small[:, :16], atol=1e-3)


def test_latent_r2_agrees_with_brute_force():
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(200, 3)), rng.normal(size=200)
    y = y + z[:, 0]
    distance = ((z[:, None] - z) ** 2).sum(-1)
    np.fill_diagonal(distance, np.inf)
    guess = y[distance.argsort(1)[:, :20]].mean(1)
    assert latent_r2(z, y) == pytest.approx(
        1 - ((y - guess) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    )
    assert latent_r2(z.astype(np.float32), y.astype(np.float32)) == pytest.approx(
        latent_r2(z, y), abs=1e-4
    )
