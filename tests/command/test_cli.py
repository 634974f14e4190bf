"""The command line: what users type, and bad input, refused in one line with exit status 2."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile

from cryoformer_nb.command.cli import main
from cryoformer_nb.core.files import write_stack

SMALL = "--epochs 1 --set batch=16 queries=2 levels=4 hidden=16 encoder_width=32".split()


@pytest.fixture
def work(base, tmp_path, monkeypatch):
    "A copy of the set, to be damaged."
    shutil.copytree(base / "set", tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tree(folder) -> dict:
    return {p.relative_to(folder): p.stat().st_size for p in Path(folder).rglob("*")}


def refused(capfd, folder, *argv, says=()):
    "Run, expect exit status 2, one line that holds `says`, and an unchanged folder."
    before = tree(folder)
    capfd.readouterr()
    status, error = main([str(a) for a in argv]), capfd.readouterr().err
    assert status == 2, error
    assert error.count("\n") == 1, error
    assert error.startswith("cryoformer: error: "), error
    for word in says:
        assert word in error, f"{word!r} is not in: {error}"
    assert tree(folder) == before, "nothing half-written"


def train(capfd, work, *more, says=()):
    refused(capfd, work, "train", "set/particles.star", "--out", "new", *SMALL, *more, says=says)


def edit(change):
    "Change the blocks of the star file."
    blocks = starfile.read("set/particles.star", always_dict=True)
    change(blocks)
    starfile.write(blocks, "set/particles.star", overwrite=True)


def restack(change):
    "Change the images."
    with mrcfile.open("set/particles.mrcs") as mrc:
        images = mrc.data.copy()
    os.remove("set/particles.mrcs")
    write_stack("set/particles.mrcs", change(images), 7.0)


def drop(column):
    return lambda blocks: [b.pop(column) for b in blocks.values() if column in b]


def test_missing_star(capfd, work):
    refused(
        capfd,
        work,
        "train",
        "nowhere.star",
        "--out",
        "new",
        says=["nowhere.star", "expected", "found"],
    )


def test_missing_stack(capfd, work):
    os.remove("set/particles.mrcs")
    train(capfd, work, says=["particles.mrcs", "--datadir"])


def test_truncated_stack(capfd, work):
    with open("set/particles.mrcs", "r+b") as file:
        file.truncate(1024 + 16 * 16 * 4 * 100 + 7)
    train(capfd, work, says=["particles.mrcs", "truncated"])


def test_truncated_header(capfd, work):
    with open("set/particles.mrcs", "r+b") as file:
        file.truncate(500)
    train(capfd, work, says=["particles.mrcs"])


def test_more_rows_than_images(capfd, work):
    restack(lambda images: images[:90])
    train(capfd, work, says=["90 images", "row 91"])


@pytest.mark.parametrize(
    "column",
    [
        "rlnAngleRot",
        "rlnAngleTilt",
        "rlnDefocusU",
        "rlnDefocusAngle",
        "rlnImageName",
        "rlnVoltage",
        "rlnImagePixelSize",
        "rlnSphericalAberration",
        "rlnOriginXAngst",
    ],
)
def test_missing_column(capfd, work, column):
    edit(drop(column))
    train(capfd, work, says=[column])


def test_column_that_is_no_number(capfd, work):
    def change(blocks):
        blocks["particles"]["rlnDefocusU"] = ["deep"] * len(blocks["particles"])

    edit(change)
    train(capfd, work, says=["rlnDefocusU", "deep"])


def test_star_without_particles(capfd, work):
    Path("set/particles.star").write_text("data_nothing\n\nloop_\n_rlnSomethingElse #1\n1\n2\n")
    train(capfd, work, says=["rlnImageName"])


def test_not_a_star_file(capfd, work):
    Path("set/particles.star").write_bytes(bytes(range(256)) * 40)
    train(capfd, work)


def test_odd_box(capfd, work):
    restack(lambda images: images[:, 1:, 1:])
    train(capfd, work, says=["even", "15"])


def test_non_square(capfd, work):
    restack(lambda images: images[:, :, 2:])
    train(capfd, work, says=["square", "14 x 16"])


def test_mixed_pixel_sizes(capfd, work):
    def change(blocks):
        optics = blocks["optics"]
        two = {
            k: [v, v]
            for k, v in (
                optics.items()
                if isinstance(optics, dict)
                else ((c, optics[c].iloc[0]) for c in optics)
            )
        }
        two["rlnOpticsGroup"], two["rlnImagePixelSize"] = [1, 2], [7.0, 4.0]
        import pandas as pd

        blocks["optics"] = pd.DataFrame(two)
        blocks["particles"]["rlnOpticsGroup"] = np.arange(len(blocks["particles"])) % 2 + 1

    edit(change)
    train(capfd, work, says=["one positive pixel size", "7", "4"])


def test_nan_images(capfd, work):
    def change(images):
        images[7, 3, 3] = np.nan
        return images

    restack(change)
    train(capfd, work, says=["NaN", "row 8"])


def test_zero_variance(capfd, work):
    def change(images):
        images[11] = 3.0
        return images

    restack(change)
    train(capfd, work, says=["row 12"])


def test_existing_run(capfd, work, base):
    shutil.copytree(base / "run", "new")
    train(capfd, work, says=["new", "--overwrite"])
    assert main(["train", "set/particles.star", "--out", "new", *SMALL, "--overwrite"]) == 0


def test_overwrite_spares_what_others_made(capfd, work):
    Path("new").mkdir()
    Path("new/thesis.tex").write_text("years of work")
    train(capfd, work, "--overwrite", says=["new"])


def test_overwrite_spares_the_input(capfd, work):
    refused(
        capfd, work, "train", "set/particles.star", "--out", "set", "--overwrite", says=["input"]
    )


@pytest.mark.parametrize(
    "more, word",
    [
        (["--set", "dropout=1"], "dropout"),
        (["--set", "batch=many"], "batch"),
        (["--set", "batch"], "batch"),
        (["--set", "readout=magic"], "readout"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--box", "15"], "15"),
        (["--box", "64"], "64"),
        (["--box", "-2"], "-2"),
        (["--datadir", "nowhere", "--box", "two"], "two"),
        (["--resume"], "--resume"),
    ],
)
def test_bad_options(capfd, work, more, word):
    train(capfd, work, *more, says=[word])


def test_bad_arguments_are_one_line_too(capfd, work):
    for argv in (
        [],
        ["fly"],
        ["train"],
        ["train", "set/particles.star"],
        ["train", "set/particles.star", "--out", "new", "--minutes", "0"],
        ["train", "set/particles.star", "--out", "new", "--minutes", "1", "--epochs", "1"],
        ["volumes", "run", "--out", "x", "--pc", "0"],
    ):
        refused(capfd, work, *argv)


@pytest.mark.parametrize(
    "argv, word",
    [
        (["train", "set/particles.star", "--out", "new", "--half-sets", "--resume"], "--half-sets"),
        (["simulate", "new", "--box", "31"], "31"),
        (["simulate", "new", "--preset", "nowhere.pdb"], "nowhere.pdb"),
        (["simulate", "set"], "--overwrite"),
        (["simulate", "new", "--box", "16", "--pixel-size", "0.5"], "box"),
        (["simulate", "new", "--snr", "-1"], "snr"),
        (["fsc", "nowhere.mrc", "set/truth/vol_000.mrc"], "nowhere.mrc"),
        (["fsc", "set/truth/vol_000.mrc", "set/particles.mrcs"], "cubic"),
        (["volumes", "nowhere", "--out", "x"], "nowhere"),
        (["score", "nowhere", "--truth", "set/truth"], "nowhere"),
        (["report", "nowhere"], "nowhere"),
        (["demo", "--minutes", "0.1"], "--minutes"),
    ],
)
def test_other_commands_refuse(capfd, work, argv, word):
    refused(capfd, work, *argv, says=[word])


@pytest.mark.parametrize(
    "more, word",
    [
        (["--particles", "0,120"], "119"),
        (["--particles", "a"], "'a'"),
        (["--latents", "nowhere.npy"], "nowhere.npy"),
        (["--latents", "wide.npy"], "(2, 9)"),
        (["--pc", "99"], "99"),
        (["--kmeans", "1000"], "1000"),
    ],
)
def test_volumes_refuse(capfd, work, base, more, word):
    np.save("wide.npy", np.zeros((2, 9)))
    refused(capfd, work, "volumes", base / "run", "--out", "maps", *more, says=[word])


def test_volumes(work, base):
    z = np.load(base / "run" / "latents.npy")
    np.save("some.npy", z[[5, 9]])
    for name, more, count in (
        ("a", ["--particles", "3,3,7"], 3),
        ("b", ["--latents", "some.npy"], 2),
        ("c", ["--pc", "2", "-n", "4"], 4),
        ("d", ["--kmeans", "3"], 3),
        ("e", [], 10),
    ):
        assert main(["volumes", str(base / "run"), "--out", name, *more]) == 0
        assert np.load(f"{name}/latents.npy").shape == (count, z.shape[1])
        assert len(list(Path(name).glob("vol_*.mrc"))) == count
        assert len(Path(f"{name}/volumes.csv").read_text().splitlines()) == count + 1
    assert np.allclose(np.load("a/latents.npy"), z[[3, 3, 7]])
    assert np.allclose(np.load("b/latents.npy"), z[[5, 9]])
    with mrcfile.open("a/vol_000.mrc", mode="r") as mrc:
        assert mrc.data.shape == (16, 16, 16)
        assert mrc.is_volume()
        assert abs(float(mrc.voxel_size.x) - 7) < 1e-5
        assert float(mrc.header.origin.x) == 0
    from cryoformer_nb import Run

    with mrcfile.open("a/vol_002.mrc") as mrc:
        assert np.allclose(mrc.data, Run.load(base / "run").volume(z[7]), atol=1e-5)


def test_score_report_and_fsc(work, base, capfd):
    assert main(["score", str(base / "run"), "--truth", "set/truth", "-n", "10", "--json"]) == 0
    scores = json.loads(capfd.readouterr().out)
    assert -1 <= scores["mean_fsc"] <= scores["ceiling"] + 0.2
    assert scores["ceiling"] <= 1
    assert len(scores["particles"]) == 10
    assert main(["report", str(base / "run"), "--out", "page.html", "--truth", "set/truth"]) == 0
    page = Path("page.html").read_text(encoding="utf-8")
    assert "Plotly.newPlot" in page
    assert 'id="latent"' in page
    assert main(["fsc", "set/truth/vol_000.mrc", "set/truth/vol_099.mrc", "--json"]) == 0
    curve = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert curve["shell"] == list(range(9))
    assert curve["value"][1] > 0.9


def test_half_sets(work, capfd):
    assert main(["train", "set/particles.star", "--out", "halves", *SMALL, "--half-sets"]) == 0
    subsets = starfile.read("set/particles.star", always_dict=True)["particles"]["rlnRandomSubset"]
    for k in (1, 2):
        assert len(np.load(f"halves/half{k}/latents.npy")) == (subsets == k).sum()
        assert Path(f"halves/half{k}.mrc").exists()
    said = capfd.readouterr().out
    assert "half sets agree" in said
    assert "confirmed to" in said
    assert main(["postprocess", "halves", "--out", "halves/sharp", "-q"]) == 0
    assert "confirmed by back-projections" in capfd.readouterr().out
    assert main(["report", "halves"]) == 0
    assert "half maps" in Path("halves/report.html").read_text(encoding="utf-8")
    from cryoformer_nb import explore

    view = explore("halves")
    view.set_tint("standard error")
    surface, errors = view.map_figure().data[0], view.maps.known.errors(view.latent)
    assert 0 < surface.intensity.min() and surface.intensity.max() <= errors.max()


def test_resume_goes_on(work, base):
    shutil.copytree(base / "run", "run")
    assert main(["train", "set/particles.star", "--out", "run", "--resume", "--epochs", "2"]) == 0
    from cryoformer_nb import Run

    assert Run.load("run").checkpoint["step"] == 2 * Run.load(base / "run").checkpoint["step"]


def test_interrupt(work, monkeypatch, capfd):
    import cryoformer_nb.training.train as training

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", interrupted)
    assert main(["train", "set/particles.star", "--out", "new", *SMALL]) == 130
    assert "nothing to continue" in capfd.readouterr().err


def test_bugs_are_not_hidden(work, monkeypatch):
    import cryoformer_nb.training.train as training

    def broken(*args, **kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr(training, "train", broken)
    with pytest.raises(ZeroDivisionError):
        main(["train", "set/particles.star", "--out", "new", *SMALL])


@pytest.fixture
def small_disk(tmp_path):
    "A file system of 200 kB."
    place = tmp_path / "disk"
    place.mkdir()
    if (
        os.geteuid()
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", place], capture_output=True
        ).returncode
    ):
        pytest.skip("mounting a small file system needs the rights of root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_full_disk(capfd, base, small_disk):
    refused(
        capfd,
        small_disk,
        "simulate",
        small_disk / "set",
        "-n",
        "2000",
        "--box",
        "16",
        "--pixel-size",
        "7",
        says=["No space left"],
    )
    for argv in (
        ["volumes", base / "run", "--out", small_disk / "maps", "-n", "40"],
        ["report", base / "run", "--out", small_disk / "report.html"],
    ):
        before = tree(small_disk)
        status = main([str(a) for a in argv])
        assert status == 2
        assert "No space left" in capfd.readouterr().err
        assert tree(small_disk) == before, "nothing half-written"


def test_full_disk_while_training(capfd, base, small_disk):
    "The line says what to do, and what is left is no result: no latents, no half checkpoint."
    star = str(base / "set" / "particles.star")
    assert main(["train", star, "--out", str(small_disk / "run"), *SMALL]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert [
        line
        for line in lines
        if "cryoformer: error" in line and ("No space left" in line or "free disk space" in line)
    ], lines
    assert not [p for p in small_disk.rglob("*") if ".tmp" in p.name]
    assert not (small_disk / "run" / "checkpoint.pt").exists()


def run(*argv, cwd):
    "The installed command in a process of its own."
    command = Path(sys.executable).with_name("cryoformer")
    return subprocess.run(
        [
            *(
                [command]
                if command.exists()
                else [
                    sys.executable,
                    "-c",
                    "import sys; from cryoformer_nb.command.cli import main; sys.exit(main())",
                ]
            ),
            *argv,
        ],
        cwd=cwd,
        capture_output=True,
        text=True,
    )


def test_the_installed_command(work):
    done = run("train", "nowhere.star", "--out", "new", cwd=work)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert not (work / "new").exists()
    for command in ("demo", "simulate", "train", "volumes", "fsc", "score", "report", "benchmark"):
        done = run(command, "--help", cwd=work)
        assert done.returncode == 0, command
        assert done.stdout.startswith(f"usage: cryoformer {command}")


@pytest.mark.slow
def test_demo_in_one_minute(tmp_path):
    "The main job at a smaller size, as a user runs it: everything it promises is there."
    done = run("demo", "--minutes", "1", "-n", "1500", "--box", "32", "--out", "demo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(list((tmp_path / "demo" / "volumes").glob("vol_*.mrc"))) == 10
    scores = json.loads((tmp_path / "demo" / "score.json").read_text())
    assert scores["mean_fsc"] > 0.6
    assert len(scores["fsc_curve"]) == 17
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    for name in ("latent", "maps", "fsc", "flexibility", "loss"):
        assert f'id="{name}"' in page, name
    assert len(page) < 12e6
    again = run("demo", "--minutes", "1", "--out", "demo", cwd=tmp_path)
    assert again.returncode == 2
    assert "--overwrite" in again.stderr


def test_the_module_is_the_command():
    "What launchers of several processes start: python -m cryoformer_nb.command.cli."
    module = [sys.executable, "-m", "cryoformer_nb.command.cli"]
    done = subprocess.run([*module, "fsc", "a.mrc", "b.mrc"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "cryoformer: error: a.mrc" in done.stderr
    done = subprocess.run([*module, "--version"], capture_output=True, text=True)
    assert done.stdout.startswith("cryoformer_nb ")
