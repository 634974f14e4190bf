"""Junk is told from particles, and what is left out is left out everywhere."""

from dataclasses import replace

import numpy as np
import pytest

from cryoformer_nb.command.cli import main
from cryoformer_nb.core.conventions import InputError
from cryoformer_nb.imaging.nuisances import REALISTIC
from cryoformer_nb.imaging.simulator import simulate
from cryoformer_nb.imaging.truth import read_junk
from cryoformer_nb.particles.junk import JUNK_SCORE, junk_scores
from cryoformer_nb.particles.particles import load_particles


@pytest.fixture(scope="module")
def star(tmp_path_factory):
    kinds = ("noise", "ice", "empty")
    nuisances = replace(REALISTIC, junk=0.2, junk_kinds=kinds, offset=0.0, gradient=0.0)
    folder = tmp_path_factory.mktemp("junk") / "set"
    return simulate(folder, "arm", n=500, box=32, snr=0.2, nuisances=nuisances)


def test_junk_scores_higher_than_particles(star):
    scores, junk = junk_scores(load_particles(star)), read_junk(star.parent / "truth")
    assert (scores[junk][:, None] > scores[~junk]).mean() > 0.97
    assert (scores[junk] > JUNK_SCORE).mean() > 0.8 and (scores[~junk] > JUNK_SCORE).mean() < 0.05


def test_the_commands_leave_junk_out(star, tmp_path, capsys):
    out = star.parent / "good.star"
    assert main(["junk", str(star), "--out", str(out)]) == 0
    scores = junk_scores(load_particles(star))
    good = load_particles(out)
    assert len(good) == (scores <= JUNK_SCORE).sum() < 500
    assert list(good.table["rlnImageName"]) == [
        name
        for name, score in zip(load_particles(star).table["rlnImageName"], scores)
        if score <= JUNK_SCORE
    ]
    assert main(["junk", str(star), "--out", str(out)]) == 2
    assert main(["junk", str(star), "--out", str(star), "--overwrite"]) == 2
    settings = ["--set", "levels=2", "hidden=8", "queries=2", "--quiet"]
    run = tmp_path / "run"
    assert (
        main(["train", str(star), "--out", str(run), "--epochs", "1", "--drop-junk", *settings])
        == 0
    )
    assert f"left out {500 - len(good)} of 500 images" in capsys.readouterr().out
    assert len(np.load(run / "latents.npy")) == len(good)


def test_a_few_images_are_refused(star):
    with pytest.raises(InputError, match="at least 50 particles"):
        junk_scores(load_particles(star).subset(np.arange(40)))
