"""Each kind of bad input that once ended in a traceback, a crash, a hang or a silent success."""

import os
import pickle
import re
import shutil
import struct
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
import torch

from cryoformer_nb import Config, InputError, Run, fsc, load_particles, train
from cryoformer_nb.command.cli import main
from cryoformer_nb.core.files import write_stack
from cryoformer_nb.imaging.molecules import load_molecule
from cryoformer_nb.imaging.truth import true_volumes
from cryoformer_nb.particles.cryodrgn import read_pickle
from cryoformer_nb.training.inference import run_particles, save_selection

TINY = (
    "-q --set batch=16 queries=2 levels=2 hidden=8 encoder_width=8 channels=2 heads=1 "
    "blocks=1 tokens=2 log2_table=8 encoder_layers=1"
).split()


@pytest.fixture(scope="module")
def base(tmp_path_factory, fixtures):
    "The fixtures, and a run on them."
    folder = tmp_path_factory.mktemp("base")
    shutil.copytree(fixtures, folder / "set")
    star = str(folder / "set/relion31.star")
    assert main(["train", star, "--out", str(folder / "run"), "--epochs", "1", *TINY]) == 0
    return folder


@pytest.fixture
def refused(capfd):
    "A function: run the command, expect status 2 and one line that holds `says`."

    def refused(*argv, says=""):
        capfd.readouterr()
        status, error = main([str(word) for word in argv]), capfd.readouterr().err
        lines = [x for x in error.splitlines() if not x.startswith("cryoformer: warning: ")]
        assert status == 2, error
        assert len(lines) == 1, error
        assert lines[0].startswith("cryoformer: error: "), error
        assert says in lines[0], error

    return refused


def train_on(*words) -> list:
    return ["train", *words, "--out", "out", "--epochs", "1", *TINY]


def edit(change, name="set/relion31.star"):
    "Change the blocks of a star file."
    blocks = starfile.read(name, always_dict=True)
    change(blocks)
    starfile.write(blocks, name, overwrite=True)


# ---------------------------------------------------------------- damaged files


