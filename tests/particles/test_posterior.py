"""Local refinement of poses: no set gets worse, and much of what can be won is won."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cryoformer_nb.core.rotations import geodesic_angle, rotvec_to_matrix
from cryoformer_nb.imaging.nuisances import REALISTIC
from cryoformer_nb.imaging.simulator import simulate
from cryoformer_nb.imaging.truth import read_poses
from cryoformer_nb.particles.particles import load_particles
from cryoformer_nb.particles.posterior import refine


@pytest.fixture(scope="module", params=["spike", "arm"])
def right(request, tmp_path_factory):
    "A set with its true poses: one that moves a little, one that moves much."
    out = tmp_path_factory.mktemp("posterior") / request.param
    star = simulate(out, request.param, n=600, box=32, snr=0.1, shift_px=1, seed=5)
    R, t = (torch.as_tensor(p) for p in read_poses(star.parent / "truth"))
    return replace(load_particles(star, invert=False), rotations=R, shifts_px=t)


def off(particles, median):
    "The set with poses off by so much (rad), and 6.5 px times that a component of the shift."
    g, width = torch.Generator().manual_seed(1), median / 1.538
    turns = width * torch.randn(len(particles), 3, generator=g)
    moves = 6.5 * width * torch.randn(len(particles), 2, generator=g)
    R, t = rotvec_to_matrix(turns) @ particles.rotations, particles.shifts_px + moves
    return replace(particles, rotations=R, shifts_px=t)


@pytest.mark.slow
@pytest.mark.parametrize("median", [0.0, 0.05, 0.3])
def test_no_set_gets_worse(right, median):
    given = off(right, median)
    found = refine(given)
    before, after = (geodesic_angle(p.rotations, right.rotations) for p in (given, found.particles))
    shift_before, shift_after = (
        (p.shifts_px - right.shifts_px).norm(dim=1) for p in (given, found.particles)
    )
    assert after.median() < max(1.1 * before.median(), 0.005), str(found)
    assert shift_after.median() < max(1.1 * shift_before.median(), 0.05), str(found)
    assert (after > 0.3).sum() <= (before > 0.3).sum()
    if median == 0.3:
        assert after.median() < 0.8 * before.median(), str(found)
        assert abs(found.prior.turn * 1.538 / median - 1) < 0.3, "the error is known too"


@pytest.mark.slow
@pytest.mark.parametrize("right", ["spike"], indirect=True)
def test_noise_keeps_its_pose(right, monkeypatch):
    "Every tenth image shows nothing: it is found out, and stays where it was."
    given, junk = off(right, 0.1), np.arange(len(right)) % 10 == 3
    images, empty = type(given).images, torch.as_tensor(junk)

    def with_junk(self, rows):
        found = images(self, rows)
        noise = torch.randn(found.shape, generator=torch.Generator().manual_seed(9))
        numbers = torch.arange(len(self))[
            rows if isinstance(rows, slice) else torch.as_tensor(rows)
        ]
        return torch.where(empty[numbers][:, None, None], noise, found)

    monkeypatch.setattr(type(given), "images", with_junk)
    found = refine(given)
    assert found.shown[junk].mean() < 0.1
    assert found.shown[~junk].mean() > 0.95
    moved = geodesic_angle(found.particles.rotations, given.rotations)
    assert moved[junk].median() < 0.1 * moved[~junk].median()


@pytest.mark.slow
@pytest.mark.parametrize("error", [0.0, 0.02])
def test_right_poses_among_all_other_nuisances_are_kept(tmp_path, error):
    "Junk and atoms of several widths look a little like errors of poses; real ones do more."
    nuisances = replace(REALISTIC, pose_error=error, shift_error=13 * error)
    star = simulate(tmp_path / "set", "arm", 1000, 32, snr=0.1, seed=3, nuisances=nuisances)
    given = load_particles(star, invert=False)
    found = refine(given)
    assert found.better == (error > 0), found
    assert (found.particles is given) == (error == 0)
