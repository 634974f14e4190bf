"""Images that another program has corrected for their CTF, and images that hold nothing."""

import shutil
import warnings

import numpy as np
import pytest
import starfile
import torch

from cryoformer_nb import InputError, load_particles
from cryoformer_nb.core.files import read_map, write_stack
from cryoformer_nb.core.fourier import irfft2c, rfft2c
from cryoformer_nb.core.fsc import fsc
from cryoformer_nb.imaging.ctf import ctf
from cryoformer_nb.imaging.simulator import simulate
from cryoformer_nb.particles.consensus import consensus
from cryoformer_nb.particles.identity import check_same, identity


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    star = simulate(tmp_path_factory.mktemp("sets") / "arm", n=400, box=32, snr=0.3, seed=5)
    return load_particles(star)


def corrected(particles, folder, kind):
    "The set as a program leaves it that corrects images."
    folder.mkdir()
    h = ctf(particles.ctf_params, particles.box, particles.pixel_size)
    factor = h if kind == "premultiplied" else h.sign()
    images = irfft2c(rfft2c(particles.images(slice(None))) * factor)
    shutil.copy(particles.path, folder)
    write_stack(folder / "particles.mrcs", images.numpy(), particles.pixel_size)
    return folder / "particles.star"


KINDS = {
    "flipped": ("phase_flipped", "rlnCtfDataArePhaseFlipped", "rlnImagesPhaseFlipped"),
    "premultiplied": ("premultiplied", "rlnCtfDataAreCtfPremultiplied", "rlnCtfPremultiplied"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_corrected_images_give_the_same_map(clean, tmp_path, kind):
    star, (option, optics, column) = corrected(clean, tmp_path / "set", kind), KINDS[kind]
    blocks = starfile.read(star, always_dict=True)
    blocks["optics"][optics] = 1
    starfile.write(blocks, tmp_path / "set" / "optics.star")
    blocks["optics"] = blocks["optics"].drop(columns=optics)
    blocks["particles"][column] = 1
    starfile.write(blocks, tmp_path / "set" / "column.star")
    sets = [load_particles(star, **{option: True})]
    sets += [load_particles(tmp_path / "set" / f"{name}.star") for name in ("optics", "column")]
    expected = consensus(clean).volume.flatten()
    for found in sets:
        volume = consensus(found).volume.flatten()
        assert found.sign == 1
        assert torch.corrcoef(torch.stack([volume, expected]))[0, 1] > 0.98
    wrong = consensus(load_particles(star)).volume.flatten()
    assert torch.corrcoef(torch.stack([wrong, expected]))[0, 1] < 0.97, "it matters"


def test_both_at_once_are_refused(clean):
    with pytest.raises(InputError, match="--premultiplied"):
        load_particles(clean.path, phase_flipped=True, premultiplied=True)


def test_the_option_is_remembered(clean, tmp_path):
    star = corrected(clean, tmp_path / "set", "flipped")
    found = load_particles(star, phase_flipped=True)
    assert load_particles(**found.origin).source.applied.tolist() == [1] * 400
    check_same(load_particles(**found.origin), identity(found), "--resume")
    with pytest.raises(InputError, match="other CTF parameters"):
        check_same(load_particles(star), identity(found), "--resume")


def test_empty_images_are_left_out(clean, tmp_path):
    images = clean.images(slice(None))
    images[[3, 77]] = 0
    (tmp_path / "set").mkdir()
    shutil.copy(clean.path, tmp_path / "set")
    write_stack(tmp_path / "set" / "particles.mrcs", images.numpy(), clean.pixel_size)
    with pytest.warns(UserWarning, match="2 of 400 images that hold nothing, first in row 4"):
        found = load_particles(tmp_path / "set" / "particles.star")
    assert len(found) == 398 and torch.equal(found.images([3]), images[[4]])
    with pytest.raises(InputError, match="first in row 4"):
        load_particles(tmp_path / "set" / "particles.star", strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = load_particles(**found.origin)
    assert len(again) == 398, "a run finds them again, without a word"


def test_real_subtilts_agree_with_their_reference(shared):
    "1480 images of Warp, premultiplied, 50 of them invisible; its reference and our average."
    folder = shared("real/subtilt70S")
    files = dict(poses=folder / "poses.pkl", ctf=folder / "ctf.pkl", premultiplied=True)
    with pytest.warns(UserWarning, match="50 of 1480"):
        particles = load_particles(folder / "images_1480x32.mrcs", **files)
    assert particles.sign == 1 and len(particles) == 1430
    reference = torch.tensor(read_map(folder / "recon_reference_32.mrc")[0])
    grid = torch.arange(32) - 16
    radius = (grid[:, None, None] ** 2 + grid[:, None] ** 2 + grid**2).sqrt()
    mask = ((12 - radius) / 2).clamp(0, 1)
    curve = fsc(consensus(particles).volume * mask, reference * mask, 12.0).value
    assert (curve[1:5] > 0.9).all() and np.mean(curve[1:11]) > 0.78


def test_stacks_of_tilts_are_particles(shared, tmp_path):
    "The star file of RELION 4 says the same as cryoDRGN's pickles of the set, but for its hand."
    folder = shared("real/subtilt70S")
    star = next(folder.glob("*_box-32_angpix-12.star"))
    found = load_particles(star)
    files = dict(poses=folder / "poses.pkl", ctf=folder / "ctf.pkl", premultiplied=True)
    with pytest.warns(UserWarning, match="50 of 1480"):
        given = load_particles(folder / "images_1480x32.mrcs", **files)
    mirror = torch.diag(torch.tensor([1.0, 1, -1]))  # the pickles' volume is its mirror image
    assert torch.allclose(mirror @ found.rotations @ mirror, given.rotations, atol=1e-5)
    assert torch.allclose(found.ctf_params, given.ctf_params)
    assert torch.equal(found.images([0, 700]), given.images([0, 700]))
    assert "50 invisible" in repr(found) and (found.source.applied == 2).all()
    assert sum(map(len, found.half_rows())) == 1430
    shutil.copy(star, tmp_path / "lone.star")
    with pytest.raises(InputError, match="lone_tomograms.star"):
        load_particles(tmp_path / "lone.star")
