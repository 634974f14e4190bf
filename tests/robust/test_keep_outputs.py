"""Nothing that lies where a result should go is lost, whoever put it there and whenever."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cryoformer_nb.imaging.simulator as simulator
import cryoformer_nb.training.inference as inference
from cryoformer_nb.command.cli import main
from cryoformer_nb.core.conventions import InputError
from cryoformer_nb.imaging.simulator import simulate
from cryoformer_nb.training.inference import write_volumes
from cryoformer_nb.training.run import Run

SMALL = "--epochs 1 --set batch=16 queries=2 levels=4 hidden=16 encoder_width=32".split()
SET = "-n 60 --box 16 --pixel-size 7 --snr 1".split()


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tree(folder) -> dict:
    return {
        p.relative_to(folder): p.read_bytes() if p.is_file() else p.lstat().st_mode
        for p in Path(folder).rglob("*")
    }


def refused(capfd, *argv, says=()):
    "Status 2 and one line that holds `says`; returns the line."
    capfd.readouterr()
    status, error = main([str(a) for a in argv]), capfd.readouterr().err
    assert status == 2, error
    assert error.startswith("cryoformer: error: ") and error.count("\n") == 1, error
    for word in says:
        assert word in error, f"{word!r} is not in: {error}"
    return error


def meanwhile(monkeypatch, module, name, action):
    "Do `action` when the function is called, once, before it works."
    real, done = getattr(module, name), []

    def other(*args, **kwargs):
        if not done:
            done.append(True)
            action()
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, other)


def put(name: str) -> None:
    "Somebody else's work."
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text("years of work")


def test_what_another_process_puts_into_a_new_set_stays(capfd, work, monkeypatch):
    meanwhile(monkeypatch, simulator, "write_stack", lambda: put("new/thesis.txt"))
    refused(capfd, "simulate", "new", *SET, says=["new", "meanwhile"])
    assert [str(p) for p in Path().rglob("*") if p.is_file()] == ["new/thesis.txt"]


def test_what_another_process_puts_into_an_old_set_stays(capfd, work, monkeypatch):
    assert main(["simulate", "old", *SET]) == 0
    before = tree(work)
    meanwhile(monkeypatch, simulator, "write_stack", lambda: put("old/thesis.txt"))
    refused(capfd, "simulate", "old", *SET, "--overwrite", says=["old", "meanwhile"])
    os.remove("old/thesis.txt")
    assert tree(work) == before
    assert main(["simulate", "old", "-n", "9", *SET[2:], "--overwrite"]) == 0
    assert len(np.load("old/truth/labels.npy")) == 9, "without others it is overwritten"


def test_what_others_keep_in_a_result_is_not_overwritten(capfd, work, base):
    "A selection, notes, a folder of one's own; results of ours that lie within may go."
    shutil.copytree(base / "run", "run")
    star = base / "set" / "particles.star"
    line = ["train", star, "--out", "run", *SMALL, "--overwrite"]
    assert main(["volumes", "run", "--out", "run/maps", "-n", "2"]) == 0
    assert main(["report", "run"]) == 0
    for name in ("run/selection.star", "run/maps/notes.txt", "run/figures/a.png"):
        put(name)
        before = tree(work)
        refused(capfd, *line, says=[name.replace("/a.png", ""), "move it"])
        assert tree(work) == before
        shutil.rmtree("run/figures") if "figures" in name else os.remove(name)
    assert main([str(a) for a in line]) == 0
    assert not Path("run/report.html").exists()


def test_what_another_process_puts_among_volumes_stays(work, base, monkeypatch):
    run = Run(base / "run")
    meanwhile(monkeypatch, inference, "write_map", lambda: put("maps/thesis.txt"))
    with pytest.raises(InputError, match="meanwhile"):
        write_volumes(run, run.latents[:2], "maps", progress=False)
    assert [str(p) for p in Path().rglob("*") if p.is_file()] == ["maps/thesis.txt"]


def test_the_second_of_two_sets_says_so(capfd, work, monkeypatch):
    "One wins, and its set is whole."
    first = lambda: simulate("new", n=30, box=16, pixel_size=7, seed=1)  # noqa: E731
    meanwhile(monkeypatch, simulator, "_write_truth", first)
    refused(capfd, "simulate", "new", *SET, says=["new", "meanwhile"])
    monkeypatch.undo()
    simulate(work / "alone", n=30, box=16, pixel_size=7, seed=1)
    new, alone = tree(work / "new"), tree(work / "alone")
    assert new.keys() == alone.keys()
    assert new[Path("particles.mrcs")] == alone[Path("particles.mrcs")]
    assert sorted(p.name for p in work.iterdir()) == ["alone", "new"], "nothing temporary is left"


@pytest.mark.parametrize("what", ["simulate", "train", "volumes", "flexibility"])
@pytest.mark.parametrize("place", ["link", "file", "pipe", ".", "..", "dangling", "long", "under"])
def test_folders_are_made_in_free_places_only(capfd, work, base, monkeypatch, what, place):
    "A plain answer, before the work."
    (work / "here").mkdir()
    monkeypatch.chdir(work / "here")
    (work / "elsewhere").mkdir()
    os.symlink(work / "elsewhere", "link")
    os.symlink(work / "nowhere", "dangling")
    put("file")
    os.mkfifo("pipe")
    place = {"long": "x" * 300, "under": "file/new"}.get(place, place)
    for module, name in ((simulator, "clean_images"), (inference, "cKDTree")):
        monkeypatch.setattr(module, name, lambda *a, **k: 1 / 0)
    monkeypatch.setattr("cryoformer_nb.particles.particles.load_particles", lambda *a: 1 / 0)
    monkeypatch.setattr("cryoformer_nb.analysis.flexibility.named_maps", lambda *a: 1 / 0)
    before = tree(work)
    argv = {
        "simulate": ["simulate", place, *SET],
        "train": ["train", base / "set" / "particles.star", "--out", place, *SMALL],
        "volumes": ["volumes", base / "run", "--out", place],
        "flexibility": ["flexibility", base / "run", "--out", place],
    }[what]
    refused(capfd, *argv, says=[place[:100], "expected"])
    refused(capfd, *argv, "--overwrite", says=[place[:100], "expected"])
    assert tree(work) == before


def test_mount_points_are_no_place(capfd, work):
    Path("disk").mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", work / "disk"]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting needs the rights of root")
    try:
        refused(capfd, "simulate", "disk", *SET, says=["disk", "mounted"])
        assert main(["simulate", "disk/set", *SET]) == 0
    finally:
        subprocess.run(["umount", "-l", work / "disk"], check=True)


@pytest.mark.parametrize("victim", ["checkpoint.pt", "config.yaml", "latents.npy"])
def test_a_report_replaces_reports_only(capfd, work, base, victim):
    shutil.copytree(base / "run", "run")
    before = tree(work)
    refused(capfd, "report", "run", "--out", f"run/{victim}", says=[victim, "--overwrite"])
    assert tree(work) == before
    assert main(["report", "run", "--out", "page.html"]) == 0
    assert main(["report", "run", "--out", "page.html"]) == 0, "a report replaces a report"
    put("other.html")
    refused(capfd, "report", "run", "--out", "other.html", says=["other.html", "--overwrite"])
    assert main(["report", "run", "--out", "other.html", "--overwrite"]) == 0


@pytest.mark.parametrize("place", ["folder", "link", "dangling", "pipe", ".", "x" * 300, "file/x"])
@pytest.mark.parametrize("what", ["report", "page"])
def test_pages_are_written_in_free_places_only(capfd, work, base, monkeypatch, what, place):
    "A plain answer before the work, with leave to overwrite too."
    Path("folder").mkdir()
    put("file")
    os.symlink("file", "link")
    os.symlink("nowhere", "dangling")
    os.mkfifo("pipe")
    shutil.copytree(base / "run", "run")
    Path("a.ipynb").write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
    monkeypatch.setattr("cryoformer_nb.show.report.motion_path", lambda *a: 1 / 0)
    monkeypatch.setattr("cryoformer_nb.show.page._draw_figures", lambda *a: 1 / 0)
    before = {k: v for k, v in tree(work).items() if k.name != "pipe"}
    of = "run" if what == "report" else "a.ipynb"
    for more in ([], ["--overwrite"]):
        refused(capfd, what, of, "--out", place, *more, says=[place[:100], "expected"])
    assert {k: v for k, v in tree(work).items() if k.name != "pipe"} == before


def test_a_page_replaces_pages_only(capfd, work):
    Path("a.ipynb").write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
    put("a.html")
    refused(capfd, "page", "a.ipynb", says=["a.html", "--overwrite"])
    refused(capfd, "page", "a.ipynb", "--out", "a.ipynb", says=["a.ipynb", "--overwrite"])
    assert main(["page", "a.ipynb", "--overwrite"]) == 0
    assert main(["page", "a.ipynb"]) == 0


def test_a_report_that_appears_meanwhile_stays(work, base, monkeypatch):
    import cryoformer_nb.show.report as show_report

    meanwhile(monkeypatch, show_report, "motion_path", lambda: put("page.html"))
    with pytest.raises(InputError, match="page.html.*--overwrite"):
        show_report.report(Run(base / "run"), "page.html")
    assert Path("page.html").read_text() == "years of work"
    assert [p.name for p in work.iterdir()] == ["page.html"]


def test_temporary_files_of_killed_processes_are_cleared_by_the_next(work, base):
    "What nobody holds any more goes; what a process is writing stays."
    script = (
        "import sys, time; from cryoformer_nb.core.{} import {} as place\n"
        "with place(sys.argv[1]) as t:\n"
        "    (t / 'half.txt' if t.is_dir() else t).write_text('half')\n"
        "    print(flush=True); time.sleep(60)"
    )
    run, root = str(base / "run"), Path(__file__).parents[2]
    for words, name, again in (
        (("outputs", "whole_folder"), "new", ["simulate", "new", *SET, "--overwrite"]),
        (("files", "atomic_path"), "page.html", ["report", run, "--out", "page.html"]),
    ):
        process = subprocess.Popen(
            [sys.executable, "-c", script.format(*words), name],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(root)},
        )
        process.stdout.readline()
        left = [p for p in work.iterdir() if p.name.startswith(".tmp")]
        assert len(left) == 1
        for alive in (True, False):
            if not alive:
                process.kill()
                process.communicate()
            assert main(again) == 0
            assert left[0].exists() == alive
    assert sorted(p.name for p in work.iterdir()) == ["new", "page.html"]


def test_folders_above_a_refused_result_are_not_left(capfd, work):
    refused(capfd, "simulate", "deep/deeper/new", "--box", "31", says=["31"])
    assert not list(work.iterdir())
