"""The linear latent on molecules whose motion is a line in the space of maps, or none at all."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryoformer_nb.core.fourier import fourier_crop3, lowpass
from cryoformer_nb.imaging.molecules import Molecule
from cryoformer_nb.imaging.simulator import simulate
from cryoformer_nb.imaging.truth import read_labels, true_volumes
from cryoformer_nb.particles.consensus import consensus
from cryoformer_nb.particles.linear import amounts, linear_model, supported, transforms
from cryoformer_nb.particles.particles import load_particles


def blob(tmp_path, places: tuple, n: int):
    "A set of a lump with a heavy Gaussian at one of several places on the z axis."
    body = np.random.default_rng(1).normal(size=(60, 3)) * [8, 6, 5]
    states = np.stack([np.concatenate([body, [[x, 0, 12.0]]]) for x in places])
    weight = np.ones(61)
    weight[-1] = 12
    molecule = Molecule(states.astype(np.float32), weight.astype(np.float32), 96.0)
    star = simulate(tmp_path / "set", molecule, n=n, box=32, snr=0.1, shift_px=1.0, seed=0)
    return load_particles(star, invert=False), star.parent / "truth"


def disturbed(particles, radians: float, px: float):
    "The same with poses that are wrong by normal errors."
    rng, n = np.random.default_rng(2), len(particles)
    turns = Rotation.from_rotvec(radians * rng.normal(size=(n, 3))).as_matrix()
    return replace(
        particles,
        rotations=torch.tensor(turns, dtype=torch.float32) @ particles.rotations,
        shifts_px=particles.shifts_px + torch.tensor(px * rng.normal(size=(n, 2))).float(),
    )


@pytest.mark.parametrize("wrong", [False, True])
def test_a_line_of_maps_is_one_component_and_its_amounts_the_state(tmp_path, wrong):
    p, truth = blob(tmp_path, (15.0, 25.0), 1000)
    p = disturbed(p, 0.05, 0.4) if wrong else p
    average = consensus(p)
    model = linear_model(p, average, most=3)
    assert len(model.maps) == 1
    y, h = p.whitened(np.arange(1000), average.noise)
    z = amounts(model, transforms(model), y, h, p.rotations, p.shifts_px).mean[:, 0]
    agreement = abs(np.corrcoef(z, read_labels(truth))[0, 1])
    first, second = torch.as_tensor(true_volumes(truth, [0, 1])).float()
    difference = fourier_crop3(lowpass(second - first, p.pixel_size, 96.0 / 9), 24).flatten()
    same = abs(torch.nn.functional.cosine_similarity(difference, model.maps[0].flatten(), 0))
    print(f"states {agreement:.2f}, map {same:.2f}")
    assert agreement > 0.75 and same > 0.8


def test_a_rigid_molecule_with_wrong_poses_has_no_component(tmp_path):
    p, _ = blob(tmp_path, (15.0,), 1000)
    assert len(linear_model(disturbed(p, 0.05, 0.4), consensus(p), most=3).maps) == 0


def test_a_component_counts_only_after_all_stronger_ones():
    gain = torch.randn(400, 3, generator=torch.Generator().manual_seed(0)) + torch.tensor([1, 0, 1])
    assert supported(gain) == 1