def test_truncated_checkpoint(work, refused):
    data = Path("run/checkpoint.pt").read_bytes()
    Path("run/checkpoint.pt").write_bytes(data[: len(data) // 2])
    refused("volumes", "run", "--out", "out", says="checkpoint.pt")
    refused("train", "set/relion31.star", "--out", "run", "--resume", says="checkpoint.pt")


@pytest.mark.parametrize(
    "change",
    [lambda z: z[:-1], lambda z: z * np.nan, lambda z: z + 0j, lambda z: z.astype(float) + 1e200],
)
def test_latents_short_nan_complex_or_huge(work, refused, change):
    np.save("run/latents.npy", change(np.load("run/latents.npy")))
    refused("volumes", "run", "--out", "out", "--kmeans", "2", says="latents.npy")
    refused("report", "run", "--out", "out.html", says="latents.npy")


def test_settings_that_do_not_fit_the_checkpoint(work, refused):
    text = Path("run/config.yaml").read_text()
    Path("run/config.yaml").write_text(text.replace("hidden: 8", "hidden: 16"))
    refused("volumes", "run", "--out", "out", says="hidden")


def test_joined_star_files(work, refused):
    star = Path("set/relion31.star")
    text = star.read_text()
    star.write_text(text + text)
    refused(*train_on(star), says="twice")
    star.write_text(text.replace("_rlnAngleRot #2", "_rlnAnglePsi #2"))
    refused(*train_on(star), says="rlnAnglePsi")


def test_optics_group_twice(work, refused):
    edit(lambda blocks: blocks["optics"].update({"rlnOpticsGroup": [1, 1]}))
    refused(*train_on("set/relion31.star"), says="optics group")


@pytest.mark.parametrize(
    "name, values",
    [
        ("ctf/df1_A", np.full(12, "deep", "S8")),
        ("ctf/df1_A", np.ones((12, 2), "f4")),
        ("blob/psize_A", np.zeros(12, "f4")),
        ("blob/path", np.arange(12)),
        ("alignments3D/shift", np.full((12, 2), np.nan, "f4")),
    ],
)
def test_cs_field(work, refused, name, values):
    for file in ("J7_005_particles.cs", "J7_passthrough_particles.cs"):
        data = np.load(f"set/{file}")
        if name not in data.dtype.names:
            continue
        fields = {k: values if k == name else data[k] for k in data.dtype.names}
        new = np.zeros(12, [(k, v.dtype, v.shape[1:]) for k, v in fields.items()])
        for k, v in fields.items():
            new[k] = v
        with open(f"set/{file}", "wb") as out:
            np.save(out, new)
    refused(*train_on("set/J7_005_particles.cs"), says=name)


def test_cs_path_that_is_no_text(work, refused):
    for file in Path("set").glob("*.cs"):
        new = file.read_bytes().replace(b"particles.mrcs", b"particl\xb9s.mrcs")
        file.write_bytes(new)
    refused(*train_on("set/J7_005_particles.cs"), says="particl")


def test_halves_too_small_are_refused_before_the_training(work, refused):
    np.save("few.npy", [0, 1, 2])
    refused(*train_on("set/relion31.star", "--half-sets", "--ind", "few.npy"), says="--half-sets")
    assert not Path("out").exists()


def header(shape, kind="<f8") -> bytes:
    "A .npy file that declares more than it holds."
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + bytes(64)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x93NUMPY", header((1 << 40,)), header((10**9, 10**9)), header((-1,), "|S0")],
    ids=["empty", "broken", "terabytes", "exabytes", "of no width"],
)
def test_npy(work, refused, data):
    for name, command in (
        ("set/rows.npy", train_on("set/relion31.star", "--ind", "set/rows.npy")),
        ("run/latents.npy", ["volumes", "run", "--out", "out"]),
        ("set/z.npy", ["volumes", "run", "--out", "out", "--latents", "set/z.npy"]),
        ("set/truth/labels.npy", ["score", "run", "--truth", "set/truth"]),
        ("set/truth/shifts_px.npy", ["score", "run", "--truth", "set/truth"]),
    ):
        kept = Path(name).read_bytes() if Path(name).exists() else None
        Path(name).write_bytes(data)
        refused(*command, says=Path(name).name)
        if kept is not None:
            Path(name).write_bytes(kept)


@pytest.mark.parametrize("value", [None, {}, "text", 7, [], [None], ("a", "b")], ids=repr)
def test_pickles_of_something_else(work, refused, value):
    for file, option in (("poses", "--pose-pkl"), ("ctf", "--ctf-pkl"), ("rows", "--ind")):
        Path(f"set/{file}.pkl").write_bytes(pickle.dumps(value))
        command = train_on("set/relion31.star", option, f"set/{file}.pkl")
        refused(*command, says="expected")


def test_pdb_that_is_no_text_or_no_number(work, refused):
    data = Path("set/open.pdb").read_bytes()
    for old, new in ((b" CA ", b" \xff\xfe "), (b"   0.", b"   nan")):
        Path("set/bad.pdb").write_bytes(data.replace(old, new))
        if new in Path("set/bad.pdb").read_bytes():
            refused("simulate", "out", "--preset", "set/bad.pdb", "-n", "3", "--box", "16")


@pytest.mark.parametrize(
    "text", ["a: 2026-11-29", "latent_dim: 2026-11-29", "latent_dim: [1, 2]", "latent_dim: {a: 1}"]
)
def test_yaml_dates_and_lists(work, refused, text):
    Path("set/config.yaml").write_text(text)
    refused(*train_on("set/relion31.star", "--config", "set/config.yaml"))


def test_yaml_bomb(work, refused):
    bomb = "levels: &a [x,x,x,x,x,x,x,x,x]\n"
    for old, new in zip("abcdefghi", "bcdefghij"):
        bomb += f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n"
    Path("set/config.yaml").write_text(bomb)
    refused(*train_on("set/relion31.star", "--config", "set/config.yaml"))


# ---------------------------------------------------------------- names and numbers


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "loop", "pipe", "/dev/zero", "set", ""])
def test_names_that_are_no_file(work, refused, name):
    os.symlink("loop", "loop")
    os.mkfifo("pipe")
    if name != "set":
        refused(*train_on(name))
    refused("fsc", name, "set/truth/vol_000.mrc")
    refused("volumes", name, "--out", "out")
    refused("postprocess", name, "--out", "out")
    refused("postprocess", name, "set/truth/vol_000.mrc", "--out", "out")
    refused(*train_on("set/relion31.star", "--ind", name))
    refused(*train_on("set/relion31.star", "--config", name))
    refused("train", "set/relion31.star", "--out", name, "--resume")
    if name not in ("set", ""):
        refused("simulate", "out", "--preset", name)
        refused("simulate", "out", "--from", name, "--to", "set/truth/vol_000.mrc")


