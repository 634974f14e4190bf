"""Beyond `MANY_POINTS` voxels the field and the readout go in groups, and give the same."""

import pytest
import torch

import cryoformer_nb.model.model as model
import cryoformer_nb.model.transformer as transformer
from cryoformer_nb.imaging.projector import lattice_coordinates
from cryoformer_nb.model.config import Config
from cryoformer_nb.model.fourier_model import build_model

SMALL = Config(levels=4, log2_table=10, blocks=1, hidden=16, encoder_width=32, queries=3)


def products(many: int, monkeypatch) -> tuple:
    "Products of queries with keys on a lattice, their gradients, and the groups."
    monkeypatch.setattr(transformer, "MANY_POINTS", many)
    points, g = lattice_coordinates(16), torch.Generator().manual_seed(1)
    q = torch.randn(3, 27, 8, generator=g).requires_grad_()
    key = torch.randn(len(points), 8, generator=g).requires_grad_()
    regions = transformer.Regions(points, torch.stack([points.amin(0), points.amax(0)]), 3)
    out = regions.dot(q, key)
    return (out, *torch.autograd.grad(out.square().sum(), (q, key))), regions


@pytest.mark.parametrize("many", [100, 1000, 3000])
def test_products_in_groups_are_the_same(many, monkeypatch):
    known, whole = products(2**20, monkeypatch)
    found, regions = products(many, monkeypatch)
    assert len(whole.groups) == 1 < len(regions.groups)
    assert sum(regions.sizes) == 16**3
    for a, b in zip(known, found):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-3)


def test_a_field_in_parts_is_the_same(monkeypatch):
    torch.manual_seed(0)
    start = torch.rand(16, 16, 16)
    net = build_model(SMALL, start > 0.3, start, torch.ones(16, 9), 0.8)
    z, found = torch.randn(2, SMALL.latent_dim), []
    for many in (2**20, 500):
        monkeypatch.setattr(model, "MANY_POINTS", many)
        net.zero_grad()
        density = net.density(z)
        density.square().sum().backward()
        found.append((density.detach(), net.grid.table.grad.clone()))
    for a, b in zip(*found):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(a.abs().max()))
