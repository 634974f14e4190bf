"""Damage: what happens to files and arguments between the program that wrote them and ours.

Each function takes a random generator and the path of a good file, damages the file in place and
says what it did. `mutate` chooses by the suffix; a quarter of all damage is to bytes.
"""

import json
import os
import pickle
import struct
from pathlib import Path

import mrcfile
import numpy as np
import torch
import yaml

#: Words that a number, a name or a switch is replaced by.
WORDS = [
    *("", "nan", "inf", "-inf", "-1", "0", "1e400", "1e-300", "1e30", "-1e30", "4.0", "2.5", "7"),
    *("abc", "None", "null", "True", "no", "é", "<script>alert(1)</script>", "'", '"', "#", "_rln"),
    *("loop_", "data_x", "../../../../etc/passwd", "/etc/passwd", "/dev/zero", "1e9", "9" * 400),
    *("x" * 300, "\x00", "99999999999999999999", "2147483648", "-2147483649", "1,5", "$HOME"),
    *("2026-11-29", "12:30:45", "0x10", "1_000", "~", "[1, 2]", "{a: 1}", "*a", "&a", "!!x"),
]
#: Numbers that a number is replaced by.
NUMBERS = [np.nan, np.inf, -np.inf, 0.0, -1.0, 1e30, -1e30, 1e-30, 0.5, 3e38, 1e9, 255.0]


def pick(rng, items):
    "One of them."
    return items[int(rng.integers(len(items)))]


# ---------------------------------------------------------------- bytes and text


def damage_bytes(rng, path: Path) -> str:
    "Cut, flip, insert, blank, repeat, or replace by something else altogether."
    data = bytearray(path.read_bytes())
    n, kind = len(data), int(rng.integers(10))
    at, length = int(rng.integers(n + 1)), int(rng.integers(1, 64))
    if kind == 0:
        data = data[:at]
    elif kind == 1:
        for k in rng.integers(0, max(n, 1), int(rng.integers(1, 20))):
            data[k : k + 1] = rng.bytes(1)
    elif kind == 2:  # where headers are
        for k in rng.integers(0, min(n, 256) or 1, int(rng.integers(1, 6))):
            data[k : k + 1] = rng.bytes(1)
    elif kind == 3:
        data[at:at] = rng.bytes(length)
    elif kind == 4:
        data[at : at + length] = bytes(length)
    elif kind == 5:
        data = data * 2
    elif kind == 6:
        data = bytearray()
    elif kind == 7:
        data = bytearray(rng.bytes(length * 20))
    elif kind == 8:
        data[at : at + length] = b""
    else:
        data[at:at] = pick(rng, [b"\xff\xfe", b"\x00", b"\r\n", b"\xc3\x28", b"\n\n", b"'"])
    path.write_bytes(bytes(data))
    return f"bytes, kind {kind} at {at} of {n}"


def damage_text(rng, path: Path) -> str:
    "Words, lines and names of a text file."
    lines = path.read_text(errors="replace").split("\n")
    kind, k = int(rng.integers(9)), int(rng.integers(len(lines)))
    full = [j for j, line in enumerate(lines) if line.strip()] or [0]
    k = pick(rng, full)
    if kind <= 2:
        words = lines[k].split(" ")
        filled = [j for j, word in enumerate(words) if word] or [0]
        at = pick(rng, filled)
        said = f"{words[at]!r} of line {k + 1} became "
        words[at] = pick(rng, WORDS)
        lines[k] = " ".join(words)
        said += f"{words[at]!r:.60}"
    elif kind == 3:
        said, lines = f"line {k + 1} gone", lines[:k] + lines[k + 1 :]
    elif kind == 4:
        said, lines = f"line {k + 1} twice", lines[: k + 1] + lines[k:]
    elif kind == 5:
        other = pick(rng, full)
        lines[k], lines[other] = lines[other], lines[k]
        said = f"lines {k + 1} and {other + 1} swapped"
    elif kind == 6:
        said, lines = "the file twice", lines + lines
    elif kind == 7:
        said, lines = f"cut after line {k + 1}", lines[: k + 1]
    else:  # a column of a table: the same change in every line with as many words
        words = lines[k].split()
        at, word = int(rng.integers(max(len(words), 1))), pick(rng, WORDS)
        for j, line in enumerate(lines):
            row = line.split()
            if len(row) == len(words) and len(row) > at:
                row[at] = word
                lines[j] = " ".join(row)
        said = f"column {at + 1} of lines like {k + 1} became {word!r:.60}"
    path.write_text("\n".join(lines), errors="surrogatepass")
    return said


