"""The ideal observer against the theory of telling two signals in white noise apart."""

import json

import numpy as np
import pytest
import torch

from cryoformer_nb.bench.limits import ideal_latents, ideal_r2
from cryoformer_nb.command.cli import main
from cryoformer_nb.imaging.ctf import apply_ctf, ctf
from cryoformer_nb.imaging.density import gaussian_projection
from cryoformer_nb.imaging.molecules import Molecule
from cryoformer_nb.imaging.simulator import simulate
from cryoformer_nb.imaging.truth import read_labels, read_poses
from cryoformer_nb.particles.particles import load_particles


def expected_r2(distance: np.ndarray) -> float:
    """R2 of the posterior mean of two equally likely states.

    The log odds of an image are normal, with mean half the squared distance of the two clean
    images and that square as their variance.
    """
    noise = np.random.default_rng(0).standard_normal((2000, 1))
    odds = distance**2 / 2 + distance * noise
    wrong = 1 / (1 + np.exp(odds))
    return 1 - float((wrong**2).mean()) / 0.25


def test_two_states_are_told_apart_as_theory_says(tmp_path):
    body = np.random.default_rng(1).normal(size=(40, 3)) * 8
    states = np.stack([np.concatenate([body, [[x, 0, 12.0]]]) for x in (15.0, 25.0)])
    weight = np.ones(41)
    weight[-1] = 6
    star = simulate(
        tmp_path / "set", Molecule(states, weight, 96.0), n=600, box=32, snr=0.03, shift_px=2.0
    )
    truth, p = star.parent / "truth", load_particles(star, invert=False)
    with np.load(truth / "atoms.npz") as z:
        xyz, weight, sigma = torch.tensor(z["xyz"]), torch.tensor(z["weight"]), float(z["sigma"])
    R, t = (torch.tensor(v) for v in read_poses(truth))
    clean = []
    for state in xyz:
        centres = state @ R.mT
        centres[..., :2] -= t[:, None] * p.pixel_size
        images = gaussian_projection(centres, weight, sigma, p.box, p.pixel_size)
        clean.append(apply_ctf(images, ctf(p.ctf_params, p.box, p.pixel_size)))
    distance = (clean[0] - clean[1]).square().sum((1, 2)).sqrt().numpy()
    found, theory = ideal_r2(p, truth), expected_r2(distance)
    print(f"R2 {found:.3f}, by theory {theory:.3f}")
    assert 0.2 < theory < 0.9
    assert found == pytest.approx(theory, abs=0.07)
    guess = ideal_latents(p, truth)[:, 0]
    for low, high in ((0.1, 0.4), (0.6, 0.9)):  # the posterior is calibrated
        inside = (guess > low) & (guess < high)
        assert read_labels(truth)[inside].mean() == pytest.approx(guess[inside].mean(), abs=0.15)


@pytest.mark.slow
def test_curve_from_the_command_line(tmp_path, monkeypatch):
    import cryoformer_nb.bench.limits as limits

    quick = limits.CurveSize((300,), (0.1,), 48, 24, 1000)
    monkeypatch.setitem(limits.CURVE_SIZES, "small", quick)
    assert main(["benchmark", "curve", "-n", "200", "--out", str(tmp_path)]) == 0
    (row,) = json.loads((tmp_path / "curve.json").read_text(encoding="utf-8"))["rows"]
    assert (row["n"], row["epochs"], row["snr"]) == (200, 5, 0.1)
    assert row["latent_r2"] < row["ideal_r2"] < 1


def test_curve_is_refused_before_anything_is_made(capsys):
    for words, found in ((["--full"], "7W6M.cif"), (["--from", __file__], "--to")):
        assert main(["benchmark", "curve", *words]) == 2
        assert found in capsys.readouterr().err


def test_stored_maps_of_some_states_give_the_limit_that_all_of_them_do(tmp_path, capsys):
    star = simulate(tmp_path / "set", "arm", n=300, box=24, snr=0.1, seed=0)
    truth, p = star.parent / "truth", load_particles(star, invert=False)
    whole = ideal_r2(p, truth)
    (truth / "atoms.npz").unlink()  # as in sets of other programs; eight of the maps are stored
    some = ideal_r2(p, truth)
    print(f"all maps {whole:.3f}, some {some:.3f}")
    assert some == pytest.approx(whole, abs=0.05)
    assert main(["benchmark", "limit", "--particles", str(star)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"limit, true poses    {some:.3f}" in lines
