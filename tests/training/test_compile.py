"""`compile=on`: a step is one graph whatever the network, the same, and needs a compiler."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from cryoformer_nb.core.conventions import InputError
from cryoformer_nb.imaging.simulator import simulate
from cryoformer_nb.model.config import Config
from cryoformer_nb.particles.consensus import consensus
from cryoformer_nb.particles.particles import load_particles
from cryoformer_nb.training.steps import Trainer

SMALL = Config(levels=4, log2_table=10, blocks=1, hidden=16, encoder_width=32, device="cpu")
COMPILED = replace(SMALL, compile=True)

#: Settings that lead through other networks, partitions and precisions.
WAYS = [
    {},
    dict(readout="ffn"),
    dict(deformation_blocks=False),
    dict(spatial_attention=False),
    dict(encoder="image", interpolation="nearest", positive=False),
    dict(latent_start="random", base="off"),
    dict(precision="bf16"),
]


@pytest.fixture(scope="module")
def particles(tmp_path_factory):
    return load_particles(simulate(tmp_path_factory.mktemp("set") / "arm", n=400, box=24, snr=0.3))


@pytest.fixture(scope="module")
def average(particles):
    return consensus(particles)


def traced(monkeypatch):
    "Let torch.compile only trace, which takes seconds; a break of the graph is an error."
    only = partial(torch.compile, fullgraph=True, backend="eager")
    monkeypatch.setattr(torch, "compile", only)
    torch.compiler.reset()


@pytest.mark.parametrize("way", WAYS)
def test_a_step_is_one_graph_and_the_same(particles, average, monkeypatch, way):
    traced(monkeypatch)
    losses, gradients = [], []
    for config in (SMALL, COMPILED):
        trainer = Trainer(particles, replace(config, **way), average)
        trainer.start_latent()
        trainer.model.volumes(torch.zeros(1, config.latent_dim))  # some matrices wait for that
        total, loss = trainer.objective(trainer.rows_of(0), 0.3)
        total.backward()
        losses.append(float(loss.detach()))
        learnt = trainer.model.field.parameters()
        gradients.append(torch.cat([p.grad.flatten() for p in learnt]))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-4 * float(gradients[0].abs().max()))


def test_a_support_that_changes_is_traced_again(particles, average, monkeypatch):
    traced(monkeypatch)
    trainer = Trainer(particles, COMPILED, average)
    first = float(trainer.advance(0.1))
    mask = trainer.model.support.mask.clone()
    mask[:, :, : len(mask) // 2] = False
    trainer.model.set_support(mask)
    trainer.optimizer = trainer.new_optimizer()
    assert float(trainer.advance(0.2)) != first


def test_without_a_compiler_it_is_refused_in_one_line(particles, average, monkeypatch):
    def missing(function, **options):
        raise RuntimeError("no g++\nand a long trace")

    monkeypatch.setattr(torch, "compile", missing)
    with pytest.raises(InputError, match="g\\+\\+.*RuntimeError: no g\\+\\+; take compile=off$"):
        Trainer(particles, COMPILED, average)
