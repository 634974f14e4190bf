"""The support of a map back-projected from a flexible molecule, judged by all true states."""

import numpy as np
import torch

from cryoformer_nb.core.files import read_map
from cryoformer_nb.core.fourier import frequencies, ifftc3, rfft2c, shift_image
from cryoformer_nb.imaging.ctf import ctf
from cryoformer_nb.particles.masks import support_from_map
from cryoformer_nb.particles.particles import load_particles


def fourier_backprojection(particles, rows):
    "Nearest-neighbour insertion of CTF-weighted transforms, independent of the projectors."
    box = particles.box
    f = (frequencies(box) * box).reshape(-1, 2)
    f = f[f.norm(dim=1) < box // 2]
    keep = (frequencies(box) * box).norm(dim=-1) < box // 2
    image, h = (
        shift_image(particles.images(rows), particles.shifts_px[rows]),
        ctf(particles.ctf_params[rows], box, particles.pixel_size),
    )
    place = (
        torch.einsum(
            "bji,kj->bki", particles.rotations[rows], torch.cat([f, torch.zeros(len(f), 1)], 1)
        )
        .round()
        .long()
        % box
    )
    index = ((place[..., 2] * box + place[..., 1]) * box + place[..., 0]).flatten()

    def add(values):
        total = torch.zeros(box**3, dtype=values.dtype)
        return total.index_add(0, index, values.flatten()).reshape(box, box, box)

    def friedel(v):
        return v.flip(0, 1, 2).roll((1, 1, 1), (0, 1, 2))

    numerator, weight = add((rfft2c(image) * h)[:, keep]), add((h**2)[:, keep])
    numerator, weight = numerator + friedel(numerator).conj(), weight + friedel(weight)
    return ifftc3(numerator / (weight + 0.1 * weight[weight > 0].mean()))


def test_support_keeps_every_state_of_adk(shared):
    particles = load_particles(shared("adk/particles.star"))
    volume = fourier_backprojection(particles, np.arange(0, 4000, 4))
    support = support_from_map(volume, particles.pixel_size)
    states = torch.stack(
        [
            torch.from_numpy(read_map(path)[0])
            for path in sorted(shared("adk/truth").glob("vol_*.mrc"))
        ]
    )
    reach = states.amax(0) > 0.05 * states.max()
    kept = ((states * support).sum((1, 2, 3)) / states.sum((1, 2, 3))).min()
    assert kept > 0.998
    assert (reach & support).sum() / reach.sum() > 0.995
    assert support.float().mean() < 0.15, "small enough to be fast: 15 % of the box"
    tight = support_from_map(volume, particles.pixel_size, grow_px=2)
    assert (tight & ~support).sum() == 0
    assert tight.sum() < 0.9 * support.sum()
