"""A focus: the latent follows what moves inside a mask, and nothing else does."""

import numpy as np
import pytest
import torch

from cryoformer_nb.analysis.metrics import coordinates_r2
from cryoformer_nb.core.conventions import InputError
from cryoformer_nb.core.files import write_map
from cryoformer_nb.imaging.simulator import simulate
from cryoformer_nb.imaging.truth import read_coordinates
from cryoformer_nb.model.config import Config
from cryoformer_nb.particles.masks import soft_edge
from cryoformer_nb.particles.particles import load_particles
from cryoformer_nb.training.run import Run
from cryoformer_nb.training.steps import check_focus, read_focus
from cryoformer_nb.training.train import train


def limb(truth, box: int, pixel_size: float):
    "A soft mask (D, D, D) around all places of the first of six limbs."
    atoms = np.load(truth / "atoms.npz")["xyz"][:, 160:208]  # two beads a residue, 80 of the body
    place = np.rint(atoms.reshape(-1, 3) / pixel_size + box // 2).astype(int)
    solid = torch.zeros((box,) * 3, dtype=torch.bool)
    solid[tuple(place[:, ::-1].T.clip(0, box - 1))] = True
    return soft_edge(solid, 4.0)


def test_a_mask_that_does_not_fit_is_refused(tmp_path):
    assert read_focus(Config(), 16) is None
    for name, mask in dict(box=np.ones((18,) * 3), values=np.full((16,) * 3, 2.0)).items():
        path = tmp_path / f"{name}.mrc"
        write_map(path, mask.astype(np.float32), 3.0)
        with pytest.raises(InputError, match="expected a mask from 0 to 1 of box 16"):
            read_focus(Config(focus=str(path)), 16)
    with pytest.raises(InputError, match="0 points on the encoder's lattice"):
        check_focus(torch.zeros(16, 16, 16), torch.ones(16, 16, 16, dtype=torch.bool), Config())
    with pytest.raises(InputError, match="domain=real"):
        Config(focus="mask.mrc", domain="fourier", projector="slice")


@pytest.mark.slow
def test_the_latent_follows_the_limb_in_focus(tmp_path):
    star = simulate(tmp_path / "set", "limbs", 700, 32, snr=0.3, seed=0)
    particles, truth = load_particles(star), star.parent / "truth"
    mask = limb(truth, 32, particles.pixel_size)
    write_map(tmp_path / "limb.mrc", mask.numpy(), particles.pixel_size)
    config = Config(focus=str(tmp_path / "limb.mrc"), levels=6, batch=10)
    run = train(particles, tmp_path / "run", epochs=5, config=config, progress=False)
    found = coordinates_r2(run.latents, read_coordinates(truth))
    assert found[0] > 0.5, found
    assert found[1:].max() < 0.2, found
    some = torch.as_tensor(run.latents[::70])
    maps = run.model.support.place(run.model.density(some))
    assert maps.std(0)[mask == 0].max() < 1e-5 * maps.max(), "all else is still"
    (tmp_path / "limb.mrc").unlink()
    again = Run(tmp_path / "run")
    assert np.allclose(again.volumes(run.latents[:2]), run.volumes(run.latents[:2]), atol=1e-5)
    train(particles, tmp_path / "run", epochs=5.1, resume=True, progress=False)
