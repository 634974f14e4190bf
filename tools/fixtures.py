"""Write tests/fixtures: a few particles as each program's files, their truth, and a small molecule.

    python tools/fixtures.py             write tests/fixtures
    python tools/fixtures.py --out DIR   write somewhere else

It takes nothing from cryoformer_nb, on purpose: rotations, transfer function, projections and file
formats are written down here a second time, from the programs' documentation, in float64 numpy.
The tests read these files with the package and compare.
"""

import argparse
import pickle
import struct
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
BOX, PIXEL_SIZE = 16, 4.0  # pixels, A
SIGMA = 4.0  # A, width of every Gaussian

# ---------------------------------------------------------------- what is in the images

#: Gaussians x, y, z (A) and weight; no symmetry. Those of weight 2 stand elsewhere in state 1.
ATOMS = np.array(
    [
        [0.0, 0.0, 0.0, 3.0],
        [9.0, 2.0, -3.0, 3.0],
        [-7.0, 6.0, 2.0, 3.0],
        [-3.0, -9.0, 5.0, 3.0],
        [2.0, 5.0, 12.0, 2.0],
        [6.0, 11.0, 13.0, 2.0],
        [-8.0, -4.0, -11.0, 3.0],
    ]
)
MOVED = {4: (-5.0, 3.0, 12.0), 5: (-9.0, 8.0, 14.0)}

#: rot, tilt, psi (degrees), origin x, y (pixels), defocus u, v (A), its angle (degrees),
#: phase shift (degrees), optics group, half set, state.
ROWS = [
    (0.0, 0.0, 0.0, 0.0, 0.0, 9000, 8600, 10, 0, 1, 2, 0),
    (35.0, 62.0, -118.0, 1.25, -0.5, 11500, 11500, 0, 0, 1, 1, 1),
    (-71.5, 118.25, 20.0, -1.75, 0.75, 10200, 9900, -40, 0, 1, 2, 0),
    (144.0, 41.0, 77.5, 0.5, 1.5, 12800, 12350, 75, 0, 1, 1, 1),
    (-12.0, 90.0, -35.0, -0.25, -1.25, 8400, 8900, 33, 0, 1, 2, 0),
    (101.0, 152.0, 166.0, 2.0, 0.25, 14100, 13800, -65, 0, 1, 1, 1),
    (-160.0, 75.0, 54.0, -1.0, -1.75, 9700, 9300, 120, 90, 2, 2, 0),
    (58.0, 104.0, -92.0, 0.75, 1.0, 13300, 12900, 5, 90, 2, 1, 1),
    (-98.0, 30.0, 139.0, 1.5, -1.5, 10900, 10400, -15, 90, 2, 2, 0),
    (17.0, 133.0, -64.0, -0.5, 0.5, 12100, 11700, 48, 90, 2, 1, 1),
    (83.0, 86.0, 8.0, -1.5, 1.75, 9400, 9100, -80, 90, 2, 2, 0),
    (-133.0, 58.0, -151.0, 1.0, -0.75, 11800, 11600, 95, 90, 2, 1, 1),
]
#: Voltage (kV), spherical aberration (mm), amplitude contrast of the two optics groups.
OPTICS = {1: (300.0, 2.7, 0.1), 2: (200.0, 2.0, 0.07)}
NOISE = 0.25  # standard deviation, in units of the strongest image's


def rotation(rot: float, tilt: float, psi: float) -> np.ndarray:
    "RELION's Euler_angles2matrix (src/euler.cpp), term by term: image = (A p)_xy."
    a, b, g = np.deg2rad([rot, tilt, psi])
    ca, cb, cg = np.cos([a, b, g])
    sa, sb, sg = np.sin([a, b, g])
    cc, cs, sc, ss = cb * ca, cb * sa, sb * ca, sb * sa
    return np.array(
        [
            [cg * cc - sg * sa, cg * cs + sg * ca, -cg * sb],
            [-sg * cc - cg * sa, -sg * cs + cg * ca, sg * sb],
            [sc, ss, cb],
        ]
    )


