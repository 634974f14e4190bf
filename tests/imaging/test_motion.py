"""Motion between two deposited structures of adenylate kinase, against molecular dynamics."""

import json

import gemmi
import numpy as np
import pytest

from cryoformer_nb.command.cli import main
from cryoformer_nb.core.conventions import InputError
from cryoformer_nb.imaging.motion import (
    describe,
    find_domains,
    morph,
    move,
    read_pair,
    rms,
    superpose,
)
from cryoformer_nb.imaging.structures import load_models, read_structure, write_residues


@pytest.fixture
def adk(shared):
    return shared("structures/adk_open.pdb"), shared("structures/adk_closed.pdb")


def straight(motion):
    s = np.linspace(0, 1, len(motion.xyz))[:, None, None]
    return (1 - s) * motion.xyz[0] + s * motion.xyz[-1]


def stretch(way, trace):
    "Changes (A) of the distance of neighbours on the chain against the ends: rms and largest."
    d = np.linalg.norm(np.diff(way[:, trace], axis=1), axis=-1)
    s = np.linspace(0, 1, len(way))[:, None]
    error = d - ((1 - s) * d[0] + s * d[-1])
    return (error**2).mean() ** 0.5, abs(error).max()


def test_adk_domains_are_those_of_the_literature(adk):
    "CORE, NMP (30 to 67) and LID (118 to 167); the literature itself differs by a few residues."
    motion = morph(*adk, frames=2)
    number = np.array([int(n) for _, n in motion.names])
    lid, nmp = (motion.domains == k for k in (1, 2))
    assert motion.domains.max() == 2 and len(number) == 214
    assert (
        abs(number[lid][[0, -1]] - [118, 167]).max() <= 4 and lid.sum() == np.ptp(number[lid]) + 1
    ), "one stretch"
    assert abs(number[nmp][[0, -1]] - [30, 67]).max() <= 4 and nmp.sum() == np.ptp(number[nmp]) + 1
    angles = [row["angle_deg"] for row in describe(motion)]
    assert angles[0] == 0 and 35 < angles[2] < angles[1] < 60 and motion.misfit < 2.5


def test_adk_ends_are_the_structures_and_bonds_hold(adk):
    motion = morph(*adk, frames=50)
    pair = read_pair(*adk)
    assert (
        np.array_equal(pair.a, load_models(adk[0])[0][0].double().numpy().round(3))
        or abs(pair.a - load_models(adk[0])[0][0].numpy()).max() < 1e-5
    )
    assert abs(motion.xyz[0] - pair.a).max() < 1e-9
    assert abs(move(superpose(pair.b, motion.xyz[-1]), pair.b) - motion.xyz[-1]).max() < 1e-9
    ours, lines = stretch(motion.xyz, motion.trace), stretch(straight(motion), motion.trace)
    print(
        f"neighbouring CA, rms and largest deviation: {ours[0]:.3f} and {ours[1]:.2f} A, on "
        f"straight lines {lines[0]:.3f} and {lines[1]:.2f} A"
    )
    assert ours[0] < 0.04 and ours[1] < 0.4 and lines[0] > 3 * ours[0] and lines[1] > 1.5 * ours[1]


def test_adk_against_the_simulated_transition(adk, shared):
    """The path comes as near to the frames of the dynamics as a straight line does, but only it
    keeps the shape of the domains. (The frames have disorder of their own, 1 to 3 A inside each
    domain, and close one domain after the other.)"""
    motion = morph(*adk, frames=11)
    frames = np.load(shared("adk/truth/atoms.npz"))["xyz"].astype(float)[::4][:, motion.trace]
    way, lines = motion.xyz[:, motion.trace], straight(motion)[:, motion.trace]
    near = [np.array([min(rms(x, f) for f in frames) for x in some]) for some in (way, lines)]
    print(
        "CA RMSD to the nearest frame of the transition, mean over the way: "
        f"{near[0].mean():.2f} A, on straight lines {near[1].mean():.2f} A"
    )
    assert (
        near[0].max() < 2.0
        and near[0].mean() < near[1].mean() + 0.1
        and near[0][[0, -1]].max() < 0.7
    )
    for k in (1, 2):
        part = motion.domains == k
        half, ends = [x[5][part] for x in (way, lines)], [x[part] for x in way[[0, -1]]]
        inner = [np.mean([rms(h, e) for e in ends]) for h in half]
        print(
            f"domain {k}: half way {inner[0]:.2f} A from its shape at the ends, on straight "
            f"lines {inner[1]:.2f} A (the ends differ by {rms(*ends):.2f} A)"
        )
        assert inner[0] < 0.51 * rms(*ends) + 1e-6 < inner[1]


def test_same_result_from_both_ends(adk):
    there, back = morph(*adk, frames=5), morph(*adk[::-1], frames=5)
    assert (
        np.array_equal(there.domains > 0, back.domains > 0)
        or (there.domains != back.domains).mean() < 0.03
    )
    assert max(rms(x[there.trace], y[back.trace]) for x, y in zip(there.xyz, back.xyz[::-1])) < 0.5


