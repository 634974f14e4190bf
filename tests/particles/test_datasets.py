"""The recipes of datasets/: what their READMEs say runs, from files to a report, in small."""

import json
import shlex
from pathlib import Path

import gemmi
import numpy as np
import pytest

from cryoformer_nb.command.cli import main
from cryoformer_nb.particles.particles import load_particles
from cryoformer_nb.particles.recipes import RECIPES, commands, recipe, stand_in

DATASETS = Path(__file__).resolve().parents[2] / "datasets"
QUICK = [
    "--epochs",
    "0.1",
    "--quiet",
    "--set",
    "batch=8",
    "queries=2",
    "levels=4",
    "hidden=16",
    "encoder_width=16",
    "encoder_layers=2",
]


def run(line: str, *more) -> int:
    words = shlex.split(line)
    assert words[0] == "cryoformer"
    return main(words[1:] + [str(m) for m in more])


@pytest.mark.parametrize("name", RECIPES)
def test_readme_has_the_commands_of_the_recipe(name):
    text = (DATASETS / name / "README.md").read_text(encoding="utf-8")
    data = f"data/{name}" if not RECIPES[name].reads else "data"
    for line in commands(name, data, f"runs/{name}"):
        assert line in text, f"datasets/{name}/README.md lacks: {line}"
    assert f"({name}/README.md)" in (DATASETS / "README.md").read_text(encoding="utf-8")


def test_folders_and_recipes_are_the_same():
    assert {p.name for p in DATASETS.iterdir() if p.is_dir()} == {*RECIPES, "arm", "spike"}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, r in RECIPES.items() if r.reads])
def test_deposited_set_from_files_to_report(name, tmp_path, capsys):
    data = stand_in(name, tmp_path / "data", n=300)
    train, volumes, report = commands(name, data, tmp_path / "run", small=True)
    assert run(train.replace("--box 64", "--box 32"), *QUICK) == 0, capsys.readouterr().err
    assert run(volumes, "-n", 2, "--quiet") == 0
    assert run(report) == 0
    p = load_particles(
        tmp_path / "run" / "poses.star",
        datadir=data / "10028/data/Particles"
        if "10028" in name
        else data / "10180/data"
        if "10180" in name
        else data,
    )
    assert (
        len(p)
        == len(np.load(tmp_path / "run" / "latents.npy"))
        == (300 if "10345" in name else 150)
    )
    assert p.sign == -1
    assert (tmp_path / "run" / "report.html").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, r in RECIPES.items() if r.snr])
def test_simulated_set_from_command_to_score(name, tmp_path, capsys, monkeypatch):
    if RECIPES[name].structures:
        stand_in(name, tmp_path)
    monkeypatch.chdir(tmp_path)
    simulate, train, score, volumes, report = commands(name, "set", "run", small=True)
    assert run(simulate, "-n", 40, "--box", 32) == 0, capsys.readouterr().err
    assert "40 particles of 32 px" in capsys.readouterr().out
    assert run(train, *QUICK) == 0
    assert run(score, "-n", 4) == 0
    assert run(volumes, "-n", 2, "--quiet") == 0
    assert run(report) == 0
    p = load_particles("set/particles.star")
    field = RECIPES[name].pixel_size * RECIPES[name].box  # wider where molecule and shifts need it
    assert 0.999 * field < p.pixel_size * p.box < 1.05 * field


@pytest.mark.slow
def test_sizes_of_the_paper_are_the_defaults(tmp_path, monkeypatch):
    "Without making them: what would be simulated."
    import cryoformer_nb.particles.recipes as recipes

    asked = []
    monkeypatch.setattr(
        recipes,
        "simulate_motion",
        lambda out, a, b, frames, **options: asked.append(options | dict(frames=frames)),
    )
    files = [stand_in("pedv", tmp_path) / f"{entry}.cif" for entry in RECIPES["pedv"].structures]
    recipes.recipe("pedv", tmp_path / "x", files)
    recipes.recipe("pedv", tmp_path / "x", files, small=True, snr=0.001, n=None)
    same = dict(frames=50, widen=True)
    assert asked[0] == same | dict(n=50000, box=128, pixel_size=1.6, snr=0.1, shift_px=10)
    assert asked[1] == same | dict(n=4000, box=64, pixel_size=3.2, snr=0.001, shift_px=5)
    recipes.recipe("pedv", tmp_path / "x", files, pixel_size=4.0, shift_px=0.0)
    assert asked[2] == dict(
        n=50000, box=128, pixel_size=4.0, snr=0.1, shift_px=0.0, frames=50, widen=False
    ), "what is given goes first"


