"""CryoBench's figures equal what its own scripts gave, and the way from its files to the table.

The constants are the output of CryoBench's metrics/fsc/cdrgn_per_img_fsc.py (with and without
--mask, n = 10), metrics/fsc/utils/volumes.py and metrics/neighborhood_similarity/
cal_neighb_hit_werror.py at commit 20931c235a7c78626ed169d00d4534f80c63bc86 for the maps, labels
and latents that the functions below make.
"""

import json
import pickle

import numpy as np
import pytest
import torch

from cryoformer_nb.bench.cryobench import (
    CryoBenchSet,
    cryobench_curves,
    figures,
    nearest_to_means,
    neighbour_hits,
    read_cryobench,
    simulate_cryobench,
)
from cryoformer_nb.command.cli import main
from cryoformer_nb.core.conventions import InputError
from cryoformer_nb.core.files import write_map
from cryoformer_nb.imaging.molecules import Molecule

FSC = [1.0, 1.0, 0.755415, 0.624445, 0.615721, 0.681353, 0.582586, 0.529984]
MASKED_FSC = [1.0, 1.0, 0.613728, 0.680779, 0.598954, 0.656807, 0.578332, 0.483503]
AREAS = [0.314032, 0.224189, 0.314552, 0.320006, 0.224425, 0.224334, 0.25043, 0.282138]
AREAS += [0.224054, 0.311988, 0.245248]
MASKED_AREAS = [0.304397, 0.21633, 0.304921, 0.310424, 0.216582, 0.21648, 0.241194, 0.272494]
MASKED_AREAS += [0.216195, 0.302341, 0.236346]
SUMMARY = (0.2668542131273584, 0.03999265834656203, 0.2504300996661186)
MASKED_SUMMARY = (0.25797295959835703, 0.03925848548620544, 0.24119353014975786)
CONFORMATIONS = [0.224054, 0.25043, 0.283889, 0.314032]
HITS = ([1.7886584997, 3.2619509697, 6.4685363770], [0.110662654, 0.409379482, 0.334687561])


def random(seed: int) -> np.random.RandomState:
    "Numbers that numpy promises to keep."
    return np.random.RandomState(seed)


def maps() -> np.ndarray:
    return random(1).standard_normal((3, 16, 16, 16)).astype(np.float32)


class Decoder:
    "A run whose maps follow a formula."

    box = 16
    labels = random(5).randint(0, 4, 61)
    latents = labels[:, None] + 0.2 * random(2).standard_normal((61, 2))

    def volumes(self, zs) -> np.ndarray:
        a, b, c = maps()
        return np.stack([0.3 * a + np.float32(0.2 * z[0]) * b + c for z in zs])


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> CryoBenchSet:
    "True maps vol_8 to vol_11, which an alphabet would put in another order, and a mask."
    folder = tmp_path_factory.mktemp("theirs")
    a, b, _ = maps()
    files = [folder / f"vol_{state + 8}.mrc" for state in range(4)]
    for state, file in enumerate(files):
        write_map(file, a + state * b, 3.0)
    write_map(folder / "mask.mrc", random(3).uniform(size=(16, 16, 16)), 3.0)
    return CryoBenchSet("theirs", None, Decoder.labels, files, folder / "mask.mrc")


def test_curves_are_theirs():
    a, b, _ = torch.tensor(maps()).double()
    found = torch.tensor(Decoder().volumes(Decoder.latents[:1])).double()
    state = float(Decoder.labels[0])
    mask = torch.tensor(random(3).uniform(size=(16, 16, 16)))
    assert cryobench_curves(found, a + state * b)[0].tolist() == pytest.approx(FSC, abs=2e-6)
    masked = cryobench_curves(found * mask, (a + state * b) * mask)[0]
    assert masked.tolist() == pytest.approx(MASKED_FSC, abs=2e-6)


def test_figures_are_theirs(theirs):
    rows = {row.measure: row for row in figures(Decoder(), theirs, n=10)}
    for measure, each, summary in (
        ("per image", AREAS, SUMMARY),
        ("per image, in the mask", MASKED_AREAS, MASKED_SUMMARY),
    ):
        row = rows[measure]
        assert row.each == pytest.approx(each, abs=2e-6)
        assert (row.mean, row.deviation, row.median) == pytest.approx(summary, abs=2e-6)
    assert rows["per conformation"].each == pytest.approx(CONFORMATIONS, abs=2e-6)
    assert nearest_to_means(Decoder.latents, Decoder.labels).shape == (4,)


