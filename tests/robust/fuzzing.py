"""Runs the commands on damaged input, each case in a forked process with its limits.

    python tests/robust/fuzzing.py --seed 1 --cases 400        prints failures, then a JSON summary
    python tests/robust/fuzzing.py --seed 1 --case 17          shows one case and what came of it

A case is right (status 0 and finite results), refused (status 2 and one line), or a failure:
a traceback, another status, more than 20 s of work or 4 GiB, something written outside `--out`, a
temporary file left.
"""

import argparse
import contextlib
import importlib
import io
import json
import os
import pickle
import pkgutil
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import mrcfile
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from mutations import mutate, other_argument, pick  # noqa: E402

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
SECONDS, GIB = 20, 4.0  # the limits of a case; seconds at work
HANGING = 120  # seconds of the clock, on a machine that is busy with something else
TINY = (
    "--epochs 1 -q --set batch=16 queries=2 levels=2 hidden=8 encoder_width=8 channels=2 heads=1 "
    "blocks=1 tokens=2 log2_table=8 encoder_layers=1"
).split()
RUN = ["run/checkpoint.pt", "run/checkpoint.pt", "run/latents.npy", "run/config.yaml"]
TRUTH = ["truth/labels.npy", "truth/rotations.npy", "truth/shifts_px.npy", "truth/atoms.npz"]
TRUTH += ["truth/vol_000.mrc"]

BARS = ("train", "volumes", "film", "postprocess")  # they show a bar of progress


def train(*words) -> list:
    "Training of one step."
    return ["train", *words, "--out", "out", *TINY]


#: What is run, and the files of it that may be damaged. `out`, `out.html`, ... are what it writes.
COMMANDS = [
    (train("set/relion31.star"), ["set/relion31.star"] * 3 + ["set/particles.mrcs"]),
    (train("set/relion30.star"), ["set/relion30.star"]),
    (train("set/relion5.star", "--half-sets"), ["set/relion5.star"]),
    (train("set/relion31.star", "--poses", "refine"), ["set/relion31.star", "set/particles.mrcs"]),
    (
        train("set/J7_005_particles.cs"),
        ["set/J7_005_particles.cs"] * 2 + ["set/J7_passthrough_particles.cs"],
    ),
    (
        train("set/cryodrgn"),
        ["set/cryodrgn/poses.pkl", "set/cryodrgn/ctf.pkl"] * 2
        + ["set/cryodrgn/particles.txt", "set/particles.mrcs"],
    ),
    (
        train("set/relion31.star", "--pose-pkl", "set/cryodrgn/poses.pkl"),
        ["set/cryodrgn/poses.pkl"],
    ),
    (train("set/relion31.star", "--ctf-pkl", "set/cryodrgn/ctf.pkl"), ["set/cryodrgn/ctf.pkl"]),
    (train("set/relion31.star", "--ind", "set/rows.npy"), ["set/rows.npy"]),
    (train("set/relion31.star", "--ind", "set/rows.pkl"), ["set/rows.pkl"]),
    (train("set/relion31.star", "--symmetry", "C2"), ["set/relion31.star", "set/particles.mrcs"]),
    (train("set/relion31.star", "--symmetry", "C2", "--ind", "set/rows.npy"), ["set/rows.npy"]),
    (train("set/relion31.star", "--box", "12", "--pixel-size", "3", "--seed", "1"), []),
    (
        ["train", "set/relion31.star", "--out", "out", "-q", "--epochs", "1"]
        + ["--config", "set/config.yaml"],
        ["set/config.yaml"],
    ),
    (
        ["train", "set/relion31.star", "--out", "run", "-q", "--epochs", "2", "--resume"],
        RUN[:2] + ["run/config.yaml"],
    ),
    (["volumes", "run", "--out", "out", "-q", "-n", "2"], RUN),
    (["volumes", "run", "--out", "out", "-q", "--particles", "0,3"], RUN),
    (["volumes", "run", "--out", "out", "-q", "--latents", "set/z.npy"], ["set/z.npy"]),
    (["volumes", "run", "--out", "out", "-q", "--pc", "1", "-n", "3"], RUN[2:3]),
    (["volumes", "run", "--out", "out", "-q", "--kmeans", "2"], RUN[2:3]),
    (["film", "run", "--out", "out.png", "-q", "--size", "64"], RUN),
    (["film", "run", "--out", "out.png", "-q", "--latents", "set/z.npy"], ["set/z.npy"]),
    (["landscape", "run", "--json"], RUN),
    (["flexibility", "run", "--out", "out", "-n", "3", "--truth", "truth"], RUN + TRUTH),
    (["score", "run", "--truth", "truth", "-n", "5", "--json"], RUN + TRUTH * 2),
    (["report", "run", "--out", "out.html"], [*RUN, "run/half1.mrc", "run/mean.mrc"]),
    (["report", "run", "--out", "out.html", "--truth", "truth"], TRUTH),
    (
        ["fsc", "truth/vol_000.mrc", "truth/vol_001.mrc", "--json", "--mask", "set/mask.mrc"],
        ["truth/vol_000.mrc", "truth/vol_001.mrc", "set/mask.mrc"],
    ),
    (["postprocess", "run", "--out", "out", "-q"], ["run/half1.mrc", *RUN[:1]]),
    (
        ["postprocess", "truth/vol_000.mrc", "truth/vol_001.mrc", "--out", "out", "-q"],
        ["truth/vol_000.mrc", "truth/vol_001.mrc"],
    ),
    (["simulate", "out", "-n", "3", "--box", "16", "--preset", "set/helix.cif"], ["set/helix.cif"]),
    (["simulate", "out", "-n", "3", "--box", "16", "--preset", "set/open.pdb"], ["set/open.pdb"]),
    (
        ["simulate", "out", "-n", "3", "--box", "16", "--preset", "truth/atoms.npz"],
        ["truth/atoms.npz"],
    ),
    (
        ["simulate", "out", "-n", "3", "--box", "16", "--from", "set/open.pdb"]
        + ["--to", "set/closed.pdb", "--frames", "2"],
        ["set/open.pdb", "set/closed.pdb"],
    ),
    (
        "simulate out -n 3 --box 16 --from set/open.pdb --turn A/111-200 --frames 2".split(),
        ["set/open.pdb"],
    ),
    (
        "simulate out --preset arm -n 3 --box 16 --pixel-size 7 --snr 1 --shift 1".split()
        + "--pose-noise 0.1 --shift-noise 1 --seed 3".split(),
        [],
    ),
    (
        "simulate out -n 20 --box 16 --pixel-size 7 --solvent 0.3 --detector white".split()
        + "--b-factor 100 --contrast 0.15 --offset 1 --gradient 1 --junk 0.2".split()
        + "--junk-kinds ice pair --pose-error 0.1 --shift-error 1 --defocus-error 200".split()
        + "--preferred 1 --damaged 0.5 --damage-b 150 --atom-widths --seed 3".split(),
        [],
    ),
    (
        "simulate out -n 9 --box 16 --realistic --detector set/noise.npz:a".split()
        + "--from set/open.pdb --to set/closed.pdb --frames 2".split(),
        ["set/noise.npz", "set/open.pdb", "set/closed.pdb"],
    ),
    (["score", "run", "--truth", "set/junk", "-n", "5"], ["set/junk/junk.npy"] * 2),
    (["verdict", "set/relion31.star", "--json"], ["set/relion31.star", "set/particles.mrcs"]),
    (["junk", "set/relion31.star", "--out", "out.star"], ["set/relion31.star"] * 2),
    (train("set/relion31.star", "--drop-junk"), ["set/relion31.star", "set/particles.mrcs"]),
    (["page", "set/page.ipynb", "--out", "out.html"], ["set/page.ipynb"]),
]