@pytest.mark.parametrize(
    "argv",
    [
        ["report", "run", "--out", ""],
        ["simulate", "out", "--preset", ""],
        ["simulate", ""],
        ["score", "run", "--truth", ""],
        ["train", "set/relion31.star", "--out", "out", "--datadir", ""],
        ["train", "set/relion31.star", "--out", "out", "--set", ""],
    ],
    ids=" ".join,
)
def test_empty_words_are_no_defaults(work, refused, argv):
    refused(*argv, says="found an empty word")


def test_images_that_are_constant(work, refused):
    with mrcfile.open("set/particles.mrcs", "r+") as stack:
        stack.data[:] = 0.5
    refused(*train_on("set/relion31.star"))
    refused(*train_on("set/relion31.star", "--poses", "refine"))


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_shifts_that_are_no_number(work, refused, value):
    refused("simulate", "out", "-n", "3", "--box", "16", f"--shift={value}")
    pair = ["--from", "set/open.pdb", "--to", "set/closed.pdb"]
    refused("simulate", "out", "-n", "3", "--box", "16", f"--shift={value}", *pair)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_image_names_that_are_no_name(work, refused, name):
    text = Path("set/relion31.star").read_text()
    Path("set/relion31.star").write_text(text.replace("@particles.mrcs", "@" + name))
    refused(*train_on("set/relion31.star"))


@pytest.mark.parametrize("word", ["nan", "None", "0", "x"])
def test_image_names_that_are_one_word(work, refused, word):
    text = Path("set/relion31.star").read_text()
    Path("set/relion31.star").write_text(re.sub(r"\d+@\S+", word, text))
    refused(*train_on("set/relion31.star"), says="rlnImageName" if word == "nan" else "")


@pytest.mark.parametrize("value", [-1e30, 0.0, 1e30])
def test_true_atoms_of_impossible_weight(work, value):
    path = Path("set/truth/atoms.npz")
    atoms = dict(np.load(path))
    np.savez(path, **atoms | dict(weight=np.full_like(atoms["weight"], value)))
    with pytest.raises(InputError, match="weight"):
        true_volumes(path.parent, [0])


def test_numbers_of_one_byte_are_no_mask(work):
    np.save("bytes.npy", np.array([3, 0, 5, 7], np.uint8))
    assert main([str(w) for w in train_on("set/relion31.star", "--ind", "bytes.npy")]) == 0


def test_one_particle(work, refused):
    np.save("one.npy", [3])
    refused(*train_on("set/relion31.star", "--ind", "one.npy"), says="two particles")
    edit(lambda blocks: blocks.update(particles=blocks["particles"][:1]))
    for line in (train_on("set/relion31.star"), ["verdict", "set/relion31.star"]):
        refused(*line, says="two particles")
    refused("junk", "set/relion31.star", "--out", "clean.star", says="particles")


@pytest.mark.parametrize("box", [4, 6, 8, 10])
def test_small_boxes(work, capfd, box):
    "Trained, or refused in one line."
    status = main(train_on("set/relion31.star", "--box", str(box)))
    error = capfd.readouterr().err
    assert status in (0, 2)
    assert error.count("\n") == status // 2, error


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(work, refused):
    refused(*train_on("set/relion31.star"), "device=cuda", says="device")


def test_settings_out_of_range(work, refused):
    refused(*train_on("set/relion31.star"), "start_px=0", says="start_px")
    assert Config().updated(["batch=4.0"]).batch == 4


# ---------------------------------------------------------------- security


class Call:
    "Its pickle calls something."

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("deep", ["O", [("a", "O")], [("a", [("b", "O")])], ("O", (2,))], ids=str)
def test_pickle_whose_type_hides_an_object(tmp_path, deep):
    kind = np.dtype(deep)
    for protocol in range(6):
        hidden = Call(np.ndarray, ((2,), kind, b"A" * 2 * kind.itemsize))
        (tmp_path / "poses.pkl").write_bytes(pickle.dumps(hidden, protocol))
        with pytest.raises(InputError, match="poses.pkl"):
            read_pickle(tmp_path / "poses.pkl")


def test_pickle_that_promises_a_billion_objects(tmp_path):
    (tmp_path / "poses.pkl").write_bytes(b"\x80\x04Nr\xff\xff\xff\x7f.")
    assert read_pickle(tmp_path / "poses.pkl") is None, "in no memory"