def rotation_vector(R: np.ndarray) -> np.ndarray:
    "Axis times angle (radians) of a rotation matrix."
    angle = np.arccos(np.clip((np.trace(R) - 1) / 2, -1, 1))
    if angle < 1e-12:
        return np.zeros(3)
    axis = np.array([R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]])
    return angle * axis / (2 * np.sin(angle))


def transfer(u, v, angle, kv, cs, w, phase) -> np.ndarray:
    "The contrast transfer function (BOX, BOX // 2 + 1) in rfft2's layout; +w at the origin."
    volts = 1e3 * kv
    wavelength = 12.2643 / np.sqrt(volts + 0.978466e-6 * volts**2)  # A, as in RELION's ctf.cpp
    frequencies = np.fft.fftfreq(BOX, PIXEL_SIZE), np.fft.rfftfreq(BOX, PIXEL_SIZE)
    ky, kx = np.meshgrid(*frequencies, indexing="ij")
    k2 = kx**2 + ky**2
    around = np.arctan2(ky, kx) - np.deg2rad(angle)
    defocus = u * np.cos(around) ** 2 + v * np.sin(around) ** 2
    chi = np.pi * wavelength * k2 * (defocus - 0.5 * cs * 1e7 * wavelength**2 * k2)
    chi += np.deg2rad(phase) + np.arcsin(w)
    return np.sin(chi)


def atoms(state: int) -> tuple:
    "Positions (n, 3) in A and weights (n,) of one state."
    xyz, weight = ATOMS[:, :3].copy(), ATOMS[:, 3]
    if state:
        for k, place in MOVED.items():
            xyz[k] = place
    return xyz, weight


def gaussians(points: np.ndarray, grid: list) -> np.ndarray:
    "Normalised Gaussians at `points` (n, d) on axes `grid`, last axis x; (n, ..)."
    d = points.shape[1]
    r2 = sum((axis - points[:, k].reshape(-1, *[1] * d)) ** 2 for k, axis in enumerate(grid))
    return np.exp(-r2 / (2 * SIGMA**2)) / (2 * np.pi * SIGMA**2) ** (d / 2)