# ---------------------------------------------------------------- a case


class Case(NamedTuple):
    "What is run in a folder, and what was done to it."

    argv: list
    damage: list


def make_base(folder: Path) -> Path:
    "Good files of every kind, and a run."
    from cryoformer_nb.command.cli import main

    shutil.copytree(FIXTURES, folder / "set")
    shutil.move(folder / "set" / "truth", folder / "truth")
    rows = np.arange(9)
    np.save(folder / "set" / "rows.npy", rows)
    (folder / "set" / "rows.pkl").write_bytes(pickle.dumps(rows))
    np.savez(folder / "set" / "noise.npz", a_freq=[0.0, 0.1, 0.2], a_power=[3.0, 1.0, 0.5])
    shutil.copytree(folder / "truth", folder / "set" / "junk")
    np.save(folder / "set" / "junk" / "junk.npy", np.arange(12) % 5 % 2)
    shutil.copy(folder / "truth" / "vol_001.mrc", folder / "set" / "mask.mrc")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.chdir(folder):
        assert main(["train", "set/relion31.star", "--out", "run", *TINY]) == 0
        # every module loaded once, before the forks
        assert main(["report", "run", "--out", "warm.html", "--truth", "truth"]) == 0
        os.remove("warm.html")
    for name in ("half1.mrc", "half2.mrc"):
        shutil.copy(folder / "run" / "mean.mrc", folder / "run" / name)
        with mrcfile.open(folder / "run" / name, "r+") as mrc:  # halves that are not one map
            mrc.data[:] += 1e-3 * mrc.data.max() * np.roll(mrc.data > 0, int(name[4]))
            mrc.update_header_stats()
    shutil.copy(folder / "run" / "config.yaml", folder / "set" / "config.yaml")
    z = np.load(folder / "run" / "latents.npy")
    np.save(folder / "set" / "z.npy", z[:2])
    cells = [
        dict(cell_type="markdown", id="a", metadata={}, source="# Title\n\n$x^2$ <b>bold</b>"),
        dict(
            cell_type="code",
            id="b",
            metadata={},
            execution_count=None,
            source="1 + 1",
            outputs=[
                dict(
                    output_type="display_data",
                    metadata={},
                    data={
                        "application/vnd.plotly.v1+json": dict(data=[], layout=dict(height=300)),
                        "text/plain": "2",
                    },
                )
            ],
        ),
    ]
    nb = dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5)
    (folder / "set" / "page.ipynb").write_text(json.dumps(nb))
    os.mkfifo(folder / "pipe")
    os.symlink("loop", folder / "loop")
    return folder


