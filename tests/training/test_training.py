"""Training as a whole: every reading trains, poses get gradients, a cut support grows back."""

import errno
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mrcfile
import numpy as np
import pytest
import starfile
import torch

import cryoformer_nb.training.steps as steps
import cryoformer_nb.training.train as loop
from cryoformer_nb.analysis.metrics import latent_r2
from cryoformer_nb.core.conventions import InputError
from cryoformer_nb.core.fsc import fsc
from cryoformer_nb.core.rotations import random_rotations, rotvec_to_matrix
from cryoformer_nb.imaging.projector import image_positions, lattice_coordinates
from cryoformer_nb.imaging.simulator import simulate
from cryoformer_nb.imaging.truth import true_volumes
from cryoformer_nb.model.config import Config
from cryoformer_nb.model.model import CryoFormer
from cryoformer_nb.particles.consensus import consensus
from cryoformer_nb.particles.masks import sphere_mask
from cryoformer_nb.particles.particles import load_particles
from cryoformer_nb.training.losses import half_weights, image_loss
from cryoformer_nb.training.results import latents
from cryoformer_nb.training.run import Run
from cryoformer_nb.training.steps import Trainer
from cryoformer_nb.training.train import train
from cryoformer_nb.training.updates import update_support

SMALL = Config(levels=4, log2_table=10, blocks=1, hidden=16, encoder_width=32)


@pytest.fixture(scope="module")
def star(tmp_path_factory):
    return simulate(tmp_path_factory.mktemp("sets") / "arm", n=800, box=32, snr=0.3, seed=3)


READINGS = [dict(), dict(encoder="image"), dict(latent_dim=1)]
MORE_READINGS = [
    dict(readout="ffn"),
    dict(interpolation="nearest"),
    dict(queries=2),
    dict(queries=6),
    dict(finest_resolution=20),
    dict(width=-1.0),
    dict(width=2.0),
    dict(levels=1),
    dict(batch=7),
]
SLOWLY = [pytest.param(change, marks=pytest.mark.slow) for change in MORE_READINGS]


@pytest.mark.parametrize("change", READINGS + SLOWLY)
def test_every_reading_lowers_the_loss(particles, average, change):
    trainer = Trainer(particles, replace(SMALL, **change), average)
    y, R, t, h = trainer.batch(np.arange(64))

    def loss():
        model = trainer.model
        with torch.no_grad():
            values = model.density(model.encode(y, R, t, h))
            positions = image_positions(model.support.coords, R, t)
            return image_loss(model.project_ft(values, positions, h), y, trainer.weights).mean()

    before = loss()
    for _ in range(40):
        trainer.advance(0.3)
    assert loss() < before - 1e-3


