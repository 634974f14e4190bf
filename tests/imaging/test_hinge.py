"""Structures and the motion between two of them, on a small hinged molecule of tests/fixtures."""

import json

import numpy as np
import pytest
import starfile
import torch

from cryoformer_nb import InputError, simulate
from cryoformer_nb.command.cli import main
from cryoformer_nb.imaging.density import gaussian_volume
from cryoformer_nb.imaging.molecules import turned_part
from cryoformer_nb.imaging.motion import describe, morph, move, read_pair, rms, superpose
from cryoformer_nb.imaging.structures import atoms_to_map, load_atoms


@pytest.fixture(scope="module")
def hinge(fixtures):
    return fixtures / "open.pdb", fixtures / "closed.pdb"


@pytest.fixture(scope="module")
def motion(hinge):
    return morph(*hinge, frames=11)


def straight(motion) -> np.ndarray:
    s = np.linspace(0, 1, len(motion.xyz))[:, None, None]
    return (1 - s) * motion.xyz[0] + s * motion.xyz[-1]


def stretch(way) -> float:
    "Root mean square change (A) of the distance of neighbours on the chain, against the ends."
    d = np.linalg.norm(np.diff(way, axis=1), axis=-1)
    s = np.linspace(0, 1, len(way))[:, None]
    return float(((d - ((1 - s) * d[0] + s * d[-1])) ** 2).mean() ** 0.5)


# ---------------------------------------------------------------- reading structures


def test_file_without_elements(hinge):
    "CA is carbon, not calcium."
    xyz, weights, elements = load_atoms(hinge[0])
    assert xyz.shape == (140, 3)
    assert set(weights.tolist()) == {6}
    assert set(elements) == {"C"}


def test_mmcif_file(fixtures, hinge):
    "Its hydrogen is left out, its oxygen is not."
    xyz, weights, elements = load_atoms(fixtures / "helix.cif")
    assert len(xyz) == 21
    assert sorted(set(elements)) == ["C", "O"]
    assert sorted(set(weights.tolist())) == [6, 8]
    carbons = xyz[weights == 6]
    assert torch.allclose(carbons, load_atoms(hinge[0])[0][:20], atol=1e-3)


def test_scattering_map_is_where_the_atoms_are(hinge):
    xyz, weights, _ = load_atoms(hinge[0])
    scattering = atoms_to_map(hinge[0], 32, 4.0, 10.0)
    model = gaussian_volume(xyz - xyz.mean(0), weights, 0.225 * 10.0 * 1.05, 32, 4.0)
    agreement = torch.corrcoef(torch.stack([scattering.flatten(), model.flatten()]))[0, 1]
    assert agreement > 0.98
    mirrored = torch.stack([scattering.flatten(), model.transpose(0, 2).flatten()])
    assert torch.corrcoef(mirrored)[0, 1] < 0.9


def test_structure_that_does_not_fit(hinge):
    with pytest.raises(InputError, match="larger box"):
        atoms_to_map(hinge[0], 32, 1.0, 5.0)


# ---------------------------------------------------------------- the motion


def test_domains_are_those_that_were_turned(motion, generator):
    "A core of 60 residues, a lid and an arm of 40; one residue may go either way at a hinge."
    assert motion.domains.max() == 2
    named = np.zeros(140, dtype=int)
    for part in (generator.LID, generator.ARM):
        named[part] = np.bincount(motion.domains[part]).argmax()
    assert set(named) == {0, 1, 2}
    assert (named != motion.domains).sum() <= 2


def test_angles_are_those_that_were_given(motion):
    angles = sorted(row["angle_deg"] for row in describe(motion))
    assert angles == pytest.approx([0, 30, 40], abs=0.1)
    assert motion.misfit < 0.01


def test_ends_are_the_structures(motion, hinge):
    pair = read_pair(*hinge)
    assert np.abs(motion.xyz[0] - pair.a).max() < 1e-9
    last = move(superpose(pair.b, motion.xyz[-1]), pair.b)
    assert np.abs(last - motion.xyz[-1]).max() < 1e-9


def test_path_keeps_bonds_and_domains(motion, generator):
    "On straight lines between the ends the turned parts shrink; on the path they do not."
    lines = straight(motion)
    assert stretch(motion.xyz) < 0.1
    assert stretch(lines) > 2 * stretch(motion.xyz)
    for part in (generator.LID, generator.ARM):
        ours, theirs = (rms(x[5][part], x[0][part]) for x in (motion.xyz, lines))
        assert ours < 0.1
        assert theirs > 5 * ours


def test_same_way_from_both_ends(motion, hinge):
    back = morph(*hinge[::-1], frames=11)
    assert (motion.domains != back.domains).mean() < 0.03
    assert max(rms(x, y) for x, y in zip(motion.xyz, back.xyz[::-1])) < 0.5


def edited(path, out, edit):
    "A copy of a structure whose lines went through `edit`."
    lines = path.read_text().splitlines(keepends=True)
    out.write_text("".join(filter(None, map(edit, lines))))
    return out


def test_chain_with_another_name(hinge, tmp_path):
    def rename(line):
        return line.replace(" A", " Q", 1)

    named = morph(hinge[0], edited(hinge[1], tmp_path / "q.pdb", rename), frames=3)
    assert "chains matched by sequence: A with Q" in named.notes