def test_pedv_on_two_real_structures(shared, tmp_path, capsys):
    "Any two states go through the same command; adenylate kinase stands in here."
    out = tmp_path / "set"
    ends = [
        "--from",
        str(shared("structures/adk_open.pdb")),
        "--to",
        str(shared("structures/adk_closed.pdb")),
    ]
    assert (
        main(
            [
                "simulate",
                str(out),
                "--preset",
                "pedv",
                *ends,
                "--small",
                "-n",
                "30",
                "--frames",
                "5",
                "--snr",
                "0.01",
            ]
        )
        == 0
    )
    assert "3 parts" in capsys.readouterr().out
    assert len(json.loads((out / "truth/motion.json").read_text())["domains"]) == 3
    assert load_particles(out / "particles.star", invert=False).pixel_size == 3.2


def other_names_and_gaps(path: Path, out: Path) -> Path:
    "The same structure, its chains renamed and ten residues of the first one missing."
    structure = gemmi.read_structure(str(path))
    for place in range(19, 9, -1):
        del structure[0][0][place]
    for chain, name in zip(structure[0], "XYZUVW"):
        chain.name = name
    structure.setup_entities()
    structure.make_mmcif_document().write_file(str(out))
    return out


def table_between(ends: list, out: Path, *more) -> list:
    "The pedv rows that `benchmark table1` makes of two files."
    words = ["--from", ends[0], "--to", ends[1], "--out", out, *more]
    assert main(["benchmark", "table1", *map(str, words)]) == 0
    stored = json.loads((out / "table1.json").read_text(encoding="utf-8"))
    assert f"between {Path(ends[0]).name} and {Path(ends[1]).name}" in stored["notes"][-1]
    assert [row["set"] for row in stored["rows"]][-1] == "one_d_motion"
    return stored["rows"][:-1]


@pytest.mark.slow
def test_files_to_table_with_missing_residues_and_renamed_chains(tmp_path):
    files = [stand_in("pedv", tmp_path) / f"{entry}.cif" for entry in RECIPES["pedv"].structures]
    other = other_names_and_gaps(files[1], tmp_path / "other.cif")
    with pytest.warns(UserWarning) as warned:
        star = recipe("pedv", tmp_path / "set", [files[0], other], small=True, n=30, box=32)
    told = [str(w.message) for w in warned]
    assert any("A with X" in note and "C with Z" in note for note in told), told
    assert any("350 residues in common; left out: 10" in note for note in told), told
    shifts = np.load(star.parent / "truth" / "shifts_px.npy")
    assert 2 < abs(shifts).max() <= 10 * 32 / 128, "as in the paper, in pixels of this box"
    rows = table_between([files[0], other], tmp_path, "-n", 1000, "--box", 32, "--minutes", 0.02)
    assert [row["snr"] for row in rows] == [0.1, 0.01, 0.001]
    assert [row.get("paper_fsc05_A") for row in rows] == [None, 4.13, 7.47]
    assert all(6.4 < row["pixel_size"] < 6.6 and row["mean_fsc"] > 0.1 for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second", "pixel_size"),
    [("6vxx.pdb", "6vyb.cif", 7.88), ("8tso.cif", "8tsq.cif", 6.4)],
)
def test_deposited_pairs_from_files_to_table(
    first, second, pixel_size, shared, tmp_path, monkeypatch
):
    "A spike with one domain up, and a transporter that opens; chains of the second renamed."
    monkeypatch.setitem(RECIPES, "pedv", RECIPES["pedv"]._replace(snr=(0.1,)))  # less to make
    a, b = (shared(f"structures/{name}") for name in (first, second))
    b = other_names_and_gaps(b, tmp_path / "second.cif")
    (row,) = table_between([a, b], tmp_path, "-n", 100, "--box", 32, "--minutes", 0.02)
    assert row["pixel_size"] == pytest.approx(pixel_size, abs=0.011), (
        "6.4 if molecule and shifts fit"
    )
    assert 0.1 < row["mean_fsc"] < row["ceiling"] < 1


def test_missing_structures_and_wrong_options_are_refused(tmp_path, capsys):
    def refused(*words):
        assert main(["simulate", str(tmp_path / "x"), *words]) == 2
        assert not (tmp_path / "x").exists()
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        assert "expected" in message
        assert "found" in message
        return message

    assert "curl -O https://files.rcsb.org/download/7W6M.cif" in refused(
        "--preset", "pedv", "--small"
    )
    assert "no nowhere.cif" in refused(
        "--preset", "pedv", "--from", "nowhere.cif", "--to", "other.cif"
    )
    assert "datasets/empiar_10028/README.md" in refused("--preset", "empiar_10028")
    assert "--small" in refused("--small")
    assert "--small" in refused("--preset", "arm", "--small")
    assert "one_d_motion" in refused(
        "--preset", "one_d_motion", "--from", __file__, "--to", __file__
    )


def test_table_of_the_paper_is_refused_before_anything_is_made(capsys):
    for words, found in (
        (["table1", "--full"], "7W6M.cif"),
        (["table1", "--small", "--from", __file__], "--to"),
        (["table1", "--small", "--full"], "not allowed"),
    ):
        assert main(["benchmark", *words]) == 2
        message = capsys.readouterr().err
        assert found in message
        assert message.count("\n") <= 2
