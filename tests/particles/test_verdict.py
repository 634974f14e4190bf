"""The verdict on sets that move and on rigid ones with all that real sets do, real images too."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cryoformer_nb.imaging.molecules import load_molecule
from cryoformer_nb.imaging.nuisances import REALISTIC, Nuisances
from cryoformer_nb.imaging.simulator import simulate
from cryoformer_nb.model.config import Config
from cryoformer_nb.particles.consensus import consensus
from cryoformer_nb.particles.particles import load_particles
from cryoformer_nb.particles.verdict import verdict
from cryoformer_nb.training.run import Run, check_checkpoint
from cryoformer_nb.training.train import new_trainer

SMALL = Config(levels=2, log2_table=8, hidden=8, contrast=False)
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def still(preset: str, state: int):
    "One state of a preset, centred."
    molecule = load_molecule(preset)
    return load_molecule(molecule._replace(xyz=molecule.xyz[state : state + 1], coordinates=None))


def made(folder, molecule, n: int, snr: float, nuisances=Nuisances(), seed: int = 0):  # noqa: B008
    "A simulated set of 32 px."
    star = simulate(folder / "set", molecule, n, 32, snr=snr, seed=seed, nuisances=nuisances)
    return load_particles(star, invert=False)


def test_motion_is_found_in_noise_and_a_rigid_molecule_stays_rigid(tmp_path):
    moving = verdict(made(tmp_path / "moving", "arm", 1000, 0.02))
    assert moving.moving and moving.evidence > 4, moving
    rigid = verdict(made(tmp_path / "rigid", still("spike", 30), 1000, 0.1, REALISTIC, seed=1))
    assert not rigid.moving and abs(rigid.evidence) < 4, rigid
    assert 0.02 < rigid.turn < 0.06 and 0.2 < rigid.shift_px < 0.6  # 0.03 rad and 0.4 px


def test_poses_that_are_far_off_are_no_motion(tmp_path):
    wrong = replace(Nuisances(), pose_error=0.08, shift_error=1.0)
    particles = made(tmp_path, still("spike", 85), 1000, 0.1, wrong)
    found = verdict(particles)
    assert not found.moving and not found.allowed, found
    assert "cannot be told" in str(found)


def test_a_run_remembers_what_its_particles_said(tmp_path):
    particles = made(tmp_path, "arm", 300, 0.1)
    trainer = new_trainer(particles, SMALL, tmp_path / "run")
    run = Run(tmp_path / "run")
    assert run.verdict.moving and run.verdict._asdict() == trainer.verdict
    assert run.verdict_words().startswith("the motion is real: ")
    state = run.checkpoint
    for wrong in (dict(found=1.0), state["verdict"] | dict(error=-1.0), "yes"):
        with pytest.raises((ValueError, KeyError, TypeError)):
            check_checkpoint(state | dict(verdict=wrong))


def test_few_particles_are_not_asked(tmp_path):
    particles = made(tmp_path, "arm", 100, 0.1)
    assert new_trainer(particles, SMALL, tmp_path / "run").verdict is None
    assert Run(tmp_path / "run").verdict is None
    assert "nobody asked" in Run(tmp_path / "run").verdict_words()


@pytest.mark.slow
@pytest.mark.skipif(
    not (SHARED / "real").exists(), reason="real images lie beside the project only"
)
def test_real_images_of_a_rigid_molecule_show_no_motion():
    folder = SHARED / "real" / "apoferritin"
    files = dict(poses=folder / "poses.pkl", ctf=folder / "ctf.pkl")
    particles = load_particles(folder / "particles.mrcs", **files)
    assert not verdict(particles).moving
    assert not verdict(particles, consensus(particles)).moving


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "spike_real").exists(), reason="lies beside the project only")
def test_motion_is_found_under_the_conditions_of_real_sets():
    found = verdict(load_particles(SHARED / "spike_real" / "particles.star"))
    assert found.moving and found.evidence > 10
    assert torch.isfinite(torch.tensor(found)).all()


def test_no_motion_is_said_to_hold_unless_the_verdict_says_so(tmp_path):
    particles = made(tmp_path, "arm", 300, 0.1)
    trainer = new_trainer(particles, SMALL, tmp_path / "run")
    held = dict(mean=trainer.average.volume, shown=trainer.average.volume, part=0.0)
    trainer.save(
        tmp_path / "run" / "checkpoint.pt", held | dict(weights=torch.ones(17), held_out=50)
    )
    assert Run(tmp_path / "run").motion_words().startswith("the motion holds to ")
    run = Run(tmp_path / "run")
    run.checkpoint["verdict"]["found"] = run.verdict.turned
    assert not run.verdict.moving
    assert "motion holds" not in run.motion_words()
    assert "no motion is proven" in run.motion_words()