def copy_base(base: Path, folder: Path) -> None:
    "The good files, in a folder of the case."
    for name in ("set", "run", "truth"):
        shutil.copytree(base / name, folder / name)
    os.mkfifo(folder / "pipe")
    os.symlink("loop", folder / "loop")


def make_case(rng: np.random.Generator, folder: Path) -> Case:
    "Damage a file or an argument in a folder of good files."
    argv, files = COMMANDS[int(rng.integers(len(COMMANDS)))]
    damage, outs = [], ("out", "out.html", "out.star", "out.png")
    if files and rng.random() < 0.85:
        for _ in range(1 if rng.random() < 0.8 else 2):
            damage.append(mutate(rng, folder / pick(rng, files)))
    while not damage or rng.random() < 0.1:
        argv, said = other_argument(rng, argv, outs)
        damage.append(said)
    return Case(argv, damage)


# ---------------------------------------------------------------- what comes of it


def tree(folder: Path) -> dict:
    "Everything in a folder but what is written: name -> size, time and kind."
    found = {}
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = os.path.join(place, name)
            s = os.lstat(path)
            size = s.st_size if not os.path.isdir(path) else 0
            time_ns = s.st_mtime_ns if not os.path.isdir(path) else 0
            found[os.path.relpath(path, folder)] = (s.st_ino, size, time_ns)
    return found


def _watch(folder: Path) -> list:
    "Note what is opened for writing, made, moved or removed outside a folder, and any connection."
    outside, home = [], str(folder)
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    changes = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link"}

    def hook(event, args):
        if event == "open":
            if isinstance(args[0], int) or not (isinstance(args[2], int) and args[2] & writing):
                return
        elif event not in changes:
            if event in ("socket.connect", "subprocess.Popen", "os.system", "os.exec"):
                outside.append(f"{event} {args[0]!r}")
            return
        for path in args[:2] if event in ("os.rename", "os.link") else args[:1]:
            if isinstance(path, (str, bytes, os.PathLike)):
                full = os.path.abspath(os.fsdecode(path))
                if not full.startswith(home) and full != os.devnull:
                    outside.append(f"{event} {full}")

    sys.addaudithook(hook)
    return outside


