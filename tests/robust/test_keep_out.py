"""The commands write below the folder that they are given, and ask no network for anything."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import os, sys

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("mkdir", "rename", "remove", "rmdir", "link", "symlink", "truncate", "chmod", "utime")
out = os.path.abspath("out")
found, wrote = [], []


def look(event, args):
    if event.startswith(("socket.", "urllib.", "http.", "ftplib.", "smtplib.")):
        found.append((event, repr(args)))
    elif event.startswith(("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork")):
        found.append((event, repr(args)))
    elif event == "open":
        path, mode, flags = args
        if isinstance(path, int) or not (set(mode or "") & set("wax+") or flags & WRITES):
            return
        judge(event, path)
    elif event.startswith("os.") and event[3:] in CHANGES:
        for path in args[:2]:
            if isinstance(path, (str, bytes, os.PathLike)):
                judge(event, path)


def judge(event, path):
    path = os.path.abspath(os.fsdecode(path))
    if path != os.devnull and not path.startswith(os.environ["TMPDIR"]):
        (wrote if path.startswith(out) else found).append((event, path))


from cryoformer_nb.command.cli import main

sys.addaudithook(look)
small = "--epochs 1 --set batch=16 queries=2 levels=4 hidden=16 encoder_width=32".split()
for argv in (
    "simulate out/set -n 60 --box 16 --pixel-size 7 --snr 1".split(),
    ["train", "out/set/particles.star", "--out", "out/run", "--half-sets", *small],
    "volumes out/run --out out/maps -n 2".split(),
    "flexibility out/run --out out/parts -n 4".split(),
    "report out/run --out out/page.html --truth out/set/truth".split(),
    "fsc out/maps/vol_000.mrc out/maps/vol_001.mrc".split(),
    ["train", "out/set/particles.star", "--out", "out/run", "--resume", "--epochs", "2"],
):
    assert main(argv) == 0, argv
assert {event for event, path in wrote} > {"open", "os.mkdir", "os.rename"}, "it looks"
print("FOUND", *found, sep="\\n")
"""


def test_nothing_is_asked_of_a_network_or_written_elsewhere(tmp_path):
    """As the hooks of the interpreter see it; what libraries in C write, the folders would show.

    The first optimizer of a process makes torch look for a folder for temporary files, and make
    one in it that stays empty."""
    (tmp_path / "out").mkdir()
    homes = [tmp_path / name for name in ("home", "cache", "config", "tmp")]
    for home in homes:
        home.mkdir()
    names = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TMPDIR")
    own = {name: str(home) for name, home in zip(names, homes)}
    own |= dict(PYTHONPATH=str(Path(__file__).parents[2]), PYTHONDONTWRITEBYTECODE="1")
    # torch notes in the environment which folder this process has
    rest = {k: v for k, v in os.environ.items() if not k.startswith("TORCHINDUCTOR")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, env=rest | own, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split("FOUND\n")[1].strip() == ""
    assert not [path for home in homes for path in home.rglob("*") if path.is_file()]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["out", *(h.name for h in homes)])