@pytest.mark.parametrize("way", ["absolute", "climbs"])
def test_image_names_stay_in_their_folder(work, refused, way):
    Path("project/job").mkdir(parents=True)
    Path("private").mkdir()
    shutil.copy("set/relion31.star", "project/job")
    shutil.copy("set/particles.mrcs", "private")
    name = work / "private/particles.mrcs" if way == "absolute" else "../../private/particles.mrcs"
    star = Path("project/job/relion31.star")
    star.write_text(star.read_text().replace("@particles.mrcs", f"@{name}"))
    refused(*train_on(star), says="--datadir")
    allowed = load_particles(star, datadir=work if way == "absolute" else work / "project/job")
    assert len(allowed) == 12 if way == "absolute" else True


@pytest.mark.parametrize("word", ["'", '"', 'a"b'])
def test_quotation_marks_that_swallow_rows(work, refused, word):
    star = Path("set/relion31.star")
    star.write_text(star.read_text().replace("@particles.mrcs ", f"@particles.mrcs {word} "))
    text = star.read_text().replace("_rlnImageName #1", "_rlnImageName #1\n_rlnMicrographName #2")
    star.write_text(text)
    refused(*train_on(star), says="rlnMicrographName")


def test_shifts_that_leave_no_particle_in_its_image(work, refused):
    R, shifts = pickle.loads(Path("set/cryodrgn/poses.pkl").read_bytes())
    poses = pickle.dumps((R, np.full_like(shifts, -1.0)))  # a whole box, as its unit is the box
    Path("set/cryodrgn/poses.pkl").write_bytes(poses)
    given = ["set/relion31.star", "--pose-pkl", "set/cryodrgn/poses.pkl"]
    refused(*train_on(*given), says="inside their images")
    assert not Path("out").exists()


@pytest.mark.parametrize("command", ["score", "flexibility"])
@pytest.mark.parametrize("change", [dict(xyz=255.0), dict(sigma=3e38), dict(sigma=1e-30)], ids=str)
def test_true_atoms_outside_the_box(work, refused, command, change):
    with np.load("set/truth/atoms.npz") as archive:
        arrays = dict(archive)
    ((name, value),) = change.items()
    np.savez("set/truth/atoms.npz", **arrays | {name: np.full_like(arrays[name], value)})
    out = ["--out", "out"] if command == "flexibility" else []
    refused(command, "run", "--truth", "set/truth", "-n", "3", *out, says="set/truth")


def test_arrays_of_the_other_byte_order(work):
    def swap(array):
        array = np.asarray(array)
        return array.astype(array.dtype.newbyteorder(">"))

    plain = main(["score", "run", "--truth", "set/truth", "-n", "5", "--json"])
    for path in [Path("run/latents.npy"), *Path("set/truth").glob("*.npy")]:
        np.save(path, swap(np.load(path)))
    with np.load("set/truth/atoms.npz") as archive:
        arrays = {name: swap(archive[name]) for name in archive}
    np.savez("set/truth/atoms.npz", **arrays)
    for name in ("poses", "ctf"):
        path = Path(f"set/cryodrgn/{name}.pkl")
        held = pickle.loads(path.read_bytes())
        parts = tuple(map(swap, held)) if isinstance(held, tuple) else swap(held)
        path.write_bytes(pickle.dumps(parts))
    assert plain == 0
    assert main(["score", "run", "--truth", "set/truth", "-n", "5", "--json"]) == 0
    for command in (["report", "run", "--out", "page.html"], ["flexibility", "run", "--out", "f"]):
        assert main([*command, "--truth", "set/truth"]) == 0, command
    given = ["--pose-pkl", "set/cryodrgn/poses.pkl", "--ctf-pkl", "set/cryodrgn/ctf.pkl"]
    assert main([str(word) for word in train_on("set/relion31.star", *given)]) == 0


def test_residue_number_that_is_no_text(work, refused):
    lines = Path("set/open.pdb").read_bytes().splitlines(keepends=True)
    k = next(k for k, line in enumerate(lines) if line.startswith(b"ATOM"))
    lines[k] = lines[k][:26] + b"\xf8" + lines[k][27:]
    Path("set/open.pdb").write_bytes(b"".join(lines))
    ends = ["--from", "set/open.pdb", "--to", "set/closed.pdb", "--frames", "2"]
    refused("simulate", "out", "-n", "3", "--box", "16", *ends, says="open.pdb")


