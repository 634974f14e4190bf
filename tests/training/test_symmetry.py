"""Symmetry expansion: `train --symmetry C3` uses every image at each equal orientation."""

import shutil

import numpy as np
import pytest
import torch

from cryoformer_nb.analysis.metrics import score, true_poses, true_states
from cryoformer_nb.command.cli import main
from cryoformer_nb.core.conventions import InputError
from cryoformer_nb.core.symmetry import symmetry_group
from cryoformer_nb.imaging.molecules import Molecule
from cryoformer_nb.imaging.simulator import simulate
from cryoformer_nb.model.config import Config
from cryoformer_nb.particles.consensus import consensus
from cryoformer_nb.particles.expansion import symmetry_gain
from cryoformer_nb.particles.junk import junk_scores
from cryoformer_nb.particles.particles import load_particles, write_star
from cryoformer_nb.particles.star import read_star
from cryoformer_nb.particles.verdict import verdict
from cryoformer_nb.show.report import report
from cryoformer_nb.training.inference import run_particles, save_selection
from cryoformer_nb.training.run import Run
from cryoformer_nb.training.steps import Trainer

N = 400
TINY = (
    "-q --set batch=16 queries=2 levels=2 hidden=8 encoder_width=8 channels=2 heads=1 blocks=1 "
    "tokens=2 log2_table=8 encoder_layers=1"
).split()


def ring(count: int) -> Molecule:
    "A rigid ring of equal parts about z, each of 40 atoms; its centre is that of the box."
    part = np.random.default_rng(0).normal([18, 0, 4], [6, 4, 8], (40, 3))
    turned = [part @ S.numpy().T for S in symmetry_group(f"C{count}")]
    reach = 1.2 * abs(np.concatenate(turned)).max() * np.concatenate([np.eye(3), -np.eye(3)])
    xyz = np.concatenate([*turned, reach])[None]
    return Molecule(xyz, np.repeat([1.0, 0.0], [40 * count, 6]), 110.0)


@pytest.fixture(scope="module")
def star(tmp_path_factory):
    return simulate(tmp_path_factory.mktemp("ring") / "set", ring(3), n=N, box=16, snr=0.2, seed=1)


@pytest.fixture(scope="module")
def three(star):
    return load_particles(star, symmetry="C3")


def test_images_tell_a_symmetry(star, three):
    plain = load_particles(star)
    gains = {name: symmetry_gain(plain.expanded(name)) for name in ("C2", "C4", "C6")}
    assert symmetry_gain(three) > 1
    assert max(gains.values()) < 0.85


def test_a_wrong_symmetry_is_refused_before_anything_is_made(star, tmp_path, capfd):
    words = ["train", str(star), "--out", str(tmp_path / "run"), "--epochs", "1", *TINY]
    for name, said in dict(C4="symmetry C4", S4="expected Cn or Dn").items():
        assert main([*words, "--symmetry", name]) == 2
        error = capfd.readouterr().err
        assert said in error and error.count("\n") == 1
    assert main(["verdict", str(star), "--symmetry", "C2"]) == 2
    assert not list(tmp_path.iterdir())


def test_copies_stay_together(three):
    "In half sets, samples of them, averages, and among the particles held out."
    halves = [set(rows % N) for rows in three.half_rows()]
    assert not halves[0] & halves[1]
    samples = three.half_samples(60)
    assert all(len(rows) == 30 and len(set(rows % N)) == 10 for rows in samples)
    trainer = Trainer(three, Config(levels=2, log2_table=8, blocks=1), consensus(three, limit=300))
    held, trained = set((trainer.held % N).tolist()), set((trainer.rows % N).tolist())
    assert len(held) == 50 and len(trainer.held) == 150
    assert not held & trained and len(held | trained) == N
    assert len(trainer.images) == N, "each image is held once"


def test_copies_count_once(star, three):
    "What copies of a rigid ring say is what its images said; junk has one score an image."
    plain = load_particles(star)
    once, thrice = verdict(plain), verdict(three)
    assert once.count == thrice.count == N
    assert not thrice.moving
    scores = junk_scores(three).reshape(3, N)
    assert np.array_equal(scores[0], scores[1]) and np.array_equal(scores[0], scores[2])


def test_an_expanded_star_file_is_expanded_once(three, tmp_path):
    "RELION writes such files, too: its halves go by image, and it is not expanded again."
    path = write_star(three, three.path.with_name("expanded.star"))
    again = load_particles(path)
    assert torch.allclose(again.rotations, three.rotations, atol=1e-5)
    del again.table["rlnRandomSubset"]
    halves = [set(rows % N) for rows in again.half_rows()]
    assert not halves[0] & halves[1]
    with pytest.raises(InputError, match="expanded already"):
        load_particles(path, symmetry="C3")


@pytest.fixture(scope="module")
def run(star, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "c3"
    words = ["train", str(star), "--out", str(folder), "--epochs", "1", *TINY]
    assert main([*words, "--symmetry", "c3"]) == 0
    return Run.load(folder)


def test_a_run_knows_its_symmetry(run, three, star, tmp_path, capfd):
    assert len(run.latents) == 3 * N
    again = run_particles(run)
    assert again.symmetry == "C3" and torch.equal(again.rotations, three.rotations)
    table = read_star(run.path / "poses.star").columns
    assert table["cryoformerSymmetryCopy"].tolist() == np.repeat([0, 1, 2], N).tolist()
    shutil.copytree(run.path, tmp_path / "run")
    words = ["train", str(star), "--out", str(tmp_path / "run"), "--epochs", "2", "-q", "--resume"]
    assert main(words) == 2
    assert "expected the 1200 particles" in capfd.readouterr().err
    assert main([*words, "--symmetry", "C3"]) == 0


def test_a_run_is_held_against_the_truth(run, star, tmp_path):
    "The images as they were given are scored; copies have the state of their image, poses turned."
    truth = star.parent / "truth"
    found = score(run, truth, n=4)
    assert found["good"] == N and found["rotation_median"] < 1e-3
    R, t = true_poses(run, truth)
    assert np.allclose(R, run.poses[0], atol=1e-4) and np.allclose(t, run.poses[1], atol=1e-4)
    assert len(true_states(run, truth)) == 3 * N
    report(run, tmp_path / "report.html", truth)


def test_selections_are_copies_in_star_files_and_images_elsewhere(run, tmp_path):
    copies = [3, N + 3, 2 * N + 3]
    assert run.copies[copies].tolist() == [[3, 0], [3, 1], [3, 2]]
    assert np.load(save_selection(copies, tmp_path / "whole.npy", run)).tolist() == [3]
    chosen = read_star(save_selection(copies[1:], tmp_path / "some.star", run)).columns
    assert chosen["cryoformerSymmetryCopy"].tolist() == [1, 2]
    assert chosen["rlnImageName"].nunique() == 1
    with pytest.raises(InputError, match="save as .star"):
        save_selection(copies[1:], tmp_path / "some.npy", run)