# ---------------------------------------------------------------- arrays


def other_array(rng, a: np.ndarray) -> tuple[np.ndarray, str]:
    "The array with other values, another type or another shape."
    kind = int(rng.integers(12))
    a = np.array(a)
    if kind <= 2 and a.dtype.kind in "fiu" and a.size:
        value = pick(rng, NUMBERS)
        rows = rng.integers(0, a.size, int(rng.integers(1, 4)))
        a = a.astype(np.float64)
        a.ravel()[rows] = value
        return a, f"{len(rows)} values became {value}"
    if kind == 3:
        return a[:0], "no rows"
    if kind == 4:
        return a[:-1], "a row less"
    if kind == 5:
        return a[None], "an axis more"
    if kind == 6:
        return np.concatenate([a, a]), "rows twice"
    if kind == 7 and a.dtype.kind in "fiub":
        dtype = pick(rng, ["c8", "?", "i4", "i8", "u1", "f2", "S8", "U8", "O", "M8[s]", ">f4"])
        with np.errstate(all="ignore"):
            return a.astype(np.float64).astype(dtype), f"as {dtype}"
    if kind == 8:
        return np.array(pick(rng, NUMBERS)), "a single number"
    if kind == 9 and a.ndim > 1:
        return a[..., :-1], "a column less"
    if kind == 10 and a.dtype.kind in "fiu":
        value = pick(rng, NUMBERS)
        return np.full(a.shape, value), f"all {value}"
    return a.T, "transposed"


def damage_npy(rng, path: Path) -> str:
    "A .npy file: its array, or a header that lies."
    if rng.random() < 0.25:
        shape, dtype = (
            pick(rng, [(2**40,), (10**9, 10**9), (-1,), (0,), (1 << 33, 4), (12, 2**30)]),
            pick(rng, ["<f4", "<f8", "|O", "|V0", "<U1000000", "|S0"]),
        )
        header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
        header = header.ljust(117) + "\n"
        start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header))
        path.write_bytes(start + header.encode("latin1") + bytes(64))
        return f"a header of shape {shape} and type {dtype}"
    array = np.load(path)
    if array.size and not array.nbytes:
        raise ValueError("a header that lies, of elements without bytes")  # takes minutes to copy
    array, said = other_array(rng, array)
    np.save(path, array, allow_pickle=True)
    return said


def damage_npz(rng, path: Path) -> str:
    "An archive of arrays: one changed, missing or of another name."
    with np.load(path) as archive:
        arrays = dict(archive)
    name, kind = pick(rng, list(arrays)), int(rng.integers(4))
    if kind == 0:
        arrays.pop(name)
        said = f"{name} gone"
    elif kind == 1:
        arrays[name + "x"] = arrays.pop(name)
        said = f"{name} renamed"
    else:
        arrays[name], said = other_array(rng, arrays[name])
        said = f"{name}: {said}"
    np.savez(path, **arrays)
    return said