# ---------------------------------------------------------------- accepted nonsense


def column(name, value):
    "The column set to a value in whichever block has it."

    def change(blocks):
        for block in blocks.values():
            if name in block:
                block[name] = value

    return change


@pytest.mark.parametrize(
    "name, value",
    [
        ("rlnSphericalAberration", 2.7e7),
        ("rlnImagePixelSize", 1e-10),
        ("rlnImagePixelSize", -4.0),
        ("rlnDefocusU", 1e9),
        ("rlnOriginXAngst", 1e6),
    ],
)
def test_what_no_microscope_has(work, refused, name, value):
    edit(column(name, value))
    refused(*train_on("set/relion31.star"))


@pytest.mark.parametrize(
    "name, value, says",
    [("rlnAngleRot", 0, "2D"), ("rlnAngleTilt", 5, "2D"), ("rlnDefocusU", 1.2, "micrometres")],
)
def test_what_is_warned_of(work, name, value, says):
    edit(column(name, value))
    with pytest.warns(UserWarning, match=says):
        load_particles("set/relion31.star", invert=False)


@pytest.mark.parametrize("weight", [0, -1, np.inf, np.nan])
def test_weights(tmp_path, weight):
    np.savez(tmp_path / "atoms.npz", xyz=np.random.rand(2, 5, 3), weight=np.full(5, weight))
    with pytest.raises(InputError, match="weights"):
        load_molecule(tmp_path / "atoms.npz")


def test_stack_longer_than_its_header(tmp_path):
    path = write_stack(tmp_path / "s.mrcs", np.random.rand(3, 8, 8), 2.0)
    with mrcfile.mmap(path, "r+") as stack:
        stack.header.nz = 2
    from cryoformer_nb.core.files import mrc_info

    with pytest.warns(UserWarning, match="beyond"):
        assert mrc_info(path).shape == (2, 8, 8)


def test_fsc_of_nan():
    good = np.random.default_rng(0).normal(size=(8, 8, 8))
    bad = good.copy()
    bad[0, 0, 0] = np.nan
    for arguments in ((good, bad), (bad, good), (good, good, 1.0, bad), (good, good, -1.0)):
        with pytest.raises(InputError, match="FSC"):
            fsc(*arguments)
    with pytest.raises(InputError, match="mask"):
        fsc(good, good, 1.0, np.zeros_like(good))


@pytest.mark.parametrize(
    "options",
    [dict(epochs=0), dict(minutes=float("nan")), dict(minutes=float("inf")), dict(epochs=-1)],
    ids=str,
)
def test_lengths_of_training(work, options):
    with pytest.raises(InputError, match="positive"):
        train("set/relion31.star", "out", **options)


@pytest.mark.parametrize("options", [dict(invert="no"), dict(box=12.0), dict(pixel_size=-2)])
def test_options_of_load_particles(work, options):
    with pytest.raises(InputError):
        load_particles("set/relion31.star", **options)


@pytest.mark.parametrize("rows", [np.ones(12, bool), [-1], [0.5], [[1, 2]], ["a"]], ids=str)
def test_rows(work, rows):
    with pytest.raises(InputError, match="particle numbers"):
        load_particles("set/relion31.star", invert=False, rows=rows)


def test_selection_of_particle_minus_one(tmp_path):
    with pytest.raises(InputError, match="-1"):
        save_selection([3, -1], tmp_path / "chosen.npy")


# ---------------------------------------------------------------- Python callers


@pytest.mark.parametrize("z", [[0.0], [[0.0] * 4] * 2, [0, 0, 0, np.nan], [1j] * 4, 7, ["a"] * 4])
def test_volume_of_a_wrong_latent(base, z):
    with pytest.raises(InputError, match="volume"):
        Run.load(base / "run").volume(z)


@pytest.mark.parametrize(
    "change", [dict(fingerprint=-1), dict(fingerprint={}), dict(origin=-1), dict(origin=dict(x=1))]
)
def test_checkpoint_of_strange_particles(work, refused, change):
    state = torch.load("run/checkpoint.pt", weights_only=True)
    state["particles"] |= change
    torch.save(state, "run/checkpoint.pt")
    refused("train", "set/relion31.star", "--out", "run", "--resume", says="checkpoint.pt")
    with pytest.raises(InputError, match="checkpoint.pt"):
        run_particles(Run("run"))