def _child(case: Case, folder: Path, before: dict, report: Path) -> None:
    "Run a case in this process, and end it."
    log = os.open(report.with_suffix(".err"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    out = os.open(report.with_suffix(".out"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1), os.dup2(log, 2)
    sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", 0), write_through=True)
    sys.stderr = io.TextIOWrapper(
        os.fdopen(2, "wb", 0), errors="backslashreplace", write_through=True
    )
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = in_use + int((GIB + 2) * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
    os.chdir(folder)
    outside, status = _watch(folder), 70
    try:
        from cryoformer_nb.command.cli import main

        status = main(case.argv)
    except BaseException:
        traceback.print_exc()
    if outside:
        print("OUTSIDE:", *outside[:5], file=sys.stderr)
        status = 71
    os._exit(status)


def _written(case: Case, folder: Path, before: dict) -> str:
    "What is wrong with the files that a case left; empty if nothing."
    after = tree(folder)
    changed = [k for k in before.keys() | after.keys() if before.get(k) != after.get(k)]
    left = [k for k in changed if ".tmp-" in k]
    if left:
        return f"temporary file left: {left[0]}"
    given = [case.argv[k + 1] for k, word in enumerate(case.argv[:-1]) if word == "--out"]
    if case.argv[:1] == ["simulate"]:  # its place may be any word, if another was left out
        given += [word for word in case.argv[1:] if word not in before]
    roots = [os.path.normpath(name).split("/")[0] for name in given if name]
    stray = [k for k in changed if k.split("/")[0] not in roots]
    return f"written outside --out: {stray[0]}" if stray else ""


def _judge(case: Case, folder: Path, before: dict, status: int, error: str, output: str) -> str:
    "What is wrong; empty for a case that is right or refused."
    lines = error.splitlines()
    told = [line for line in lines if line.startswith("cryoformer: error: ")]
    odd = [line for line in lines if not line.startswith(("cryoformer: error", "cryoformer: warn"))]
    odd = odd if "-q" in case.argv or case.argv[0] not in BARS else []  # a bar
    if status not in (0, 2) or "Traceback" in error:
        return _signature(status, error)
    if odd:
        return f"more than one line: {odd[0][:120]}"
    if len(told) != (1 if status == 2 else 0):
        return f"status {status} with {len(told)} error lines"
    wrong = _written(case, folder, before)
    if wrong or status == 2:
        new = [k for k in tree(folder).keys() - before.keys() if "--half-sets" not in case.argv]
        return wrong or (f"refused, but left {sorted(new)[0]}" if new else "")
    return _results(folder, case, output)


def _signature(status: int, error: str) -> str:
    "A traceback by its last line and our innermost place."
    places = [line.strip() for line in error.splitlines() if "cryoformer_nb/" in line]
    last = [line for line in error.splitlines() if line.strip()] or [""]
    place = places[-1].split("cryoformer_nb/")[-1] if places else ""
    return f"status {status}: {last[-1][:110]} | {place}"


def _results(folder: Path, case: Case, output: str) -> str:
    "Whether results hold NaN or infinity."
    if "--json" in case.argv:
        try:
            json.loads(output.splitlines()[-1], parse_constant=lambda word: 1 / 0)
        except (ValueError, IndexError, ZeroDivisionError) as error:
            return f"no JSON: {error}"
    for path in [p for p in folder.iterdir() if p.name.startswith("out")]:
        for file in [f for f in path.rglob("*.mrc*") if f.is_file()]:
            with mrcfile.open(file, permissive=True) as mrc:
                if case.argv[0] != "report" and not np.isfinite(mrc.data).all():
                    return f"{file.relative_to(folder)} is not finite"
        latents = path / "latents.npy"
        if (
            latents.is_file()
            and case.argv[0] == "train"
            and not np.isfinite(np.load(latents)).all()
        ):
            return f"{latents.relative_to(folder)} is not finite"
    return ""


def run_case(base: Path, seed: int, number: int, keep: Path | None = None) -> tuple[Case, str, int]:
    "A case, what is wrong with it (empty: nothing), and its status."
    rng = np.random.default_rng([seed, number])
    folder = Path(tempfile.mkdtemp(prefix="case-", dir=base.parent))
    report = folder.with_name(folder.name + ".log")
    try:
        copy_base(base, folder)
        with np.errstate(all="ignore"):
            case = make_case(rng, folder)
        before = tree(folder)
        child = os.fork()
        if not child:
            _child(case, folder, before, report)
        started, use = time.monotonic(), None
        while use is None:
            done, code, used = os.wait4(child, os.WNOHANG)
            if done:
                use = used
            elif time.monotonic() - started > HANGING:
                os.kill(child, signal.SIGKILL)
                os.wait4(child, 0)
                return case, "hangs", -9
            else:
                time.sleep(0.002)
        status = os.waitstatus_to_exitcode(code)
        error = report.with_suffix(".err").read_text(errors="replace")
        output = report.with_suffix(".out").read_text(errors="replace")
        if use.ru_utime + use.ru_stime > SECONDS - 1:
            return case, f"more than {SECONDS} s", status
        if use.ru_maxrss > GIB * 2**20:
            return case, f"{use.ru_maxrss / 2**20:.1f} GiB", status
        wrong = _judge(case, folder, before, status, error, output)
        if keep is not None:
            print(f"status {status}\n{error}\n{output[-2000:]}")
            shutil.copytree(folder, keep, symlinks=True, ignore=lambda d, n: ["pipe"])
        return case, wrong, status
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for suffix in (".err", ".out"):
            report.with_suffix(suffix).unlink(missing_ok=True)


def main() -> int:
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--cases", type=int, default=400)
    p.add_argument("--case", type=int)
    p.add_argument("--keep", type=Path)
    a = p.parse_args()
    torch.set_num_threads(1)
    import cryoformer_nb

    for module in pkgutil.walk_packages(cryoformer_nb.__path__, "cryoformer_nb."):
        importlib.import_module(module.name)
    counts, failures = Counter(), []
    with tempfile.TemporaryDirectory() as place:
        base = Path(place) / "base"
        base.mkdir()
        make_base(base)
        numbers = range(a.cases) if a.case is None else [a.case]
        for number in numbers:
            case, wrong, status = run_case(base, a.seed, number, a.keep)
            counts["failed" if wrong else "refused" if status == 2 else "right"] += 1
            if wrong or a.case is not None:
                failures.append(dict(seed=a.seed, case=number, wrong=wrong, **case._asdict()))
                print(json.dumps(failures[-1]), flush=True)
    print(json.dumps(dict(seed=a.seed, cases=len(numbers), **counts)))
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