def damage_cs(rng, path: Path) -> str:
    "A field of a cryoSPARC table."
    data = np.load(path)
    fields = {name: data[name] for name in data.dtype.names}
    name, kind = pick(rng, list(fields)), int(rng.integers(9))
    if kind == 0:
        fields.pop(name)
        said = f"{name} gone"
    elif kind == 1:
        fields[name] = np.full(len(data), pick(rng, WORDS).replace("\x00", "?"), "S300")
        said = f"{name} as text {fields[name][0][:30]}"
    elif kind == 2:
        fields[name] = np.stack([fields[name]] * 2, 1)
        said = f"{name} with an axis more"
    elif kind == 3:
        fields = {k: v[:0] for k, v in fields.items()}
        said = "no rows"
    elif kind == 4 and "uid" in fields:
        fields["uid"] = np.full(len(data), pick(rng, [0, 1, 7]), np.uint64)
        said = "uids alike"
    elif kind == 5:
        fields[name] = np.array(["x", None] * len(data), object)[: len(data)]
        said = f"{name} as objects"
    else:
        values = np.array(fields[name])
        if values.dtype.kind in "iuf" and values.size:
            values, value = values.astype(np.float64), pick(rng, NUMBERS)
            some = rng.integers(0, values.size, 1) if kind < 7 else slice(None)
            values.ravel()[some] = value
            said = f"{name} became {value} ({'all' if kind >= 7 else 'one'})"
        else:
            values = values[::-1].copy()
            said = f"{name} backwards"
        fields[name] = values
    count = len(next(iter(fields.values()))) if fields else 0
    table = np.zeros(count, [(k, v.dtype, v.shape[1:]) for k, v in fields.items()])
    for k, v in fields.items():
        table[k] = v
    with open(path, "wb") as file:
        np.save(file, table, allow_pickle=True)
    return said


# ---------------------------------------------------------------- pickles, settings, checkpoints


class Hidden:
    "A pickle that asks numpy for an array whose elements hide an object."

    def __reduce__(self):
        dtype = np.dtype([("a", "O")])
        return np.ndarray, ((12, 3, 3), dtype, bytes(12 * 9 * dtype.itemsize))


def damage_pickle(rng, path: Path) -> str:
    "The contents of a pickle."
    data = pickle.loads(path.read_bytes())
    parts = list(data) if isinstance(data, tuple) else [data]
    kind = int(rng.integers(6))
    if kind == 0:
        strange = [None, {}, "text", 7, [], (), b"x", 1.5, [None], ("a", "b"), [[]], {"a": 1}]
        data = pick(rng, strange)
        said = f"{data!r}"
    elif kind == 1:
        data, said = Hidden(), "an array of hidden objects"
    elif kind == 2:
        data, said = [np.asarray(part).tolist() for part in parts], "lists"
    elif kind == 3:
        data, said = (*parts, *parts), "more parts"
    else:
        k = int(rng.integers(len(parts)))
        parts[k], said = other_array(rng, np.asarray(parts[k]))
        data, said = (tuple(parts) if len(parts) > 1 else parts[0]), f"part {k}: {said}"
    path.write_bytes(pickle.dumps(data, int(rng.integers(0, 6))))
    return said


_BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join(f'*{old}' for _ in range(9))}]\n"
    for old, new in zip("abcdefghi", "bcdefghij")
)


def damage_yaml(rng, path: Path) -> str:
    "A setting, or all of them."
    settings, kind = yaml.safe_load(path.read_text()), int(rng.integers(6))
    key = pick(rng, list(settings))
    if kind == 0:
        text = pick(rng, [_BOMB, "[1, 2]", "text", "1", "- a\n- b", "a: b: c", "? [a]\n: b", "\t"])
        path.write_text(text)
        return f"{text!r:.40}"
    if kind == 1:
        settings[key + "x"] = settings.pop(key)
        said = f"{key} renamed"
    elif kind == 2:
        settings[key] = pick(rng, [None, [], {}, [1], True, -1, 0, 10**30, 1e300, "x", 2.5, 3])
        said = f"{key} became {settings[key]!r:.40}"
    elif kind == 3:
        settings[pick(rng, [1, None, True, 2.5, (1, 2)])] = 1
        said = "a key that is no name"
    else:
        text = path.read_text().replace(f"{key}: {settings[key]}", f"{key}: {pick(rng, WORDS)}")
        path.write_text(text)
        return f"{key} as a word"
    path.write_text(yaml.dump(settings))
    return said


