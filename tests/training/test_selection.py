"""Chosen particles go back to the programs that the set came from, by the numbers of its file."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest

from cryoformer_nb.core.conventions import InputError
from cryoformer_nb.particles.identity import identity
from cryoformer_nb.particles.particles import load_particles
from cryoformer_nb.training.inference import save_selection


def run_on(path, rows=None):
    "What a run knows of its particles."
    particles = load_particles(path, rows=rows)
    return SimpleNamespace(checkpoint=dict(particles=identity(particles))), particles


@pytest.mark.parametrize("kind", ["npy", "txt", "pkl"])
def test_numbers_are_those_of_the_file(fixtures, tmp_path, kind):
    "Of a run on a part of a set; other programs, and --ind, count in the file."
    run, particles = run_on(fixtures / "relion31.star", [9, 3, 4, 7])
    path = save_selection([0, 2], tmp_path / f"chosen.{kind}", run)
    read = dict(npy=np.load, txt=np.loadtxt, pkl=lambda p: pickle.loads(p.read_bytes()))[kind]
    assert sorted(read(path)) == [4, 9]
    if kind != "txt":
        again = load_particles(fixtures / "relion31.star", rows=path)
        chosen = particles.subset([2, 0])
        assert np.allclose(again.rotations, chosen.rotations)


def test_cryosparc_gets_its_own_table_back(fixtures, tmp_path):
    "All fields, half sets and uids too."
    source = fixtures / "J7_005_particles.cs"
    run, particles = run_on(source, [9, 3, 4, 7])
    path = save_selection([2, 0], tmp_path / "chosen.cs", run)
    given, found = np.load(source), np.load(path)
    assert found.dtype == given.dtype
    assert np.array_equal(found["uid"], given["uid"][[4, 9]])
    again = load_particles(
        path, datadir=fixtures, passthrough=fixtures / "J7_passthrough_particles.cs"
    )
    assert np.allclose(again.rotations, particles.subset([2, 0]).rotations)
    halves = "rlnRandomSubset"
    assert np.array_equal(again.table[halves], particles.subset([2, 0]).table[halves])


def test_a_set_of_another_program_has_no_such_table(fixtures, tmp_path):
    run, _ = run_on(fixtures / "relion31.star")
    for one in (run, None):
        with pytest.raises(InputError, match="cryoSPARC"):
            save_selection([1], tmp_path / "chosen.cs", one)
    assert not list(tmp_path.iterdir())