def test_neighbours_are_theirs():
    angle = random(7).uniform(0, 2 * np.pi, 203)
    circle = np.stack([np.cos(angle), np.sin(angle)], 1)
    latents = circle @ random(8).standard_normal((2, 3)) + 0.4 * random(9).standard_normal((203, 3))
    mean, deviation = neighbour_hits(circle, latents, [2, 4, 8])
    assert mean.tolist() == pytest.approx(HITS[0], abs=1e-5)
    assert deviation.tolist() == pytest.approx(HITS[1], abs=1e-5)


def turning() -> Molecule:
    "Two states of four blobs, of which one moves far."
    still = np.array([[-12.0, 0, 0], [0, -10, 4], [4, 0, -14]])
    xyz = np.stack([np.vstack([still, [moves, 10, 8]]) for moves in (-12.0, 14.0)])
    return Molecule(xyz, np.ones(4), 80.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "two"
    return simulate_cryobench(folder, turning(), n=120, box=16, snr=1.0, seed=1)


def test_a_simulated_set_is_theirs_to_read(made):
    s = read_cryobench(made)
    assert s.particles.sign == -1
    assert s.labels.tolist() == [0] * 60 + [1] * 60
    assert (len(s.maps), s.name) == (2, "two")
    assert float(abs(s.particles.shifts_px).max()) == pytest.approx(20 / 16, rel=0.05)
    lines = (made / "images/snr1/sorted_particles.16.txt").read_text().split()
    assert lines == ["particles_000.16.mrcs", "particles_001.16.mrcs"]
    assert len(pickle.loads((made / "combined_ctfs.pkl").read_bytes())[0]) == 9


@pytest.mark.slow
def test_the_command_from_files_to_the_table(made, tmp_path, capsys):
    run = ["--run", str(tmp_path / "run"), "--out", str(tmp_path), "-n", "20"]
    assert main(["benchmark", "cryobench", str(made), *run, "--minutes", "0.1"]) == 0
    first = capsys.readouterr().out
    rows = json.loads((tmp_path / "cryobench.json").read_text())["rows"]
    assert [row["count"] for row in rows[:4]] == [20, 20, 2, 2]
    assert 0.1 < rows[0]["mean"] < 0.5 - 1 / 16
    assert main(["benchmark", "cryobench", str(made), *run]) == 0  # the run is taken as it is
    assert capsys.readouterr().out == first
    assert "per image, in the mask" in first


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda d: (d / "gt_latents.pkl").unlink(), "states (gt_*.pkl)"),
        (lambda d: (d / "vols/16_org/vol_001.mrc").unlink(), "one of 1 true maps"),
        (lambda d: (d / "vols/16_org").rename(d / "other"), "expected true maps in vols/16_org"),
        (lambda d: (d / "images/more_particles.txt").write_text("x"), None),
        (lambda d: (d / "gt_latents.pkl").write_bytes(pickle.dumps(np.zeros(7))), "(7,)"),
    ],
)
def test_what_is_missing_is_said_in_one_line(made, tmp_path, damage, said):
    import shutil

    folder = shutil.copytree(made, tmp_path / "set")
    damage(folder)
    with pytest.raises(InputError) as refused:
        read_cryobench(folder)
    assert "\n" not in str(refused.value)
    assert said is None or said in str(refused.value)


def test_the_command_line_simulates_a_set(tmp_path, capsys):
    options = "--cryobench -n 100 --box 16 --snr 0.5 --seed 3".split()
    assert main(["simulate", str(tmp_path / "set"), *options]) == 0
    assert len(read_cryobench(tmp_path / "set").maps) == 100
    assert "cryoformer benchmark cryobench" in capsys.readouterr().out
    assert main(["simulate", str(tmp_path / "set"), *options]) == 2
    assert main(["simulate", str(tmp_path / "other"), *options, "--solvent", "0.3"]) == 2
    assert main(["benchmark", "cryobench"]) == 2
    assert main(["benchmark", "quality", str(tmp_path)]) == 2