def _places(state, at=()) -> list:
    "All places of a tree of dicts and lists."
    items = state.items() if isinstance(state, dict) else enumerate(state)
    found = []
    for key, value in items:
        found.append((*at, key))
        if isinstance(value, (dict, list, tuple)):
            found += _places(value, (*at, key))
    return found


def _other_tensor(rng, value: torch.Tensor):
    "A tensor of another shape, type or values."
    kind = int(rng.integers(8))
    if kind == 0:
        return torch.full_like(value.double(), float(pick(rng, NUMBERS))), "other values"
    if kind == 1:
        return value[..., None], "an axis more"
    if kind == 2:
        return value.flatten()[:-1], "flat and one less"
    if kind == 3:
        return value.to(torch.complex64), "complex"
    if kind == 4:
        return value.numpy().tolist(), "a list"
    if kind == 5:
        return torch.zeros(0), "empty"
    if kind == 6 and value.is_floating_point() and value.numel():
        value = value.clone()
        value.view(-1)[int(rng.integers(value.numel()))] = float("nan")
        return value, "one NaN"
    return value.to(pick(rng, [torch.int64, torch.bool, torch.float16, torch.float64])), "type"


def damage_checkpoint(rng, path: Path) -> str:
    "A place of a checkpoint: gone, or something else."
    state = torch.load(path, weights_only=True)
    if rng.random() < 0.05:
        state = pick(rng, [{}, [], None, "x", torch.zeros(3), 7])
        torch.save(state, path)
        return f"{state!r:.20}"
    top = pick(rng, list(state))  # every part alike, however many numbers it holds
    below = [p for p in _places(state) if p[0] == top]
    place = pick(rng, below)
    parent = state
    for key in place[:-1]:
        parent = parent[key]
    if isinstance(parent, tuple):
        return "nothing"
    value, kind = parent[place[-1]], int(rng.integers(5))
    if kind == 0:
        del parent[place[-1]]
        said = "gone"
    elif kind < 4 and torch.is_tensor(value):
        parent[place[-1]], said = _other_tensor(rng, value)
    else:
        new = pick(rng, [None, -1, 0, 10**18, 1e300, float("nan"), "x", [], {}, 2.5, 3, True])
        parent[place[-1]], said = new, f"{new!r}"
    torch.save(state, path)
    return f"{'.'.join(map(str, place))}: {said}"


# ---------------------------------------------------------------- maps, stacks, notebooks


def damage_mrc(rng, path: Path) -> str:
    "The header or the values of a map or a stack."
    raw = bytearray(path.read_bytes())
    header = np.frombuffer(raw, mrcfile.dtypes.HEADER_DTYPE, 1)
    values = np.frombuffer(raw, "<f4", offset=1024)
    if rng.random() < 0.6:
        name = pick(
            rng,
            "nx ny nz mode mx my mz mapc mapr maps nsymbt ispg machst map cella nxstart".split(),
        )
        if name == "cella":
            value = pick(rng, NUMBERS)
            header["cella"]["x"] = value
        elif name in ("machst", "map"):
            value = 0
            raw[208:216] = bytes(8)
        else:
            value = pick(rng, [0, -1, 1, 2, 3, 4, 6, 12, 16, 101, 2**31 - 1, -(2**31), 2**20, 50])
            header[name] = value
        said = f"{name} = {value}"
    elif rng.random() < 0.5:
        value = pick(rng, NUMBERS)
        with np.errstate(all="ignore"):
            values[rng.integers(0, len(values), int(rng.integers(1, 300)))] = value
        said = f"values became {value}"
    else:
        value = pick(rng, NUMBERS)
        with np.errstate(all="ignore"):
            values[:] = value
        said = f"all values {value}"
    path.write_bytes(raw)
    return said


def damage_notebook(rng, path: Path) -> str:
    "A place of a notebook."
    nb = json.loads(path.read_text())
    place = pick(rng, _places(nb))
    parent = nb
    for key in place[:-1]:
        parent = parent[key]
    new = pick(rng, [None, -1, 0, 1e300, "x", [], {}, True, "<script>", ["a", 1]])
    parent[place[-1]] = new
    path.write_text(json.dumps(nb))
    return f"{'.'.join(map(str, place))}: {new!r}"


