"""Every combination of switches that Config accepts trains a step and the main ones learn.

Every one that it refuses is a clear error."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from cryoformer_nb.command.cli import main
from cryoformer_nb.core.conventions import InputError
from cryoformer_nb.core.fourier import frequencies
from cryoformer_nb.core.rotations import rotvec_to_matrix
from cryoformer_nb.imaging.simulator import simulate
from cryoformer_nb.model.config import PRESETS, Config
from cryoformer_nb.particles.consensus import consensus
from cryoformer_nb.particles.particles import load_particles
from cryoformer_nb.training.losses import image_loss
from cryoformer_nb.training.run import Run
from cryoformer_nb.training.steps import Trainer
from cryoformer_nb.training.train import train

TINY = Config(
    levels=2,
    log2_table=8,
    base_resolution=4,
    hidden=8,
    blocks=1,
    queries=2,
    encoder_width=16,
    encoder_layers=2,
    batch=4,
)
SWITCHES = dict(
    domain=("real", "fourier"),
    projector=("splat", "slice", "ray"),
    deformation_blocks=(True, False),
    spatial_attention=(True, False),
    queries=(2, 5),
    readout=("dot", "ffn"),
    interpolation=("trilinear", "nearest"),
    encoder=("canonical", "image"),
    poses=("given", "refine", "search", "table", "residual", "encoder"),
)


def combinations(**switches):
    "What Config accepts of the product of these values, and how many it refused."
    accepted, refused = [], 0
    for values in product(*switches.values()):
        try:
            accepted.append(replace(TINY, **dict(zip(switches, values))))
        except InputError:
            refused += 1
    return accepted, refused


def set_of(folder, box, n):
    particles = load_particles(
        simulate(folder, n=n, box=box, pixel_size=112 / box, snr=0.5, seed=3)
    )
    return particles, consensus(particles)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return set_of(tmp_path_factory.mktemp("sets") / "tiny", 16, 60)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return set_of(tmp_path_factory.mktemp("sets") / "small", 24, 400)


def short(config) -> str:
    "What is not TINY's."
    changed = {k: getattr(config, k) for k in SWITCHES if getattr(config, k) != getattr(TINY, k)}
    return " ".join(f"{k}={v}" for k, v in changed.items()) or "defaults"


def step(data, config):
    "One step; the loss and the gradient of every parameter of the model."
    trainer = Trainer(data[0], config, data[1])
    loss = trainer.advance(0.5)
    learnt = [(name, p) for name, p in trainer.model.named_parameters() if p.requires_grad]
    return loss.item(), {name: p.grad for name, p in learnt}


def still(name: str, config) -> bool:
    """Parameters that cannot move.

    What a key is shifted by does not change a softmax, and a softmax over one token is 1."""
    if name.endswith("key.bias"):
        return True
    return config.tokens == 1 and "norms.1" in name


def check_step(data, config):
    loss, gradients = step(data, config)
    assert np.isfinite(loss), short(config)
    for name, gradient in gradients.items():
        where = f"{short(config)}: {name}"
        assert gradient is not None, f"{where} has no gradient"
        assert torch.isfinite(gradient).all(), f"{where} has a gradient that is not finite"
        if not still(name, config):
            assert gradient.abs().max() > 0, f"{where} has a gradient of zero"


@pytest.mark.parametrize("encoder", SWITCHES["encoder"])
@pytest.mark.parametrize(
    "domain, projector",
    [
        ("real", "splat"),
        ("real", "slice"),
        pytest.param("real", "ray", marks=pytest.mark.slow),
        ("fourier", "slice"),
    ],
)
def test_every_combination_trains_a_step(tiny, domain, projector, encoder):
    accepted, refused = combinations(
        **SWITCHES
        | dict(domain=(domain,), projector=(projector,), encoder=(encoder,), poses=("given",))
    )
    assert refused == 0
    assert len(accepted) == 32
    for config in accepted:
        check_step(tiny, config)


@pytest.mark.parametrize("poses", SWITCHES["poses"][1:])
def test_every_way_to_treat_poses_trains_a_step(tiny, poses):
    accepted, _ = combinations(
        domain=("real", "fourier"),
        projector=("splat", "slice", "ray"),
        encoder=("canonical", "image"),
        deformation_blocks=(True, False),
        poses=(poses,),
    )
    assert len(accepted) == (4 if poses in ("refine", "search") else 16)
    for config in accepted:
        check_step(tiny, config)


def test_what_is_refused_of_the_product():
    "In Fourier space an image is a slice; Newton steps on poses are made of splats. Nothing else."
    accepted, refused = combinations(**SWITCHES)
    allowed = [
        (d, p, r)
        for d, p, r in product(SWITCHES["domain"], SWITCHES["projector"], SWITCHES["poses"])
        if (d == "real" or p == "slice") and (r not in ("refine", "search") or p == "splat")
    ]
    assert len(accepted) == 64 * len(allowed)
    assert refused == 64 * (36 - len(allowed))


@pytest.mark.parametrize(
    "change",
    [
        dict(queries=1),
        dict(queries=1, readout="ffn", projector="slice"),
        dict(queries=9),
        dict(base="empty"),
        dict(base="off"),
        dict(positive=False),
        dict(base="off", positive=False, projector="ray"),
        dict(blocks=3),
        dict(heads=1),
        dict(heads=8),
        dict(channels=4),
        dict(tokens=1),
        dict(latent_dim=1),
        dict(levels=1),
        dict(features=1),
        dict(features=8),
        dict(log2_table=4),
        dict(finest_resolution=4),
        dict(finest_resolution=40),
        dict(encoder_layers=1),
        dict(encoder="image", encoder_layers=1),
        dict(hidden=4),
    ],
    ids=lambda c: " ".join(f"{k}={v}" for k, v in c.items()),
)
def test_sizes_train_a_step(tiny, change):
    check_step(tiny, replace(TINY, **change))


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        dict(),
        dict(readout="ffn", interpolation="nearest"),
        dict(projector="slice", domain="fourier"),
    ],
    ids=lambda c: " ".join(map(str, c.values())) or "defaults",
)
def test_4096_queries_train_a_step(small, change):
    check_step(small, replace(TINY, queries=16, batch=2, **change))


PAPER = dict(
    queries=16,
    encoder="image",
    encoder_width=128,
    encoder_layers=10,
    readout="ffn",
    interpolation="nearest",
    projector="ray",
    heads=1,
    base="off",
    positive=False,
    width=-1,
    latent_noise=0,
)


@pytest.mark.slow
def test_the_paper_preset_trains_a_step(small):
    paper = Config.preset("paper")
    for name, value in PAPER.items():
        assert getattr(paper, name) == value, name
    check_step(small, replace(paper, batch=2))


MAIN = [
    dict(),
    dict(projector="slice"),
    dict(projector="ray"),
    dict(domain="fourier", projector="slice"),
    dict(deformation_blocks=False),
    dict(spatial_attention=False),
    dict(readout="ffn"),
    dict(interpolation="nearest"),
    dict(encoder="image"),
    dict(domain="fourier", projector="slice", deformation_blocks=False),
    dict(queries=8),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", MAIN, ids=lambda c: " ".join(f"{k}={v}" for k, v in c.items()) or "defaults"
)
def test_the_main_ones_learn(small, change):
    torch.manual_seed(0)
    trainer = Trainer(small[0], replace(TINY, batch=16, encoder_width=32, **change), small[1])
    y, R, t, h = trainer.batch(np.arange(200))

    @torch.no_grad()
    def loss():
        z = trainer.model.encode(y, R, t, h)
        predicted = trainer.model.predict(z, R, t, h)
        return image_loss(predicted, y, trainer.weights).mean().item()

    before = loss()
    for _ in range(30):
        trainer.advance(0.3)
    assert loss() < before - 1e-3


@pytest.mark.parametrize("projector", ["slice", pytest.param("ray", marks=pytest.mark.slow)])
def test_projectors_agree_on_the_gradient(small, projector):
    """The same image by another projector, and the same gradient of the loss in pose and base.

    Up to half of Nyquist, where interpolation is good."""
    results, low = [], frequencies(24).norm(dim=-1) < 0.25
    for method in ("splat", projector):
        trainer = Trainer(small[0], replace(TINY, projector=method), small[1])
        y, R, t, h = trainer.batch(np.arange(24))
        turn, t = torch.zeros(24, 3, requires_grad=True), t.clone().requires_grad_()
        z = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
        predicted = trainer.model.predict(z, rotvec_to_matrix(turn) @ R, t, h)
        image_loss(predicted, y, trainer.weights * low).mean().backward()
        results.append((predicted.detach().abs(), turn.grad, t.grad, trainer.model.base.grad))
    for name, a, b in zip(("image", "rotation", "shift", "base"), *results):
        agreement = torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0)
        assert agreement > 0.95, f"{name}: {agreement:.3f}"


@pytest.mark.parametrize(
    "change",
    [
        dict(domain="fourier", projector="slice"),
        pytest.param(dict(deformation_blocks=False), marks=pytest.mark.slow),
        pytest.param(dict(readout="ffn", spatial_attention=False), marks=pytest.mark.slow),
    ],
)
def test_a_run_of_each_kind_is_written_resumed_and_read(small, tmp_path, change):
    "A run folder answers for its volumes; in every domain they are maps in units of the images."
    config = replace(TINY, batch=16, **change)
    run = train(small[0], tmp_path / "run", epochs=2, config=config, progress=False)
    again = Run.load(tmp_path / "run")
    assert again.config == replace(config, poses="given")  # right ones are kept
    assert np.array_equal(again.volume(run.latents[0]), run.volume(run.latents[0]))
    expected = (small[1].volume * small[1].support).numpy()
    assert np.corrcoef(run.mean.ravel(), expected.ravel())[0, 1] > 0.8
    resumed = train(small[0], tmp_path / "run", epochs=3, resume=True, progress=False)
    assert len(resumed.history) >= len(run.history)


REFUSED = {
    "domain=fourier": "projector=slice with domain=fourier",
    "domain=fourier projector=ray": "found projector=ray",
    "heads=3": "multiple of heads",
    "queries=0": "queries from 1 to 16, found 0",
    "queries=17": "queries from 1 to 16",
    "base=zero": "consensus, empty, off",
    "domain=fourier projector=slice base=off": "base=consensus with domain=fourier",
    "queries=16 heads=4": "multiple of 4 channels a head",
    "finest_resolution=8": "at least base_resolution=16",
    "log2_table=3": "log2_table from 4 to 24",
    "log2_table=25": "log2_table from 4 to 24",
    "levels=0": "levels from 1",
    "features=9": "features from 1 to 8",
    "blocks=0": "blocks from 1",
    "deformation_blocks=maybe": "on or off",
    "deformation_blocks=2": "on or off",
    "readout=linear": "dot, ffn",
    "interpolation=cubic": "trilinear, nearest",
    "projector=sum": "splat, slice, ray",
    "encoder=cnn": "canonical, image",
    "domain=real2": "real, fourier",
    "queries=2.5": "expected int",
    "encoder_layers=-1": "encoder_layers from 0",
    "poses=refine projector=slice": "projector=splat with poses=refine",
}


@pytest.mark.parametrize("settings", REFUSED)
def test_what_is_not_accepted_is_a_clear_error(settings):
    with pytest.raises(InputError, match=REFUSED[settings]) as error:
        Config().updated(settings.split())
    assert "\n" not in str(error.value)
    assert "found" in str(error.value)


def test_a_hash_grid_that_does_not_fit_the_box(tiny):
    with pytest.raises(InputError, match="2 <= base <= finest.*found 16, 64, 16"):
        Trainer(tiny[0], Config(base_resolution=64), tiny[1])


def test_a_refused_switch_on_the_command_line(small, tmp_path, capfd):
    star = str(small[0].path)
    assert main(["train", star, "--out", str(tmp_path / "a"), "--set", "domain=fourier"]) == 2
    assert capfd.readouterr().err.count("\n") == 1
    assert not (tmp_path / "a").exists()


def test_a_preset_that_does_not_exist_on_the_command_line(small, tmp_path, capfd):
    star = str(small[0].path)
    assert main(["train", star, "--out", str(tmp_path / "a"), "--config", "papers"]) == 2
    assert "papers" in capfd.readouterr().err


SMALL = ("levels", "log2_table", "base_resolution", "hidden", "blocks")
WIDTHS = ("encoder_width", "encoder_layers")


def test_switches_on_the_command_line(small, tmp_path):
    "Settings of --set change the preset of --config, and the run is written with both."
    tiny = [f"{name}={getattr(TINY, name)}" for name in (*SMALL, *WIDTHS)]
    given = ["queries=3", "projector=splat", "spatial_attention=off", *tiny]
    options = ["--out", str(tmp_path / "b"), "--epochs", "0.2", "-q", "--config", "paper"]
    assert main(["train", str(small[0].path), *options, "--set", *given]) == 0
    config = Run.load(tmp_path / "b").config
    assert config.queries == 3
    assert config.spatial_attention is False
    assert config.projector == "splat"
    assert config.readout == "ffn", "the preset's"
    assert config.latent_dim == PRESETS["paper"]["latent_dim"]


@pytest.mark.slow
def test_the_ablation_of_the_command_line(monkeypatch, tmp_path, capfd):
    "The command passes its options on; the table itself is made in bench/02_ablation."
    import cryoformer_nb.bench.ablation as module

    real = module.ablation
    variants = {"full model": {}, "Fourier domain": module.VARIANTS["Fourier domain"]}

    def tiny(study, size, out, seeds, config, show):
        config = replace(TINY, seed=config.seed)
        return real(study, size, out, seeds, config, show, variants, n=120, box=24, epochs=1)

    monkeypatch.setattr(module, "ablation", tiny)
    options = ["--small", "--seeds", "2", "--seed", "5", "--out", str(tmp_path)]
    assert main(["benchmark", "ablation", *options]) == 0
    out, err = capfd.readouterr()
    assert "| Fourier domain |" in out
    assert "±" in out
    assert "Fourier domain" in err
    rows = json.loads((tmp_path / "ablation.json").read_text())["rows"]
    for row in rows:
        assert [run["seed"] for run in row["runs"]] == [5, 6]
    assert len(rows) == 2
    assert "| full model |" in (tmp_path / "ablation.md").read_text()


def test_the_nuisances_of_the_command_line(monkeypatch, tmp_path, capfd):
    "The command passes its options on; the table itself is made in bench/04_nuisances."
    import cryoformer_nb.bench.nuisances as module

    real, asked = module.nuisance_table, {}

    def tiny(size, out, seeds, config, show, **changed):
        asked.update(seeds=seeds, **changed)
        config, some = replace(TINY, seed=config.seed), {"clean": module.CONDITIONS["clean"]}
        return real(size, out, seeds, config, show, some, n=60, box=24, epochs=1)

    monkeypatch.setattr(module, "nuisance_table", tiny)
    options = ["--seeds", "2", "--seed", "5", "-n", "99", "--out", str(tmp_path)]
    assert main(["benchmark", "nuisances", *options]) == 0
    assert "| clean |" in capfd.readouterr().out
    assert asked == dict(seeds=2, n=99)
    (row,) = json.loads((tmp_path / "nuisances.json").read_text())["rows"]
    assert [run["seed"] for run in row["runs"]] == [5, 6]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_full_ablation_asks_for_a_gpu(capfd):
    assert main(["benchmark", "ablation", "--full"]) == 2
    assert "expected a GPU" in capfd.readouterr().err