def axes(d: int) -> list:
    "Coordinates in A of the pixels of a d-dimensional array, x first."
    line = (np.arange(BOX) - BOX // 2) * PIXEL_SIZE
    return np.meshgrid(*[line] * d, indexing="ij")[::-1]


def volume(state: int) -> np.ndarray:
    "The density (z, y, x) of one state."
    xyz, weight = atoms(state)
    return np.tensordot(weight, gaussians(xyz, axes(3)), 1)


def images() -> np.ndarray:
    "All particles (N, y, x): projection, then transfer function, then noise."
    clean = []
    for rot, tilt, psi, x, y, u, v, angle, phase, group, _, state in ROWS:
        xyz, weight = atoms(state)
        seen = (xyz @ rotation(rot, tilt, psi).T)[:, :2] - np.array([x, y]) * PIXEL_SIZE
        projection = np.tensordot(weight, gaussians(seen, axes(2)), 1)
        h = transfer(u, v, angle, *OPTICS[group], phase)
        spectrum = np.fft.rfft2(np.fft.ifftshift(projection)) * h
        clean.append(np.fft.fftshift(np.fft.irfft2(spectrum, (BOX, BOX))))
    clean = np.array(clean)
    clean /= clean.std(axis=(1, 2)).max()
    # RandomState's stream is the same in every version of numpy
    return clean + NOISE * np.random.RandomState(16).standard_normal(clean.shape)


# ---------------------------------------------------------------- the files of each program


def write_mrc(path: Path, array: np.ndarray, stack: bool) -> None:
    "MRC2014, mode 2, by hand."
    data = np.ascontiguousarray(array, dtype="<f4")
    n, y, x = data.shape
    header = bytearray(1024)
    struct.pack_into("<10i", header, 0, x, y, n, 2, 0, 0, 0, x, y, 1 if stack else n)
    depth = PIXEL_SIZE * (1 if stack else n)
    struct.pack_into("<6f", header, 40, x * PIXEL_SIZE, y * PIXEL_SIZE, depth, 90, 90, 90)
    struct.pack_into("<3i", header, 64, 1, 2, 3)
    struct.pack_into("<3f", header, 76, data.min(), data.max(), data.mean())
    struct.pack_into("<i", header, 88, 0 if stack else 1)
    header[208:216] = b"MAP \x44\x44\x00\x00"
    struct.pack_into("<f", header, 216, data.std())
    path.write_bytes(bytes(header) + data.tobytes())


def table(name: str, columns: dict) -> str:
    "One loop of a star file."
    head = "".join(f"_{c} #{k}\n" for k, c in enumerate(columns, 1))
    rows = "".join(" ".join(f"{v:>12}" for v in row) + "\n" for row in zip(*columns.values()))
    return f"data_{name}\n\nloop_\n{head}{rows}\n"


def number(values, digits: int = 6) -> list:
    return [f"{v:.{digits}f}" for v in values]


def particle_columns(stack: str) -> dict:
    "What every star file has."
    rot, tilt, psi, _, _, u, v, angle, phase, _, half, _ = zip(*ROWS)
    return {
        "rlnImageName": [f"{k:06d}@{stack}" for k in range(1, len(ROWS) + 1)],
        "rlnAngleRot": number(rot),
        "rlnAngleTilt": number(tilt),
        "rlnAnglePsi": number(psi),
        "rlnDefocusU": number(u),
        "rlnDefocusV": number(v),
        "rlnDefocusAngle": number(angle),
        "rlnPhaseShift": number(phase),
        "rlnRandomSubset": half,
    }


def relion30() -> str:
    "One table; origins in pixels, pixel size from detector (micrometres) and magnification."
    groups = [OPTICS[row[9]] for row in ROWS]
    columns = particle_columns("particles.mrcs")
    for k, name in enumerate(["Voltage", "SphericalAberration", "AmplitudeContrast"]):
        columns[f"rln{name}"] = number([g[k] for g in groups])
    columns["rlnOriginX"] = number([row[3] for row in ROWS])
    columns["rlnOriginY"] = number([row[4] for row in ROWS])
    columns["rlnDetectorPixelSize"] = number([5.0] * len(ROWS))
    columns["rlnMagnification"] = number([12500.0] * len(ROWS))
    return "\n" + table("images", columns)


def relion31(version: int, stack: str) -> str:
    "Optics groups in a table of their own; origins in A. RELION 5 has the same form."
    optics = {
        "rlnOpticsGroupName": [f"opticsGroup{g}" for g in OPTICS],
        "rlnOpticsGroup": list(OPTICS),
        "rlnMicrographOriginalPixelSize": number([1.0] * 2),
        "rlnVoltage": number([o[0] for o in OPTICS.values()]),
        "rlnSphericalAberration": number([o[1] for o in OPTICS.values()]),
        "rlnAmplitudeContrast": number([o[2] for o in OPTICS.values()]),
        "rlnImagePixelSize": number([PIXEL_SIZE] * 2),
        "rlnImageSize": [BOX] * 2,
        "rlnImageDimensionality": [2] * 2,
    }
    if version >= 50000:
        optics["rlnCtfDataAreCtfPremultiplied"] = [0] * 2
    columns = particle_columns(stack)
    columns["rlnOriginXAngst"] = number([row[3] * PIXEL_SIZE for row in ROWS])
    columns["rlnOriginYAngst"] = number([row[4] * PIXEL_SIZE for row in ROWS])
    columns["rlnOpticsGroup"] = [row[9] for row in ROWS]
    head = f"\n# version {version}\n\n"
    return head + table("optics", optics) + head + table("particles", columns)


def cryosparc(folder: Path) -> None:
    "Images and poses in one file, the transfer function in its passthrough file, in another order."
    n = len(ROWS)
    text = "S40"
    own = np.zeros(
        n,
        dtype=[
            ("uid", "<u8"),
            ("blob/path", text),
            ("blob/idx", "<u4"),
            ("blob/shape", "<u4", (2,)),
            ("blob/psize_A", "<f4"),
            ("blob/sign", "<f4"),
            ("alignments3D/split", "<u4"),
            ("alignments3D/shift", "<f4", (2,)),
            ("alignments3D/pose", "<f4", (3,)),
            ("alignments3D/psize_A", "<f4"),
        ],
    )
    own["uid"] = 10_000_000_000 + 7919 * np.arange(n)
    own["blob/path"] = b">J5/imported/particles.mrcs"
    own["blob/idx"] = np.arange(n)
    own["blob/shape"] = BOX
    own["blob/psize_A"] = PIXEL_SIZE
    own["blob/sign"] = 1
    own["alignments3D/split"] = [row[10] - 1 for row in ROWS]
    # refined at half the sampling: shifts are counted in pixels of 8 A
    own["alignments3D/psize_A"] = 2 * PIXEL_SIZE
    own["alignments3D/shift"] = np.array([row[3:5] for row in ROWS]) / 2
    own["alignments3D/pose"] = [rotation_vector(rotation(*row[:3]).T) for row in ROWS]
    fields = ["accel_kv", "cs_mm", "amp_contrast", "df1_A", "df2_A", "df_angle_rad"]
    fields += ["phase_shift_rad"]
    more = np.zeros(n, dtype=[("uid", "<u8"), *[(f"ctf/{f}", "<f4") for f in fields]])
    more["uid"] = own["uid"]
    for k, (u, v, angle, phase, group) in enumerate(row[5:10] for row in ROWS):
        values = (*OPTICS[group], u, v, np.deg2rad(angle), np.deg2rad(phase))
        for field, value in zip(fields, values):
            more[f"ctf/{field}"][k] = value
    with open(folder / "J7_005_particles.cs", "wb") as file:
        np.save(file, own)
    with open(folder / "J7_passthrough_particles.cs", "wb") as file:
        np.save(file, np.roll(more[::-1], 5))


def cryodrgn(folder: Path) -> None:
    "poses.pkl (rotations, shifts as fractions of the box), ctf.pkl (N, 9), a list of stacks."
    folder.mkdir(exist_ok=True)
    rotations = np.array([rotation(*row[:3]) for row in ROWS], dtype=np.float32)
    shifts = np.array([row[3:5] for row in ROWS], dtype=np.float32) / BOX
    # box and pixel size are those of the micrographs that the CTF was estimated on: 64 px, 1 A
    ctf = np.array(
        [(64, 1.0, u, v, a, *OPTICS[g], p) for u, v, a, p, g in (row[5:10] for row in ROWS)],
        dtype=np.float32,
    )
    (folder / "poses.pkl").write_bytes(pickle.dumps((rotations, shifts), protocol=4))
    (folder / "ctf.pkl").write_bytes(pickle.dumps(ctf, protocol=4))
    (folder / "particles.txt").write_text("../particles.mrcs\n")


def truth(folder: Path) -> None:
    "What generated the set, in the form of `cryoformer simulate`."
    folder.mkdir(exist_ok=True)
    xyz = np.array([atoms(state)[0] for state in (0, 1)], dtype=np.float32)
    weight = ATOMS[:, 3].astype(np.float32)
    np.savez(folder / "atoms.npz", xyz=xyz, weight=weight, sigma=np.float32(SIGMA))
    np.save(folder / "labels.npy", np.array([float(row[11]) for row in ROWS]))
    rotations = np.array([rotation(*row[:3]) for row in ROWS])
    np.save(folder / "rotations.npy", rotations.astype(np.float32))
    np.save(folder / "shifts_px.npy", np.array([row[3:5] for row in ROWS], dtype=np.float32))
    for state in (0, 1):
        write_mrc(folder / f"vol_{state:03d}.mrc", volume(state), stack=False)


# ---------------------------------------------------------------- a molecule in two conformations


def turned(points: np.ndarray, axis, degrees: float, pivot) -> np.ndarray:
    "Points (n, 3) turned about an axis through `pivot`: Rodrigues' formula."
    k, a = np.array(axis) / np.linalg.norm(axis), np.deg2rad(degrees)
    v = points - pivot
    along = (v @ k)[:, None] * k
    return pivot + along + (v - along) * np.cos(a) + np.cross(k, v) * np.sin(a)


def helix(start, direction, count: int) -> np.ndarray:
    "CA atoms of an alpha helix: 1.5 A and 100 degrees a residue, 2.3 A from its axis."
    d = np.array(direction, dtype=float) / np.linalg.norm(direction)
    a = np.cross(d, [0.3, 0.5, 0.81])
    a /= np.linalg.norm(a)
    k = np.arange(count)[:, None]
    round_it = 2.3 * (np.cos(k * 5 * np.pi / 9) * a + np.sin(k * 5 * np.pi / 9) * np.cross(d, a))
    return np.array(start, dtype=float) + 1.5 * k * d + round_it


#: Start and direction of seven helices of 20 residues: arm of two, core of three, lid of two.
HELICES = [
    ((-29, -8, -6), (-0.1, -1, -0.1)),
    ((-26, -33, -9), (0.3, 1, 0.2)),
    ((-15, 0, 0), (1, 0.1, 0)),
    ((15, 10, 4), (-1, 0, 0.1)),
    ((-14, 4, 14), (1, 0, 0)),
    ((19, 8, 18), (0.2, 1, 0.3)),
    ((17, 38, 28), (0, -1, 0.1)),
]
ARM, LID = slice(0, 40), slice(100, 140)


def trace(closed: bool) -> np.ndarray:
    "CA positions (140, 3); the closed form has its lid turned by 40 degrees, its arm by 30."
    xyz = np.concatenate([helix(start, way, 20) for start, way in HELICES])
    if closed:
        xyz[LID] = turned(xyz[LID], (1, 0.2, 0.1), 40, xyz[99])
        xyz[ARM] = turned(xyz[ARM], (0.2, 0.1, 1), 30, xyz[40])
        xyz = turned(xyz, (0.4, -0.3, 1), 70, (5, -3, 2)) + np.array([4.0, -6.0, 3.0])
    return xyz


NAMES = ["ALA", "GLY", "LEU", "SER", "GLU", "LYS", "VAL"]


def pdb(xyz: np.ndarray) -> str:
    "CA atoms as a PDB file without the column of elements, as old files are."
    line = "ATOM  {:5d}  CA  {:3s} A{:4d}    {:8.3f}{:8.3f}{:8.3f}  1.00 20.00\n"
    rows = [line.format(k, NAMES[k % 7], k, *p) for k, p in enumerate(xyz, 1)]
    return "".join(rows) + "END\n"


def mmcif(xyz: np.ndarray) -> str:
    "Some atoms as an mmCIF file, a hydrogen among them."
    keys = ["group_PDB", "id", "type_symbol", "label_atom_id", "label_alt_id", "label_comp_id"]
    keys += [
        "label_asym_id",
        "label_entity_id",
        "label_seq_id",
        "Cartn_x",
        "Cartn_y",
        "Cartn_z",
        "occupancy",
        "B_iso_or_equiv",
    ]
    keys += ["auth_seq_id", "auth_asym_id", "pdbx_PDB_model_num"]
    rows = [("C", "CA", p) for p in xyz] + [("H", "HA", xyz[0] + 1), ("O", "O", xyz[0] - 1)]
    text = "data_helix\nloop_\n" + "".join(f"_atom_site.{k}\n" for k in keys)
    for k, (element, name, (x, y, z)) in enumerate(rows, 1):
        at = k if element == "C" else 1
        place = f"{x:.3f} {y:.3f} {z:.3f} 1.00 20.0 {at} A 1"
        text += f"ATOM {k} {element} {name} . {NAMES[at % 7]} A 1 {at} {place}\n"
    return text + "#\n"


def write(out: Path) -> None:
    "All fixtures into a folder."
    out.mkdir(parents=True, exist_ok=True)
    write_mrc(out / "particles.mrcs", images(), stack=True)
    (out / "relion30.star").write_text(relion30())
    (out / "relion31.star").write_text(relion31(30001, "particles.mrcs"))
    (out / "relion5.star").write_text(relion31(50001, "Extract/job007/particles.mrcs"))
    cryosparc(out)
    cryodrgn(out / "cryodrgn")
    truth(out / "truth")
    (out / "open.pdb").write_text(pdb(trace(False)))
    (out / "closed.pdb").write_text(pdb(trace(True)))
    (out / "helix.cif").write_text(mmcif(trace(False)[:20]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "tests" / "fixtures", help="folder")
    write(parser.parse_args().out)