OF_SUFFIX = {
    ".star": damage_text,
    ".txt": damage_text,
    ".pdb": damage_text,
    ".cif": damage_text,
    ".npy": damage_npy,
    ".npz": damage_npz,
    ".cs": damage_cs,
    ".pkl": damage_pickle,
    ".yaml": damage_yaml,
    ".pt": damage_checkpoint,
    ".mrc": damage_mrc,
    ".mrcs": damage_mrc,
    ".ipynb": damage_notebook,
}


def mutate(rng, path: Path) -> str:
    "Damage a file in the way of its kind; say how."
    if not path.is_file():
        return f"{path.name}: gone before"
    if rng.random() < 0.03:
        strange = pick(rng, ["gone", "folder", "pipe", "loop"])
        become(path, strange)
        return f"{path.name}: {strange}"
    plain = rng.random() < 0.25
    try:
        said = damage_bytes(rng, path) if plain else OF_SUFFIX[path.suffix](rng, path)
    except Exception as error:  # damaged before, beyond what its own kind of damage can read
        said = f"{damage_bytes(rng, path)} ({type(error).__name__} before)"
    return f"{path.name}: {said}"


def become(path: Path, strange: str) -> None:
    "No file any more: missing, a folder, a pipe, or a link to itself."
    if path.exists():
        path.unlink()
    if strange == "folder":
        path.mkdir()
    elif strange == "pipe":
        os.mkfifo(path)
    elif strange == "loop":
        path.symlink_to(path.name)


# ---------------------------------------------------------------- arguments

#: What stands for the path of an input.
PATHS = [
    *("", ".", "/", "nowhere", "x" * 300, "a\x00b", "loop", "pipe", "/dev/zero", "/dev/null"),
    *("set", "\udcff.star", "é ü.star", "-", "~", "set/particles.mrcs", "/etc/passwd", "run"),
    *(
        "set/relion31.star",
        "set/relion31.star/x",
        "nowhere.npy",
        "truth/labels.npy",
        "/proc/self/mem",
    ),
]
#: What stands for the path of an output.
OUTS = [
    *("", ".", "set", "x" * 300, "a\x00b", "loop", "set/relion31.star", "set/relion31.star/x"),
    *("out/deep/er", "out put", "\udcff", "run", "-", "pipe", "out\nline", "outé"),
]
SMALL = ["nan", "inf", "-1", "0", "1", "2", "3", "4", "5", "6", "8", "10", "16", "17", "2.5", "4.0"]
SMALL += ["", "abc", "1e400", "-0", "1e-300", "٣", "0x4", "1_0", " 4", "\x00"]


def other_argument(rng, argv: list, outs: tuple) -> tuple[list, str]:
    "One word of the arguments becomes another, goes, or comes twice."
    argv, kind = list(argv), int(rng.integers(8))
    k = int(rng.integers(1, len(argv)))
    if kind == 0:
        return argv[:k] + argv[k + 1 :], f"without {argv[k]!r:.40}"
    if kind == 1:
        return argv[: k + 1] + argv[k:], f"{argv[k]!r:.40} twice"
    if argv[k] in outs:
        argv[k] = pick(rng, OUTS)
    elif argv[k].startswith("-"):
        if k + 1 < len(argv) and argv[k + 1] not in outs:
            argv[k + 1] = pick(rng, SMALL)
            k += 1
    elif "/" in argv[k] or "." in argv[k] or argv[k] in ("run", "set", "truth"):
        argv[k] = pick(rng, PATHS)
    elif "=" in argv[k]:
        argv[k] = argv[k].split("=")[0] + "=" + pick(rng, SMALL + WORDS)
    else:
        argv[k] = pick(rng, SMALL)
    return argv, f"argument {k} became {argv[k]!r:.40}"
