"""What real sets do, simulated: against measured spectra, a set that another program made, and the
clean simulator, whose images no nuisance may change as long as it is off."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import starfile
import torch

from cryoformer_nb import score
from cryoformer_nb.command.cli import main
from cryoformer_nb.core.conventions import InputError
from cryoformer_nb.core.files import read_map
from cryoformer_nb.core.fourier import fftc3, shell_index
from cryoformer_nb.imaging.ctf import ctf
from cryoformer_nb.imaging.density import band_limited_volume, gaussian_volume
from cryoformer_nb.imaging.molecules import load_molecule
from cryoformer_nb.imaging.noise import SPECTRA, detector_and_solvent, envelope, smooth_power
from cryoformer_nb.imaging.nuisances import LIMITS, REALISTIC, Nuisances
from cryoformer_nb.imaging.simulator import (
    SIGMA_PX,
    clean_images,
    gaussian_width,
    noisy_images,
    simulate,
)
from cryoformer_nb.imaging.simulator import _scaled as scaled
from cryoformer_nb.imaging.truth import (
    population_mean,
    read_junk,
    read_states,
    true_volumes,
    with_maps,
)

SMALL = dict(n=40, box=16, pixel_size=7.0, snr=1.0, seed=3)


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_off_is_what_it_always_was(tmp_path):
    import mrcfile

    star = simulate(tmp_path / "set", "arm", **SMALL)
    names = {"atoms.npz", "labels.npy", "rotations.npy", "shifts_px.npy"}
    stored = {p.name for p in (star.parent / "truth").iterdir()}
    assert {name for name in stored if not name.startswith("vol_")} == names
    scene = scaled("arm", 40, 16, 7.0, 1.0, 0.0, 3, Nuisances())
    width = gaussian_width(scene.molecule, 7.0)
    clean = torch.cat(list(clean_images(scene.molecule, scene.draw, 16, 7.0, width)))
    white = np.random.default_rng([3, 1]).standard_normal((40, 16, 16), dtype=np.float32)
    images = mrcfile.read(star.parent / "particles.mrcs")
    assert np.array_equal(images, (clean + torch.from_numpy(white)).numpy()), "bit for bit"


def test_same_seed_same_files(tmp_path):
    for name in "ab":
        simulate(tmp_path / name, "arm", nuisances=REALISTIC, **SMALL)
    a, b = files(tmp_path / "a"), files(tmp_path / "b")
    assert a.keys() == b.keys()
    assert all(a[k] == b[k] for k in a if k.suffix != ".star"), "a star file tells the time"
    simulate(tmp_path / "c", "arm", nuisances=REALISTIC, **SMALL | dict(seed=4))
    c = files(tmp_path / "c")
    assert all(a[k] != c[k] for k in a if k.name in ("particles.mrcs", "contrast.npy", "junk.npy"))


ALONE = [
    dict(solvent=0.3),
    dict(detector="empiar10076"),
    dict(b_factor=100.0),
    dict(atom_widths=True),
    dict(contrast=0.3),
    dict(offset=1.0, gradient=1.0),
    dict(junk=0.25),
    dict(pose_error=0.1),
    dict(shift_error=1.0),
    dict(defocus_error=500.0),
    dict(preferred=2.0),
    dict(damaged=0.5),
]


#: What each setting changes in the truth and in the star file.
CHANGES = {
    "contrast": {"contrast"},
    "offset": {"background"},
    "detector": {"detector_power"},
    "junk": {"junk"},
    "damaged": {"b_factor"},
    "b_factor": {"b_factor"},
    "preferred": {"rotations", "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"},
    "pose_error": {"rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"},
    "shift_error": {"rlnOriginXAngst", "rlnOriginYAngst"},
    "defocus_error": {"rlnDefocusU", "rlnDefocusV"},
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    "No nuisance at work, but a truth that says so."
    out = tmp_path_factory.mktemp("plain") / "set"
    return simulate(out, "arm", nuisances=Nuisances(damage_b=151), **SMALL)


@pytest.mark.parametrize("setting", ALONE, ids=lambda s: next(iter(s)))
def test_each_switch_does_its_own_and_nothing_else(tmp_path, plain, setting):
    "Alone it changes images or star file, and leaves the draws of the others as they are."
    name = next(iter(setting))
    other = simulate(tmp_path / "other", "arm", nuisances=Nuisances(**setting), **SMALL)
    old, new = (
        {p.stem: np.load(p) for p in (star.parent / "truth").glob("*.npy")}
        | dict(starfile.read(star)["particles"])
        for star in (plain, other)
    )
    assert old.keys() == new.keys()
    assert {k for k in old if not np.array_equal(old[k], new[k])} == CHANGES.get(name, set())
    before, after = (star.with_suffix(".mrcs").read_bytes() for star in (plain, other))
    assert (before == after) == (name in ("pose_error", "shift_error", "defocus_error"))


@pytest.mark.parametrize("share,count", [(0.0, 0), (0.05, 2), (0.5, 20), (0.9, 36)])
def test_share_of_junk_is_exact(tmp_path, share, count):
    star = simulate(tmp_path / "set", "arm", nuisances=Nuisances(junk=share, offset=1), **SMALL)
    truth = star.parent / "truth"
    assert read_junk(truth).sum() == count
    assert json.loads((truth / "nuisances.json").read_text())["good"] == 40 - count
    assert len(with_maps(truth)) == 40 - count


@pytest.mark.parametrize("name", LIMITS)
def test_numbers_outside_their_limits(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    flag = f"--{name.replace('_', '-')}"
    for value in ("-1e9", "1e9", "nan"):
        assert main(["simulate", "set", "-n", "4", "--box", "16", f"{flag}={value}"]) == 2
        said = capsys.readouterr().err
        assert name in said and said.count("\n") == 1
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    "words",
    [
        "--junk-kinds dust",
        "--detector none.npz",
        "--detector set.npz",
        "--detector set.npz:b",
        "--realistic --pose-noise 0.1",
    ],
)
def test_what_is_refused(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    np.savez("set.npz", b_freq=[0, 0.1], b_power=[1, np.nan])
    assert main(["simulate", "out", "-n", "40", "--box", "16", *words.split()]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_spectrum_inside_the_set_it_would_replace(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made = ["simulate", "set", "-n", "4", "--box", "16", "--pixel-size", "7"]
    assert main(made) == 0
    np.savez("set/mine.npz", freq=[0, 0.1], power=[1, 1])
    assert main([*made, "--overwrite", "--detector", "set/mine.npz"]) == 2
    assert (tmp_path / "set" / "mine.npz").exists()


def test_formula_follows_the_measured_spectra(shared):
    z = np.load(shared("real/noise_spectra_measured.npz"))
    for name, most in (("empiar10076", 0.12), ("empiar10017", 0.07)):
        f, power = z[f"{name}_freq"][1:], z[f"{name}_power"][1:]
        left = np.log(power) - np.log(smooth_power(f, *SPECTRA[name]))
        assert left.std() < most, name
    f, power = z["empiar10017_freq"][1:], z["empiar10017_power"][1:]
    wrong = np.log(power) - np.log(smooth_power(f, *SPECTRA["empiar10076"]))
    assert wrong.std() > 0.2, "the two differ by more than the fits do"


def spike_real(shared):
    "Its images, CTF and junk, noise scaled to variance 1."
    import mrcfile

    images = torch.tensor(mrcfile.read(shared("spike_real/particles.mrcs")).astype(np.float32))
    p = starfile.read(shared("spike_real/particles.star"))["particles"]
    defocus = p[["rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"]].values
    params = np.c_[defocus, np.tile([300, 2.0, 0.1, 0], (len(p), 1))]
    junk = np.load(shared("spike_real/truth/junk.npy"))
    return images / images[junk].std(), torch.tensor(params, dtype=torch.float32), junk


def test_noise_is_that_of_a_set_made_by_another_program(shared):
    """30 % solvent behind a B factor of 100 A^2: detector and solvent, told apart by the CTF in the
    images without particles, have the power that another program gave them, shell by shell."""
    images, params, junk = spike_real(shared)
    nuisances = Nuisances(solvent=0.3, b_factor=100.0)
    scene = scaled("spike", int(junk.sum()), 64, 4.0, 0.05, 0.0, 0, nuisances)
    scene = scene._replace(draw=scene.draw._replace(ctf_params=params[junk]))
    ours = torch.cat(list(noisy_images(scene, [torch.zeros(int(junk.sum()), 64, 64)])))
    h = ctf(params[junk], 64, 4.0)
    (D, S), (d, s) = (detector_and_solvent(x, h) for x in (images[junk], ours))
    assert abs(D[8:] - d[8:]).max() < 0.1 and abs((D - d)[8:].mean()) < 0.01
    assert abs(S[8:] - s[8:]).max() < 0.2 and abs((S - s)[8:].mean()) < 0.03
    fall = envelope(torch.tensor(100.0), 64, 4.0)[0].square()
    level = float((S[8:] / fall[8:]).mean())
    assert (S[8:] / fall[8:] / level - 1).std() < 0.06, "theirs falls with the B factor as well"


def test_map_has_the_spectrum_of_another_program(shared):
    "6VXX with tabulated scattering, up to the Nyquist frequency, and as wide as pixels demand."
    theirs = torch.tensor(read_map(shared("spike_real/truth/vol_000.mrc"))[0])
    m = load_molecule(shared("structures/6vxx.pdb"), atom_widths=True)
    xyz, weight = (torch.tensor(a, dtype=torch.float32) for a in (m.xyz[0], m.weight))
    ours = band_limited_volume(xyz, weight, gaussian_width(m, 4.0), 64, 4.0)
    wide = gaussian_volume(xyz, weight, SIGMA_PX * 4.0, 64, 4.0)
    shell = shell_index(64, 3)
    powers = [
        torch.stack([fftc3(v).abs()[shell == k].square().mean() for k in range(1, 32)])
        for v in (theirs, ours, wide)
    ]
    theirs, ours, wide = (power / power[4] for power in powers)
    assert ((ours / theirs)[:20] - 1).abs().max() < 0.25
    assert (ours / theirs).max() < 2.5
    assert (wide / theirs)[18] < 0.3 and (wide / theirs)[30] < 0.03


def test_truth_with_maps_and_no_atoms(shared):
    truth = shared("spike_real/truth/labels.npy").parent
    few, junk, states = with_maps(truth), read_junk(truth), read_states(truth)
    assert junk.sum() == 188
    assert set(states[few]) == {0, 7, 14, 21, 28, 35, 42, 49} and not junk[few].any()
    volumes = true_volumes(truth, [49, 0], 32)
    assert torch.equal(
        true_volumes(truth, [49])[0], torch.tensor(read_map(truth / "vol_049.mrc")[0])
    )
    average = population_mean(truth, 32)
    assert np.corrcoef(average.ravel(), volumes[1].numpy().ravel())[0, 1] > 0.9
    with pytest.raises(InputError, match="state 1"):
        true_volumes(truth, [1])
    one = SimpleNamespace(latents=states[:, None], box=32, volumes=lambda z: [average] * len(z))
    found = score(one, truth, n=20)
    assert found["junk"] == 188 and found["good"] == 3812
    assert found["latent_r2"] > 0.99 and abs(found["mean_fsc"] - found["ceiling"]) < 1e-5
    assert found["ceiling"] > 0.98, "one domain of six in a hundred"


def test_motion_with_scattering_and_widths(tmp_path, fixtures):
    ends = ["--from", str(fixtures / "open.pdb"), "--to", str(fixtures / "closed.pdb")]
    made = ["-n", "30", "--box", "24", "--frames", "3", *ends]
    assert main(["simulate", str(tmp_path / "a"), "--atom-widths", *made]) == 0
    assert main(["simulate", str(tmp_path / "b"), "--realistic", "--no-atom-widths", *made]) == 0
    with np.load(tmp_path / "a/truth/atoms.npz") as a, np.load(tmp_path / "b/truth/atoms.npz") as b:
        assert a["sigma"].shape == a["weight"].shape and b["sigma"].shape == ()
        assert (a["sigma"] < b["sigma"]).all(), "atoms are narrower than pixels"
        assert np.array_equal(a["xyz"], b["xyz"])
    labels = np.load(tmp_path / "a/truth/labels.npy")
    stored, _ = read_map(tmp_path / "a/truth/vol_001.mrc")
    assert np.allclose(true_volumes(tmp_path / "a/truth", [1])[0], stored, atol=1e-6 * stored.max())
    assert (
        main(
            ["simulate", str(tmp_path / "c"), "-n", "3", "--preset"]
            + [str(tmp_path / "a/truth/atoms.npz")]
            + ["--box", "24"]
        )
        == 0
    ), "atoms.npz with widths makes a set again"
    assert labels.max() == 2


def test_settings_reach_the_truth(tmp_path):
    asked = replace(REALISTIC, junk_kinds=("pair",), preferred=-2.0)
    star = simulate(tmp_path / "set", "arm", nuisances=asked, **SMALL)
    told = json.loads((star.parent / "truth" / "nuisances.json").read_text())
    assert told["settings"]["junk_kinds"] == ["pair"] and told["settings"]["preferred"] == -2
    assert set(np.load(star.parent / "truth" / "junk.npy")) == {0, 3}
