"""Aberrations of optics tables, against another program and through a whole particle set."""

import numpy as np
import pytest
import starfile
import torch

from cryoformer_nb import InputError, load_particles
from cryoformer_nb.core.files import write_stack
from cryoformer_nb.core.fourier import irfft2c, rfft2c
from cryoformer_nb.imaging.aberrations import even_phase, odd_phase, zernike
from cryoformer_nb.imaging.ctf import ctf
from cryoformer_nb.imaging.simulator import simulate

#: Radius (1/A) and angle (rad) of three frequencies.
RADIUS, ANGLE = torch.tensor([0.05, 0.1, 0.2]), torch.tensor([0.3, 1.0, -2.0])

#: What torch-ctf 0.6.0 says there (`apply_odd_zernikes`, `apply_even_zernikes`; 300 kV, Cs 2.7 mm).
TILT = [0.003982622642070055, 0.004717223346233368, 0.012151971459388733]  # 0.6, -0.3 mrad
TREFOIL = [0.0038534896448254585, -0.1046440526843071, 0.6787232160568237]  # 100, -40
TETRAFOIL = [-1.9608589354902506e-05, -0.010527679696679115, 0.12011676281690598]  # 300, -120


def test_polynomials_are_those_of_torch_ctf():
    k = torch.stack([RADIUS * ANGLE.cos(), RADIUS * ANGLE.sin()], -1)
    found = 100 * zernike(3, 3, k) - 40 * zernike(3, -3, k)
    assert found.tolist() == pytest.approx(TREFOIL, rel=1e-4)
    found = 300 * zernike(4, 4, k) - 120 * zernike(4, -4, k)
    assert found.tolist() == pytest.approx(TETRAFOIL, rel=1e-3, abs=1e-8)


def test_a_tilted_beam_is_that_of_torch_ctf():
    "With RELION's sign, which is the other one (`insertTilt` in its tilt_helper.cpp)."
    for k, angle, value in zip(RADIUS, ANGLE, TILT):
        pixel_size = 1 / (8 * k.item())  # this radius is one step of a box of 8
        turned = torch.tensor([angle.cos() * 0.6 - angle.sin() * 0.3, 0.0]).tolist()
        phase = odd_phase([], turned, 300.0, 2.7, 8, pixel_size)  # along x, the tilt turned
        assert phase[0, 1].item() == pytest.approx(-value, rel=1e-4)


def test_images_with_aberrations_are_seen_without(tmp_path):
    "Made with a coma of 40 mrad, a trefoil and a tetrafoil that matter at 8 A."
    star = simulate(tmp_path / "set", n=60, box=32, snr=1e4, seed=2)
    clean = load_particles(star, invert=False)
    odd, even = [0, 0, 0, 0, 0, 900.0], [0] * 8 + [6000.0]
    size, rows = (clean.box, clean.pixel_size), np.arange(60)
    turned = odd_phase(odd, (40.0, -20.0), 300.0, 2.7, *size)
    added = even_phase(even, *size)
    assert turned.abs().max() > 1 and added.abs().max() > 1, "they matter"
    h = ctf(clean.ctf_params, *size)
    bent = ctf(clean.ctf_params, *size, added)
    y = rfft2c(clean.images(rows)) * torch.polar(torch.ones_like(turned), turned)
    safe = torch.where(h.abs() > 0.1, h, 1.0)
    y = torch.where(h.abs() > 0.1, y / safe * bent, 0)
    write_stack(tmp_path / "set" / "bent.mrcs", irfft2c(y).numpy(), clean.pixel_size)
    blocks = starfile.read(star, always_dict=True)
    words = {"rlnOddZernike": odd, "rlnEvenZernike": even}
    for name, values in words.items():
        blocks["optics"][name] = "[" + ",".join(f"{v:g}" for v in values) + "]"
    blocks["optics"]["rlnBeamTiltX"], blocks["optics"]["rlnBeamTiltY"] = 40.0, -20.0
    names = blocks["particles"]["rlnImageName"].str.replace("particles", "bent")
    blocks["particles"]["rlnImageName"] = names
    starfile.write(blocks, tmp_path / "set" / "bent.star")
    particles = load_particles(tmp_path / "set" / "bent.star", invert=False)
    noise = torch.ones(32, 17)
    images = particles.images(rows)
    found, seen = particles.whitened(rows, noise, images=images)
    assert torch.allclose(seen, bent, atol=1e-5)
    inside = torch.zeros_like(h, dtype=torch.bool)
    inside[:, 1:16, 1:16] = True  # without Nyquist's line, which a real image has no phase in
    inside &= h.abs() > 0.1
    expected = rfft2c(clean.images(rows)) / safe * bent
    assert torch.allclose(found[inside], expected[inside], atol=1e-3 * expected.abs().max())
    half = particles.subset([3, 5])
    assert torch.allclose(half.whitened([1], noise)[1], seen[[5]])


def test_what_is_not_applied_is_named(tmp_path):
    star = simulate(tmp_path / "set", n=8, box=32, snr=1, seed=2)
    blocks = starfile.read(star, always_dict=True)
    for k, value in dict(zip(("00", "01", "10", "11"), (1.012, 0, 0, 0.99))).items():
        blocks["optics"][f"rlnMagMat{k}"] = value
    starfile.write(blocks, star, overwrite=True)
    assert "anisotropic magnification" in repr(load_particles(star))
    blocks["optics"]["rlnOddZernike"] = "[1,none]"
    starfile.write(blocks, star, overwrite=True)
    with pytest.raises(InputError, match="numbers in rlnOddZernike"):
        load_particles(star)