def test_command_line(adk, tmp_path, capsys):
    out = tmp_path / "set"
    assert (
        main(
            [
                "simulate",
                str(out),
                "--from",
                str(adk[0]),
                "--to",
                str(adk[1]),
                "--frames",
                "6",
                "-n",
                "40",
                "--box",
                "32",
                "--pixel-size",
                "3",
                "--seed",
                "1",
            ]
        )
        == 0
    )
    said = capsys.readouterr().out
    assert "3 parts" in said and "degrees" in said
    assert len(json.loads((out / "truth" / "motion.json").read_text())["domains"]) == 3
    xyz = np.load(out / "truth" / "atoms.npz")["xyz"]
    assert xyz.shape == (6, 1656, 3) and np.load(out / "truth" / "labels.npy").max() == 5
    assert (
        main(
            [
                "simulate",
                str(tmp_path / "no"),
                "--from",
                str(adk[0]),
                "--to",
                str(adk[1]),
                "--box",
                "32",
                "--pixel-size",
                "1",
            ]
        )
        == 2
    )
    assert "larger box" in capsys.readouterr().err
    assert (
        main(["simulate", str(tmp_path / "no"), "--from", str(adk[0])]) == 2
        and "--to" in capsys.readouterr().err
    )
    assert (
        main(
            [
                "simulate",
                str(tmp_path / "no"),
                "--from",
                str(adk[0]),
                "--to",
                str(adk[1]),
                "--preset",
                "arm",
            ]
        )
        == 2
        and "--preset" in capsys.readouterr().err
    )
    assert (
        main(["simulate", str(tmp_path / "no"), "--preset", "arm", "--frames", "7"]) == 2
        and "--frames" in capsys.readouterr().err
    )
    assert not (tmp_path / "no").exists()


def edited(path, out, edit):
    "A copy of a structure, changed by edit(model)."
    structure = read_structure(path)
    edit(structure[0])
    structure.setup_entities()
    structure.write_pdb(str(out))
    return out


def refusal(*files) -> str:
    with pytest.raises(InputError) as info:
        morph(*files)
    message = str(info.value)
    assert "\n" not in message and "expected" in message and "found" in message and ";" in message
    return message


def test_chains_and_residues_that_do_not_correspond(adk, shared, tmp_path):
    def rename(model):
        model[0].name = "Q"

    def renumber(model):
        for r in model[0]:
            r.seqid = gemmi.SeqId(r.seqid.num + 7, " ")

    def cut(first):
        def edit(model):
            for k in reversed(range(len(model[0]))):
                if model[0][k].seqid.num >= first:
                    del model[0][k]

        return edit

    def mutate(model):
        model[0][99].name = "TRP"

    named = morph(adk[0], edited(adk[1], tmp_path / "q.pdb", rename), frames=3)
    assert "chains matched by sequence: blank with Q" in named.notes
    mutant = morph(adk[0], edited(adk[1], tmp_path / "m.pdb", mutate), frames=3)
    assert (
        "1 residues with another name" in mutant.notes[0]
        and abs(mutant.xyz - morph(*adk, frames=3).xyz).max() < 1e-2
    )
    part = morph(adk[0], edited(adk[1], tmp_path / "p.pdb", cut(190)), frames=3)
    assert (
        "left out: 25 of the first structure, 0 of the second" in part.notes[0]
        and len(part.names) == 189
    )
    assert "half of the residues" in refusal(adk[0], edited(adk[1], tmp_path / "c.pdb", cut(50)))
    assert "same numbers" in refusal(adk[0], edited(adk[1], tmp_path / "n.pdb", renumber))
    assert "same numbers" in refusal(adk[0], shared("structures/8zpm.cif"))
    assert "another conformation" in refusal(adk[0], adk[0])
    assert "PDB or mmCIF" in refusal(adk[0], tmp_path / "none.pdb")


def test_missing_chain_is_noted_or_refused(tmp_path):
    rng = np.random.default_rng(0)
    residues = rng.normal(size=(120, 1, 3)) * 8 + rng.normal(size=(120, 2, 3))
    residues += (np.arange(120) // 40 * 30.0)[:, None, None] * [1, 0, 0]
    moved = residues.copy()
    moved[40:80] += [0, 0, 9]
    a = write_residues(tmp_path / "a.pdb", residues, "ABC")
    two = morph(a, write_residues(tmp_path / "b.pdb", moved[:80], "AB"), frames=2)
    assert "left out: 40 of the first structure" in two.notes[0]
    assert "half of the residues" in refusal(a, write_residues(tmp_path / "c.pdb", moved[:40], "A"))


def test_many_domains_at_once():
    "Five blobs, each with a motion of its own."
    rng = np.random.default_rng(3)
    from scipy.spatial.transform import Rotation

    x = np.concatenate([rng.normal(size=(40, 3)) * 6 + [40 * k, 0, 0] for k in range(5)])
    y = np.concatenate(
        [
            Rotation.from_rotvec([0, 0.3 * k, 0.1 * k * k]).apply(part) + [0, 5 * k, 0]
            for k, part in enumerate(np.split(x, 5))
        ]
    )
    found = find_domains(x, y)
    assert (
        len(set(found)) == 5
        and len({np.bincount(part).argmax() for part in np.split(found, 5)}) == 5
    )
    assert sum(np.bincount(part).max() for part in np.split(found, 5)) >= 196
