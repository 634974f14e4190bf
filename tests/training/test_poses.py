"""Poses that are learnt: each way trains, refinement approaches the truth and can be resumed."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import cryoformer_nb.training.train as training
from cryoformer_nb.analysis.metrics import pose_error
from cryoformer_nb.command.cli import main
from cryoformer_nb.core.conventions import InputError
from cryoformer_nb.core.rotations import geodesic_angle
from cryoformer_nb.imaging.simulator import simulate
from cryoformer_nb.model.config import Config
from cryoformer_nb.particles.particles import load_particles
from cryoformer_nb.show.poses import show_poses
from cryoformer_nb.training.losses import pose_loss
from cryoformer_nb.training.run import Run
from cryoformer_nb.training.train import prepared, train
from cryoformer_nb.training.updates import poses_of

SMALL = Config(
    levels=4,
    log2_table=10,
    blocks=1,
    hidden=16,
    encoder_width=32,
    pose_shift_px=3.5,
    pose_updates=2,
)

#: Where it does not matter how well poses are found: the search before training is short.
QUICK = replace(SMALL, pose_angle=0.1, pose_shift_px=0.5)


@pytest.fixture(scope="module")
def star(tmp_path_factory):
    return simulate(
        tmp_path_factory.mktemp("poses") / "spike",
        "spike",
        n=700,
        box=32,
        snr=0.3,
        pixel_size=5.0,
        shift_px=3,
        pose_noise=0.1,
        shift_noise_px=2.5,
        seed=2,
    )


@pytest.fixture(scope="module")
def truth(star):
    return [np.load(star.parent / "truth" / f"{name}.npy") for name in ("rotations", "shifts_px")]


@pytest.fixture(scope="module")
def refined(star, tmp_path_factory):
    return train(
        star,
        tmp_path_factory.mktemp("runs") / "refine",
        epochs=3,
        config=replace(SMALL, poses="refine"),
        progress=False,
    )


def errors(poses, truth):
    return pose_error(truth[0], poses[0], truth[1], poses[1])


@pytest.mark.slow
def test_refinement_approaches_the_truth(star, truth, refined):
    given = load_particles(star)
    before, after = errors((given.rotations, given.shifts_px), truth), errors(refined.poses, truth)
    assert before.rotation_median > 0.4, "the test has something to refine"
    assert before.shift_median > 1.5, "the test has something to refine"
    assert after.rotation_median < 0.15, after.summary()
    assert after.shift_median < 0.4, after.summary()


@pytest.mark.slow
def test_star_file_holds_the_refined_poses(star, refined):
    again = load_particles(refined.path / "poses.star", datadir=star.parent)
    written = torch.as_tensor(refined.poses[0]).double()
    assert geodesic_angle(again.rotations.double(), written).max() < 1e-3
    assert np.abs(again.shifts_px.numpy() - refined.poses[1]).max() < 1e-3
    assert geodesic_angle(again.rotations, load_particles(star).rotations).median() > 0.3


@pytest.mark.slow
def test_snapshots_tell_the_way_and_stay_small(refined, star):
    stages = [s["stage"] for s in refined.pose_snapshots]
    assert stages[0] == "given"
    assert stages[-1] == "end"
    assert stages.count("refine") == 2
    assert "local" in stages
    assert "align" in stages, "poses so far off are searched for"
    assert len(stages) < 40
    first, last = refined.pose_snapshots[0], refined.pose_snapshots[-1]
    assert torch.equal(first["rotations"], load_particles(star).rotations)
    assert torch.allclose(last["rotations"], torch.as_tensor(refined.poses[0]))
    view = show_poses(refined, star.parent / "truth")
    median = np.median(view.history.angles, 1)
    assert median[-1] < 0.4 * median[0]
    assert len(view.static().to_json()) < 200_000


@pytest.fixture(scope="module")
def near(tmp_path_factory):
    "A set whose poses are nearly right, as gradients need them."
    return simulate(
        tmp_path_factory.mktemp("poses") / "near",
        "spike",
        n=700,
        box=32,
        snr=0.3,
        pixel_size=5.0,
        shift_px=3,
        pose_noise=0.02,
        shift_noise_px=1,
        seed=2,
    )


@pytest.mark.slow
@pytest.mark.parametrize("asked", [500, 5000], ids=["a sample first", "all at once"])
def test_auto_moves_poses_only_where_the_data_prove_errors(near, truth, asked, monkeypatch):
    "The set's truth is that of `star`: the same seed made both."
    monkeypatch.setattr(training, "ASKED", asked)
    config, particles = replace(SMALL, poses="auto"), load_particles(near)
    start = prepared(particles, config, progress=False, deadline=math.inf)
    assert start.poses == "refine"
    after = errors((start.rotations, start.shifts_px), truth).rotation_median
    assert after < 0.8 * errors((particles.rotations, particles.shifts_px), truth).rotation_median
    R, t = (torch.as_tensor(x, dtype=torch.float32) for x in truth)
    right = replace(particles, rotations=R, shifts_px=t)
    start = prepared(right, config, progress=False, deadline=math.inf)
    assert start.poses == "given"
    assert torch.equal(start.rotations, R)
    assert not start.snapshots


#: What must be left of the errors of rotation and shift. A table learns poses; a network improves
#: rotations a little (0.215 to 0.200 rad), and only if Eq. 2 does not hold it where it is.
LEFT = dict(
    table=(dict(lr_pose=1e-2), 6, 0.8, 0.6),
    residual=(dict(lr_network=3e-3, pose_weight=0.0), 12, 0.97, 0.9),
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", LEFT)
def test_gradients_improve_given_poses(near, tmp_path, kind):
    changes, epochs, rotations, shifts = LEFT[kind]
    config = replace(SMALL, poses=kind, **changes)
    run = train(near, tmp_path / "run", epochs=epochs, config=config, progress=False)
    folder, given = near.parent / "truth", load_particles(near)
    truth = [np.load(folder / f"{name}.npy") for name in ("rotations", "shifts_px")]
    before, after = errors((given.rotations, given.shifts_px), truth), errors(run.poses, truth)
    assert after.rotation_median < rotations * before.rotation_median, after.summary()
    assert after.rotation_mean_square < rotations * before.rotation_mean_square, after.summary()
    assert after.shift_median < shifts * before.shift_median, after.summary()


@pytest.mark.slow
def test_the_papers_encoder_learns_from_the_given_poses(star, tmp_path):
    config = replace(SMALL, poses="encoder", pose_phase=0.9)
    run = train(star, tmp_path / "run", epochs=8, config=config, progress=False)
    given = load_particles(star)
    first, last = (
        pose_loss(s["rotations"], given.rotations, s["shifts_px"], given.shifts_px).mean()
        for s in (run.pose_snapshots[0], run.pose_snapshots[-1])
    )
    assert last < first
    R = torch.as_tensor(run.poses[0])
    assert torch.allclose(R @ R.mT, torch.eye(3), atol=1e-4), "rotations"


class Stop(Exception):
    "Stands for Ctrl-C."


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["refine", "table", "residual", "encoder"])
def test_poses_of_an_interrupted_run_are_those_of_its_trainer(star, tmp_path, kind):
    "Measured before: after a Newton pass 0.05 rad median, 0.29 rad at most between them."
    now = []

    def stop(trainer):
        if trainer.step >= 25:
            now.append(poses_of(trainer, torch.arange(len(trainer.particles))))
            raise Stop

    config = replace(QUICK, poses=kind, lr_pose=5e-3)
    with pytest.raises(Stop):
        train(star, tmp_path / "run", epochs=3, config=config, progress=False, callback=stop)
    run = Run(tmp_path / "run")
    assert run.checkpoint["passes"] == (1 if kind == "refine" else 0)
    R, t = (torch.as_tensor(p) for p in run.poses)
    assert geodesic_angle(R.double(), now[0][0].double()).max() < 1e-3
    assert (t - now[0][1]).abs().max() < 1e-3


@pytest.mark.slow
def test_a_checkpoint_holds_one_set_of_poses(refined):
    "What was given is known from the particles."
    assert not {"rotations", "shifts_px"} & set(refined.checkpoint["particles"])
    assert len(refined.poses[0]) == refined.checkpoint["particles"]["count"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["refine", "table", "residual"])
def test_checkpoints_of_before_are_read(star, tmp_path, kind):
    "They held poses beside the particles: final ones of an ended run, else those it began with."
    config, out = replace(QUICK, poses=kind, pose_updates=1), tmp_path / "run"
    run = train(star, out, epochs=1, config=config, progress=False)
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    state["particles"] |= dict(zip(("rotations", "shifts_px"), map(torch.as_tensor, run.poses)))
    for name in ("latest_rotations", "latest_shifts_px"):
        state["poses"].pop(name, None)
    torch.save(state, out / "checkpoint.pt")
    for mine, again in zip(run.poses, Run(out).poses):
        assert np.array_equal(mine, again)
    resumed = train(star, out, epochs=1.5, resume=True, progress=False)
    assert resumed.checkpoint["step"] > run.checkpoint["step"]


@pytest.mark.slow
def test_resumed_refinement_is_the_uninterrupted_one(star, refined, tmp_path):
    def stop(trainer):
        if trainer.step >= 25:
            raise Stop

    with pytest.raises(Stop):
        train(
            star,
            tmp_path / "run",
            epochs=3,
            config=replace(SMALL, poses="refine"),
            progress=False,
            callback=stop,
        )
    run = train(star, tmp_path / "run", epochs=3, resume=True, progress=False)
    assert np.array_equal(run.poses[0], refined.poses[0])
    assert np.array_equal(run.latents, refined.latents)
    assert [s["stage"] for s in run.pose_snapshots] == [s["stage"] for s in refined.pose_snapshots]


def test_refusals(star, tmp_path, capsys):
    config = replace(SMALL, poses="given")
    run = train(star, tmp_path / "given", epochs=0.1, config=config, progress=False)
    with pytest.raises(InputError, match="--poses refine"):
        show_poses(run)
    for arguments in (
        ["--poses", "nonsense"],
        ["--poses", "refine", "--set", "projector=slice"],
        ["--poses", "refine", "--set", "pose_angle=9"],
    ):
        assert main(["train", str(star), "--out", str(tmp_path / "new"), "-q", *arguments]) == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert not (tmp_path / "new").exists()