def test_missing_residues_are_noted(hinge, tmp_path):
    def cut(line):
        return line if line[:3] == "END" or int(line[22:26]) < 120 else ""

    part = morph(hinge[0], edited(hinge[1], tmp_path / "p.pdb", cut), frames=3)
    assert "left out: 21 of the first structure, 0 of the second" in part.notes[0]
    assert len(part.names) == 119


def refusal(*files) -> str:
    with pytest.raises(InputError) as info:
        morph(*files)
    return str(info.value)


def test_structures_that_do_not_correspond(hinge, fixtures, tmp_path):
    def renumber(line):
        return line if line[:3] == "END" else f"{line[:22]}{int(line[22:26]) + 6:4d}{line[26:]}"

    assert "same numbers" in refusal(hinge[0], edited(hinge[1], tmp_path / "n.pdb", renumber))
    assert "another conformation" in refusal(hinge[0], hinge[0])
    assert "half of the residues" in refusal(hinge[0], fixtures / "helix.cif")
    assert "PDB or mmCIF" in refusal(hinge[0], tmp_path / "none.pdb")


# ---------------------------------------------------------------- sets made of them


def test_set_of_one_structure(hinge, tmp_path):
    star = simulate(tmp_path / "set", preset=hinge[1], n=20, box=32, pixel_size=5.0, seed=1)
    assert len(starfile.read(star)["particles"]) == 20
    assert np.load(tmp_path / "set/truth/labels.npy").max() == 0
    assert len(list((tmp_path / "set/truth").glob("vol_*.mrc"))) == 1


def test_set_of_a_motion(hinge, tmp_path, capsys):
    ends = ["--from", str(hinge[0]), "--to", str(hinge[1])]
    size = ["--frames", "6", "-n", "40", "--box", "32", "--pixel-size", "5", "--seed", "1"]
    assert main(["simulate", str(tmp_path / "set"), *ends, *size]) == 0
    assert "3 parts" in capsys.readouterr().out
    truth = tmp_path / "set" / "truth"
    assert len(json.loads((truth / "motion.json").read_text())["domains"]) == 3
    assert np.load(truth / "atoms.npz")["xyz"].shape == (6, 140, 3)
    assert np.load(truth / "labels.npy").max() == 5


@pytest.mark.parametrize(
    "more, word",
    [
        (["--to", "closed.pdb", "--box", "32", "--pixel-size", "1"], "larger box"),
        ([], "--to"),
        (["--to", "closed.pdb", "--preset", "arm"], "--preset"),
    ],
)
def test_motion_that_is_refused(hinge, tmp_path, capsys, monkeypatch, more, word):
    monkeypatch.chdir(hinge[0].parent)
    assert main(["simulate", str(tmp_path / "no"), "--from", "open.pdb", *more]) == 2
    assert word in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_recipe_on_the_two_structures(hinge, tmp_path, capsys):
    "Any two states go through the command of the data set."
    ends = ["--from", str(hinge[0]), "--to", str(hinge[1])]
    size = ["--small", "-n", "30", "--frames", "5", "--snr", "0.01"]
    assert main(["simulate", str(tmp_path / "set"), "--preset", "pedv", *ends, *size]) == 0
    assert "3 parts" in capsys.readouterr().out


# ---------------------------------------------------------------- one structure, a part of it turns


def test_a_part_turns_about_its_chain(hinge):
    "Rigid, about the line through the two C-alpha atoms where the chain leaves it."
    found = turned_part(hinge[0], "A/111-200", 12)
    xyz = found.xyz
    start = load_atoms(hinge[0])[0].numpy()
    moving = np.abs(xyz - xyz[0]).max((0, 2)) > 1e-6
    assert np.allclose(xyz[0], start)
    assert 0 < moving.sum() < len(moving) / 2
    shape = np.linalg.norm(xyz[:, moving, None] - xyz[:, None, moving], axis=-1)
    assert np.allclose(shape, shape[0], atol=1e-4)
    assert np.allclose(np.linalg.norm(found.coordinates, axis=1), 1)
    step = found.coordinates[1] @ found.coordinates[0]
    assert step == pytest.approx(np.cos(np.pi / 6))


@pytest.mark.parametrize("part", ["A/5-15", "Z", "", "A", "A/x", "H:1", "*/1-20"])
def test_a_part_that_no_chain_leaves_once_is_refused(hinge, part):
    with pytest.raises(InputError, match="leaves once"):
        turned_part(hinge[0], part)


def test_a_set_of_a_turning_part(hinge, tmp_path, capsys):
    "By both layouts; the truth is a point on a circle."
    words = ["--from", str(hinge[0]), "--turn", "A/111-200", "--frames", "6", "-n", "12"]
    assert main(["simulate", str(tmp_path / "a"), *words, "--box", "16"]) == 0
    assert np.load(tmp_path / "a/truth/atoms.npz")["coordinates"].shape == (6, 2)
    assert main(["simulate", str(tmp_path / "b"), *words, "--box", "16", "--cryobench"]) == 0
    assert len(list((tmp_path / "b/vols/16_org").glob("*.mrc"))) == 6
    capsys.readouterr()
    for more in (["--to", str(hinge[1])], ["--preset", "arm"]):
        assert main(["simulate", str(tmp_path / "c"), *words, *more]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert main(["simulate", str(tmp_path / "c"), "--turn", "A/111-200"]) == 2
    assert not (tmp_path / "c").exists()
