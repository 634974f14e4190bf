"""Other programs are driven, stopped and scored as ours: stand-ins take their place."""

import json
import os
import sys

import numpy as np
import pytest

from cryoformer_nb.bench.peers import CryoDRGN, Failed, Inputs, Recovar, peer_row, version_in
from cryoformer_nb.command.cli import main
from cryoformer_nb.imaging.simulator import simulate
from cryoformer_nb.imaging.truth import true_volumes
from cryoformer_nb.particles.cryodrgn import read_ctf_pickle, read_pose_pickle, write_pickles
from cryoformer_nb.particles.particles import load_particles

PROGRAM = """#!{python}
import json, os, pickle, sys
from pathlib import Path
import mrcfile
import numpy as np

known, words = Path({known!r}), sys.argv[1:]
with open(known / "asked.jsonl", "a") as file:
    print(json.dumps(words + [os.environ.get("OMP_NUM_THREADS")]), file=file)

def after(name):
    return words[words.index(name) + 1]

def write_maps(zfile, out, name):
    out.mkdir()
    for k, z in enumerate(np.loadtxt(zfile, ndmin=2)):
        volume = np.load(known / "maps.npy")[int(z[0])]
        mrcfile.write(out / name.format(k), volume, voxel_size=1)

if words[0] == "-c" and "PipelineOutput" in words[1]:
    np.save(words[4], np.load(known / "z.npy"))
elif words[0] == "-c":
    print("9.8")
elif words[0] == "train_vae":
    out = Path(after("-o"))
    out.mkdir()
    z = np.load(known / "z.npy")
    for k, array in enumerate((-z, z, 0 * z)):
        (out / f"weights.{{k}}.pkl").write_bytes(b"")
        (out / f"z.{{k}}.pkl").write_bytes(pickle.dumps(array))
elif words[0] == "pipeline":
    if (known / "fails").exists():
        sys.exit("no such mask")
    Path(after("-o")).mkdir()
elif words[0] == "eval_vol":
    write_maps(after("--zfile"), Path(after("-o")), "vol_{{:03d}}.mrc")
else:
    write_maps(after("--latent-points"), Path(after("-o")), "state{{:03d}}.mrc")
"""


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    "A set, and environments whose programs know its truth."
    known = tmp_path_factory.mktemp("known")
    star = simulate(known / "set", "arm", n=60, box=16, pixel_size=7.0, seed=1)
    labels = np.load(star.parent / "truth" / "labels.npy")
    np.save(known / "z.npy", np.stack([labels, 0 * labels], 1).astype(np.float32))
    maps = true_volumes(star.parent / "truth", np.arange(labels.max() + 1), 16)
    np.save(known / "maps.npy", maps.numpy())
    (known / "bin").mkdir()
    for name in ("cryodrgn", "recovar", "python"):
        path = known / "bin" / name
        path.write_text(PROGRAM.format(python=sys.executable, known=str(known)))
        os.chmod(path, 0o755)
    return known


def inputs(known, folder) -> Inputs:
    particles = load_particles(known / "set" / "particles.star")
    poses = particles.rotations, particles.shifts_px, particles.ctf_params
    write_pickles(folder, *poses, particles.box, particles.pixel_size)
    return Inputs(particles, folder)


@pytest.mark.parametrize("kind", [CryoDRGN, Recovar])
def test_a_program_that_knows_the_truth_scores_full_marks(known, tmp_path, kind):
    (known / "asked.jsonl").write_text("")
    given = inputs(known, tmp_path)
    row = peer_row(kind, known, given, 1.0, known / "set" / "truth", 12)
    assert row.note == "" and row.program == f"{kind.name} 9.8"
    assert row.latent_r2 > 0.9 and row.mean_fsc > 0.99
    asked = [json.loads(line) for line in (known / "asked.jsonl").read_text().splitlines()]
    (trained,) = (words for words in asked if words[0] in ("train_vae", "pipeline"))
    assert trained[1] == str(given.particles.path)
    assert len(read_pose_pickle(trained[trained.index("--poses") + 1], 60)[0]) == 60
    assert (read_ctf_pickle(trained[trained.index("--ctf") + 1], 60)[0] == 16).all()
    assert "--uninvert-data" not in trained, "the particles are bright on disk"


def test_what_fails_stands_in_the_note(known, tmp_path):
    (known / "fails").write_text("")
    row = peer_row(Recovar, known, inputs(known, tmp_path), 1.0, known / "set" / "truth", 12)
    (known / "fails").unlink()
    assert row.note.endswith("ended with status 1: no such mask") and row.mean_fsc is None
    with pytest.raises(Failed, match="no whole epoch"):
        CryoDRGN(os.path.realpath("/bin/true"), inputs(known, tmp_path), 60)
    assert version_in(tmp_path / "none", "recovar") == "of unknown version"


def test_a_path_without_the_program_is_refused_first(tmp_path, capsys):
    assert main(["benchmark", "peers", "--recovar", str(tmp_path)]) == 2
    assert "expected an environment with bin/recovar" in capsys.readouterr().err
