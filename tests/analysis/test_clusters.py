"""Maps of clusters: what their images prove is added, where maps are right nothing is lost."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cryoformer_nb.analysis.clusters import cluster_maps
from cryoformer_nb.analysis.latent import kmeans
from cryoformer_nb.analysis.metrics import mean_fsc
from cryoformer_nb.core.conventions import InputError
from cryoformer_nb.core.fsc import fsc_curves
from cryoformer_nb.imaging.molecules import load_molecule
from cryoformer_nb.imaging.simulator import simulate
from cryoformer_nb.imaging.truth import population_mean, read_states, true_volumes
from cryoformer_nb.model.config import Config
from cryoformer_nb.particles.consensus import consensus
from cryoformer_nb.particles.identity import identity
from cryoformer_nb.particles.particles import load_particles

pytestmark = pytest.mark.slow


def stand_in(star, maps) -> SimpleNamespace:
    "A run that knows each particle's state, and gives `maps` (states, D, D, D) of it, in units."
    particles, states = load_particles(star), read_states(star.parent / "truth")
    average = consensus(particles)
    mean = torch.as_tensor(population_mean(star.parent / "truth", particles.box))
    scale = float((average.volume * mean).sum() / mean.square().sum())
    own = (scale * np.asarray(maps)).astype(np.float32)
    run = SimpleNamespace(
        latents=np.eye(len(own), dtype=np.float32)[states] if len(own) < 9 else states[:, None],
        box=particles.box,
        poses=(particles.rotations, particles.shifts_px),
        contrast=torch.ones(len(particles)),
        config=Config(),
        checkpoint=dict(
            average=average.stored(), particles=identity(particles), model=dict(focus=None)
        ),
        datadir=None,
        path=star.parent / "run",
    )
    number = (lambda z: z.argmax(1)) if len(own) < 9 else (lambda z: z[:, 0].astype(int))
    run.volumes = lambda z: own[number(np.atleast_2d(z))]
    run.volume = lambda z: run.volumes(z)[0]
    return run


def quality(volumes, true) -> np.ndarray:
    "Mean FSC of each map (k, D, D, D) to its true one."
    return mean_fsc(fsc_curves(torch.as_tensor(np.stack(list(volumes))), torch.as_tensor(true)))


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    "Four states of the arm."
    arm = load_molecule("arm")
    where = tmp_path_factory.mktemp("clusters") / "states"
    return simulate(where, arm._replace(xyz=arm.xyz[::33]), n=600, box=32, snr=1.0, seed=0)


def test_four_states_that_a_run_has_not_told_apart_are_as_good_as_averages_of_their_images(states):
    true = true_volumes(states.parent / "truth", np.arange(4), 32).numpy()
    run, particles = stand_in(states, [true.mean(0)] * 4), load_particles(states)
    clusters, labels = kmeans(run.latents, 4), read_states(states.parent / "truth")
    groups = [np.flatnonzero(clusters[1] == k) for k in range(4)]
    true = true[[labels[rows[0]] for rows in groups]]
    averages = [consensus(particles.subset(rows)).volume for rows in groups]
    found = quality(cluster_maps(run, clusters), true)
    assert (found >= quality(averages, true)).all(), "FSC of each state"
    assert (found > quality(run.volumes(run.latents[:4]), true) + 0.03).all()


def test_maps_that_follow_a_motion_lose_nothing_to_its_blurred_average(tmp_path):
    star = simulate(tmp_path / "arm", "arm", n=600, box=32, snr=0.2, seed=1)
    true = true_volumes(star.parent / "truth", np.arange(100), 32).numpy()
    run = stand_in(star, true)
    clusters = kmeans(run.latents, 3)
    middle = clusters[0][:, 0].astype(int)
    assert quality(cluster_maps(run, clusters), true[middle]).min() > 0.985


def test_other_particles_are_refused_and_few_are_left_alone(states):
    true = true_volumes(states.parent / "truth", np.arange(4), 32).numpy()
    run = stand_in(states, true)
    particles = load_particles(states)
    with pytest.raises(InputError, match="particles"):
        cluster_maps(run, kmeans(run.latents, 4), particles.subset(np.arange(50)))
    with pytest.raises(InputError, match="1 to 600 clusters"):
        kmeans(run.latents, 0)
    short = particles.subset(np.arange(16))
    run.latents, run.contrast = run.latents[:16], run.contrast[:16]
    run.poses = short.rotations, short.shifts_px
    run.checkpoint["particles"] = identity(short)
    for found in cluster_maps(run, kmeans(run.latents, 2), short):
        assert any(np.array_equal(found, own) for own in run.volumes(np.eye(4)))
