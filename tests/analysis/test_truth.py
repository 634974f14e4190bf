"""What is measured against the truth of a set, on the small set of tests/fixtures."""

from types import SimpleNamespace

import numpy as np
import pytest

from cryoformer_nb import InputError, fsc, score
from cryoformer_nb.analysis.flexibility import flexibility_auc, flexibility_map, moving_voxels
from cryoformer_nb.analysis.metrics import mean_fsc, per_particle_fsc
from cryoformer_nb.core.files import read_map
from cryoformer_nb.imaging.truth import population_mean, true_volumes


@pytest.fixture(scope="module")
def truth(fixtures):
    return fixtures / "truth"


@pytest.mark.parametrize("state", [0, 1])
def test_true_volumes_are_those_of_the_files(truth, state):
    stored, pixel_size = read_map(truth / f"vol_{state:03d}.mrc")
    ours = np.asarray(true_volumes(truth, [state], 16))[0]
    assert pixel_size == 4
    assert fsc(ours, stored, 4.0).value[1:].min() > 0.999
    assert np.corrcoef(ours.ravel(), stored.ravel())[0, 1] > 0.9999
    assert np.corrcoef(ours.transpose(2, 1, 0).ravel(), stored.ravel())[0, 1] < 0.9


def test_state_that_is_not_there(truth):
    with pytest.raises(InputError, match="1"):
        true_volumes(truth, [2])


def test_run_that_knows_only_the_mean_scores_the_ceiling(truth):
    labels, mean = np.load(truth / "labels.npy"), population_mean(truth, 16)
    run = SimpleNamespace(
        latents=labels[:, None] + 0.01 * np.random.default_rng(0).normal(size=(12, 1)),
        box=16,
        mean=mean,
        volumes=lambda z: np.repeat(mean[None], len(z), 0),
    )
    result = score(run, truth, n=12)
    assert result["mean_fsc"] == pytest.approx(result["ceiling"], abs=1e-6)
    assert 0.5 < result["ceiling"] < 1
    assert "rotation_median" not in result
    assert len(result["fsc_curve"]) == 9


def test_a_smaller_box_keeps_the_coarse_shells(truth):
    labels, rows = np.load(truth / "labels.npy"), np.array([0, 1, 2])

    def same(k):
        return np.asarray(true_volumes(truth, labels[k], 8))

    assert mean_fsc(per_particle_fsc(same, truth, rows, 8)).min() > 0.999
    curves = {}
    for box in (16, 8):
        other = np.asarray(true_volumes(truth, [1], box))
        curves[box] = per_particle_fsc(lambda k, v=other: np.repeat(v, len(k), 0), truth, rows, box)
    assert curves[16].shape == (3, 9)
    assert curves[8].shape == (3, 5)
    assert np.allclose(curves[16][:, :4], curves[8][:, :4], atol=1e-3)


def test_moving_voxels_are_where_the_states_differ(truth):
    "By the definition of the docstring, voxel by voxel."
    moving, inside = moving_voxels(truth, 16)
    labels = np.load(truth / "labels.npy").astype(int)
    volumes = np.asarray(true_volumes(truth, labels, 16))
    most = volumes.max(0)
    solid = np.percentile(most[most > 0.1 * most.max()], 99)
    assert np.array_equal(inside, most > 0.1 * solid)
    assert np.array_equal(moving, inside & (volumes.std(0) > 0.1 * solid))
    assert 0.05 < moving.sum() / inside.sum() < 0.6
    # the two Gaussians that move lie at z = 12 to 14 A, voxel 11
    assert moving[11].sum() > moving[5].sum()


def test_map_of_flexibility_finds_them(truth):
    labels = np.load(truth / "labels.npy").astype(int)
    volumes = np.asarray(true_volumes(truth, labels, 16))
    found = flexibility_auc(truth, dict(density=flexibility_map(volumes)))
    assert found["density"] > 0.99
    guess = flexibility_auc(truth, dict(density=np.random.default_rng(0).random(volumes[0].shape)))
    assert guess["density"] == pytest.approx(0.5, abs=0.15)