def test_pose_gradient_through_the_whole_model():
    torch.manual_seed(0)
    config = Config(
        latent_dim=2,
        queries=2,
        channels=4,
        blocks=1,
        heads=2,
        tokens=2,
        readout="dot",
        interpolation="trilinear",
        levels=2,
        features=2,
        log2_table=8,
        base_resolution=4,
        finest_resolution=0,
        hidden=8,
        encoder="canonical",
        encoder_spacing=2,
        encoder_width=8,
        encoder_blur_px=1.0,
    )
    box = 10
    distance = lattice_coordinates(box).norm(dim=-1).reshape(box, box, box)
    model = CryoFormer(
        config, distance < 3, torch.exp(-(distance**2) / 4), torch.ones(box, box // 2 + 1), 1.0
    ).double()
    model.support.coords = model.support.coords.double()
    values = torch.rand(1, len(model.support.coords), dtype=torch.float64)
    R = random_rotations(1, torch.Generator().manual_seed(2)).double()
    y = torch.zeros(1, box, box // 2 + 1, dtype=torch.complex128)
    h = torch.ones(1, box, box // 2 + 1)
    weights = half_weights(box)

    def loss(turn, shift, v):
        positions = image_positions(model.support.coords, rotvec_to_matrix(turn) @ R, shift)
        return image_loss(model.project_ft(v, positions, h), y, weights)

    turn = torch.full((1, 3), 0.03, dtype=torch.float64, requires_grad=True)
    shift = torch.tensor([[0.21, -0.37]], dtype=torch.float64, requires_grad=True)
    values.requires_grad_()
    assert torch.autograd.gradcheck(loss, (turn, shift, values), eps=1e-7, atol=1e-5)


@pytest.mark.slow
def test_latent_follows_a_continuous_motion(star, tmp_path):
    run = train(
        star,
        tmp_path / "run",
        epochs=12,
        config=replace(SMALL, levels=8, log2_table=12),
        progress=False,
    )
    truth = star.parent / "truth"
    labels = np.load(truth / "labels.npy")
    assert latent_r2(run.latents, labels) > 0.8
    some = np.arange(0, 800, 40)
    true = true_volumes(truth, labels[some], 32).numpy()
    average = run.checkpoint["average"]["volume"].numpy()
    maps = run.volumes(run.latents[some])
    ours = np.mean([fsc(mine, v).value[1:].mean() for mine, v in zip(maps, true)])
    of_average = np.mean([fsc(average, v).value[1:].mean() for v in true])
    assert ours > of_average + 0.03


@pytest.mark.slow
def test_a_support_that_cuts_the_molecule_grows_back(particles, average):
    whole = torch.as_tensor(
        true_volumes(particles.path.parent / "truth", np.arange(0, 100, 7), 32)
    ).amax(0)
    molecule = whole > 0.15 * whole.max()
    inner = average.support & sphere_mask(32, 8.0)
    lost = (molecule & ~inner).sum()
    assert lost > 200, "the test cuts something off"
    trainer = Trainer(
        particles, replace(SMALL, levels=8, log2_table=12), average._replace(support=inner)
    )
    for _ in range(4):
        for _ in range(60):
            trainer.advance(0.3)
        update_support(trainer)
    assert (molecule & ~trainer.model.support.mask).sum() < 0.05 * lost
    assert trainer.model.support.mask.float().mean() < 0.5, "and does not fill the box"


@pytest.mark.slow
def test_minutes_are_kept(star, tmp_path, monkeypatch):
    "By a clock that goes on by a twentieth of a second whenever it is looked at."
    ticks = iter(range(10**9))
    fake = SimpleNamespace(perf_counter=lambda: 0.05 * next(ticks))
    for module in (steps, loop):
        monkeypatch.setattr(module, "time", fake)
    run = train(star, tmp_path / "run", minutes=1, config=SMALL, progress=False, started=0.0)
    last = run.history.seconds.iloc[-1]
    assert 50 < last < 60, "it uses the minute but for the writing of results"
    assert 0.05 * next(ticks) < 60, "and ends within it"


@pytest.mark.slow
def test_full_disk_during_training_keeps_the_last_checkpoint(star, tmp_path, monkeypatch):
    out = tmp_path / "run"
    save = torch.save

    def full(state, name, *a, **k):
        if state["step"] < 50:
            return save(state, name, *a, **k)
        Path(name).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match="No space left"):
        train(star, out, epochs=3, config=replace(SMALL, checkpoint_minutes=0.0), progress=False)
    monkeypatch.undo()
    assert Run(out).checkpoint["step"] == 49
    assert not list(out.glob(".tmp*"))
    assert len(train(star, out, epochs=3, resume=True, progress=False).latents) == 800


def test_half_sets_are_checked_before_anything_is_made(star, tmp_path):
    blocks = starfile.read(star)
    blocks["particles"]["rlnRandomSubset"] = 1
    starfile.write(blocks, tmp_path / "one.star")
    particles = load_particles(tmp_path / "one.star", datadir=star.parent)
    with pytest.raises(InputError, match="half sets 1 and 2"):
        train(particles, tmp_path / "run", epochs=1, config=SMALL, half_sets=True, progress=False)
    blocks["particles"].loc[:9, "rlnRandomSubset"] = 2
    starfile.write(blocks, tmp_path / "few.star")
    particles = load_particles(tmp_path / "few.star", datadir=star.parent)
    with pytest.raises(InputError, match="a quarter of the set in each half, found 10 of 800"):
        train(particles, tmp_path / "run", epochs=1, config=SMALL, half_sets=True, progress=False)
    with pytest.raises(InputError, match="expected a new run, found --resume"):
        train(particles, tmp_path / "run", epochs=1, resume=True, half_sets=True)
    assert not (tmp_path / "run").exists()


def test_resume_refuses_other_particles(star, tmp_path):
    train(star, tmp_path / "run", epochs=1, config=SMALL, progress=False)
    with pytest.raises(InputError, match="800 particles of box 32.*found 800 of box 16"):
        train(load_particles(star, box=16), tmp_path / "run", epochs=2, resume=True, progress=False)


@pytest.mark.slow
def test_scale_and_contrast_of_the_data_do_not_matter(star, tmp_path, particles):
    "Images times -1000: detected, inverted, the same latents and maps."
    other = tmp_path / "scaled"
    shutil.copytree(star.parent, other)
    with mrcfile.mmap(other / "particles.mrcs", "r+") as m:
        m.data[:] = -1000 * m.data
    a, b = (
        Trainer(p, SMALL, consensus(p))
        for p in (particles, load_particles(other / "particles.star"))
    )
    for _ in range(20):
        a.advance(0.2)
        b.advance(0.2)
    first, second = latents(a), latents(b)
    assert np.allclose(first, second, atol=2e-2 * first.std() + 1e-3)
    ratio = b.model.volumes(torch.zeros(1, 4)).std() / a.model.volumes(torch.zeros(1, 4)).std()
    assert abs(ratio - 1) < 0.02, "maps are in units of the background noise"
