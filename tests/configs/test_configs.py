"""Every experiment: its config is whole, takes a step, and is what its paper or its name says."""

import functools
import importlib
import inspect
import math
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bottlenecks import gaussian
from configs import base
from models.likelihoods import Gaussian
from train import latents, parallel, runs, steps
from train.checks import check
from train.data import Batches, load_source, make_transform
from train.data.sources import InMemory
from train.evaluate import check_evaluators

ROOT = Path(__file__).parents[2]
SIDES = ("16", "32", "4", "1")
MODES = ("agreement", "published")
VARIANTS = {
    "cvgan_cocostuff256": MODES,
    "cvgan_ffhq256": MODES,
    "cvgan_imagenet256": MODES,
    "cvgan_photos": MODES,
    "cvvae_cifar10": MODES,
    "cvvae_digits": MODES,
    "scvae_ffhq256": SIDES,
    "scvae_imagenet256": SIDES,
    "partition_vae_mnist": ("described", "legacy"),
    "partition_vae_pong": (
        *("partitioned", "dense", "permuted", "additive", "f2", "f4", "broadcast", "two"),
    ),
    "scvae_digits": ("fista", "published", "paper_v2"),
    "topographic_vae_digits": ("L13_36", "vae", "bubble"),
    "topographic_vae_dsprites": ("L1_3", "L1_6", "L1_2", "L0", "bubble", "vae"),
    "topographic_vae_mnist": (
        *("L13_36", "L5_36", "L1_2", "L0", "bubble", "vae"),
        *("generalization", "rotcolor", "perspective"),
    ),
    "video_breakout": ("actions", "no_actions"),
    "video_dmlab": ("actions", "no_actions"),
    "video_pong": ("actions", "no_actions"),
    "vqvae_cifar10": ("kmeans", "released"),
    "vqvae_cifar10_paper": ("averages", "eq3"),
}
FILES = {path.stem for path in (ROOT / "configs").glob("*.py")} - {"__init__", "base", "priors"}
COMPARISONS = sorted(name for name in FILES if name.startswith("compare_"))
NAMES = sorted(FILES - set(COMPARISONS))
# Too large to take a step here: these are traced and lowered at their full size and batch.
LARGE = (
    "cvgan_cocostuff256",
    "cvgan_ffhq256",
    "cvgan_imagenet256",
    "scvae_ffhq256",
    "scvae_imagenet256",
    "topographic_vae_dsprites",
    "topographic_vae_mnist",
    "topographic_vae_predictive",
    "partition_vae_pong",
    "partition_vae_sports10",
    "pixelcnn_cifar10_paper",
    "pixelcnn_imagenet128",
    "second_stage_dmlab",
    "vae_cifar10",
    "video_dmlab",
    "vqgan_ffhq256",
    "vqgan_imagenet256",
    "vqvae_cifar10_paper",
    "vqvae_dmlab",
    "vqvae_imagenet128",
    "vqvae_librispeech",
    "vqvae_vctk",
)
# The first variant is the default.
ALL = [(name, *extra) for name in NAMES for extra in ((), *zip(VARIANTS.get(name, ())[1:]))]
STEPPED = [experiment for experiment in ALL if experiment[0] not in LARGE]
TRACED = [experiment for experiment in ALL if experiment[0] in LARGE]


def module(name):
    return importlib.import_module(f"configs.{name}")


def build(name, *variant):
    return module(name).get_config(*variant)


@functools.cache
def abstract(*experiment):
    """Shapes of its training state, traced once; its evaluators fit them."""
    config = build(*experiment)
    state = runs.abstract_state(config)
    check_evaluators(config, state)
    return state


def training_step(config):
    """The step of a run with this config, on one device."""
    model = runs.build_model(config, axis_name=parallel.AXIS)
    optimizer = steps.make_optimizer(config.optimizer, config.train.steps)
    step = runs.make_train_step(config, model, optimizer)
    return jax.pmap(
        step,
        axis_name=parallel.AXIS,
        in_axes=(None, 0),
        out_axes=None,
        devices=jax.local_devices()[:1],
    )


def random_waveforms(rows, samples):
    return np.random.default_rng(0).standard_normal((rows, samples), np.float32)


def small_batch(config, rows=4):
    """Real examples where the data come with the installation, else noise of their shape."""
    if config.model.speech:
        return {
            "audio": (random_waveforms(rows, config.data.samples) * 3000).astype(np.int16),
            "speaker": np.arange(rows, dtype=np.int32),
        }
    if config.data.source.startswith("codes:"):
        random, prior = np.random.default_rng(0), config.model.prior or config.model.second_stage
        below = {"label": rows, "action": prior.get("actions") or 1}
        arrays = {
            name: random.integers(0, below.get(name, prior.codes), x.shape, np.int32)
            for name, x in runs.example_batch(config, rows=rows).items()
        }
        source = InMemory(arrays)
    elif config.data.source.startswith(("tfds:", "folder:", "game:", "moving:mnist")):
        shape = (rows, *config.data.image_shape)
        noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        source = InMemory({"image": noise})
    else:
        source = load_source(config.data, "train")
    transform = make_transform(config.data, "train")
    return Batches(source, batch_size=rows, seed=0, transform=transform)[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_config_says_what_it_is_and_how_to_run_it(name):
    assert build(name).name == name
    text = module(name).__doc__
    assert f"python -m train --config configs/{name}.py --workdir " in text
    assert f"/{name}\n" in text
    takes = inspect.signature(module(name).get_config).parameters
    assert bool(takes) == (name in VARIANTS)
    for variant in VARIANTS.get(name, ())[1:]:
        assert f"configs/{name}.py:{variant}" in text


@pytest.mark.parametrize("experiment", ALL, ids=":".join)
def test_a_config_passes_the_checks_of_a_run(experiment, monkeypatch):
    monkeypatch.chdir(ROOT)
    check(build(*experiment))


@pytest.mark.parametrize("experiment", TRACED, ids=":".join)
def test_the_evaluators_of_a_variant_fit_its_model(experiment):
    assert abstract(*experiment).params


def test_variants():
    config = build("vqvae_cifar10")
    assert config.to_dict() == build("vqvae_cifar10", "kmeans").to_dict()
    released = build("vqvae_cifar10", "released").model.bottleneck
    assert (released.start, released.debias, released.revive_below) == ("uniform", True, 0)
    with pytest.raises(ValueError, match="no variant 'sgd'; known: kmeans, released"):
        build("vqvae_cifar10", "sgd")
    for name in (
        "cvgan_imagenet256",
        "cvgan_photos",
        "cvvae_cifar10",
        "cvvae_digits",
        "scvae_digits",
    ):
        for mode in VARIANTS[name]:
            assert build(name, mode).model.bottleneck.mode == mode
        with pytest.raises(
            ValueError, match=f"{name} has no variant 'v3'; known: {VARIANTS[name][0]}"
        ):
            build(name, "v3")


def test_variants_of_partition_vae():
    legacy = build("partition_vae_mnist", "legacy")
    assert (legacy.model.bottleneck.mode, legacy.model.likelihood.variance) == ("legacy", 1)
    with pytest.raises(ValueError, match="no variant 'v1'; known: described, legacy"):
        build("partition_vae_mnist", "v1")
    for f in (2, 4):
        assert build("partition_vae_pong", f"f{f}").model.backbone.subresolution == f
    with pytest.raises(ValueError, match="no variant 'f3'; known: partitioned, dense, permuted"):
        build("partition_vae_pong", "f3")


def test_ablation_of_partitions_has_equal_parameters():
    def outside_of_the_heads(variant):
        params = dict(abstract("partition_vae_pong", variant).params)
        params["bottleneck"] = params["bottleneck"]["mix"]
        return sum(leaf.size for leaf in jax.tree.leaves(params))

    # Of the heads, tests/models/test_partition_vae.py counts what is trained.
    partitioned = outside_of_the_heads("partitioned")
    assert outside_of_the_heads("dense") == outside_of_the_heads("permuted") == partitioned
    assert outside_of_the_heads("additive") == pytest.approx(partitioned, rel=0.02)


@pytest.mark.parametrize(("f", "weight"), [(1, 0.50176), (2, 0.050176), (4, 0.0050176)])
def test_the_loss_of_partition_vae_is_an_elbo(f, weight):
    # As released: 100 MSE + w * sum of (-1 - logvar + mu^2 + e^logvar), w = 10^(-log2 f - 3).
    rng = np.random.default_rng(0)
    B, values, units = 64, 784, 6
    error = 0.3 * rng.normal(size=(B, values))
    mean, log_variance = rng.normal(size=(2, B, units))
    terms = -1 - log_variance + mean**2 + np.exp(log_variance)
    paper = 100 * np.mean(error**2) + 10 ** (-np.log2(f) - 3) * terms.sum()
    per_example = 0.5 * (error**2).sum(1) + weight * 0.5 * terms.sum(1)
    assert 3.92 * paper == pytest.approx(per_example.mean(), rel=1e-6)

    # The same from the two forms of the config: nats of a Gaussian of variance 1, weighted ...
    size = {"image_shape": (28, 28, 1), "batch_size": B, "subresolution": f}
    weights, variance = base.partition_weights(**size), base.partition_variance(**size)
    images = np.float32(rng.uniform(size=(B, 28, 28, 1)))
    output = images - np.float32(error.reshape(images.shape)) - 0.5
    kl = float(np.mean(jnp.sum(gaussian.kl_standard_normal(mean, log_variance), axis=-1)))

    def nats(variance):
        found = Gaussian(variance=variance).nats(output, images)
        constant = 0.5 * values * math.log(2 * math.pi * variance)
        return float(jnp.sum(found)) / B - constant

    loss = weights.reconstruction * nats(1.0) + weights.kl * kl
    assert loss == pytest.approx(paper, rel=1e-4)
    # ... and the ELBO of one of that variance.
    assert variance == pytest.approx(weight, rel=1e-6)
    assert weight * (nats(variance) + kl) == pytest.approx(3.92 * paper, rel=1e-4)


def latent_depth(config):
    """Numbers that the decoder reads at a position."""
    model = runs.build_model(config)
    keys = {"params": jax.random.key(0), "sample": jax.random.key(0)}
    batch = dict(runs.example_batch(config))
    variables = jax.eval_shape(lambda b: model.init(keys, b, train=False), batch)
    output = jax.eval_shape(lambda v, b: model.apply(v, b, train=False), variables, batch)
    return output.latent.shape[-1]


@pytest.mark.parametrize("name", COMPARISONS)
def test_a_comparison_is_on_equal_terms(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    comparison = build(name)
    assert comparison.name == name
    assert f"train.compare --config configs/{name}.py --workdir " in module(name).__doc__
    assert len(comparison.seeds) >= 3
    assert len(comparison.runs) >= 2
    # Decoders read as much of every bottleneck; of finite scalars, what their levels are for.
    read = {latent_depth(c) for c in comparison.runs.values() if c.model.bottleneck.name != "fsq"}
    assert len(read) == 1
    rest = []
    for config in comparison.runs.values():
        check(config)
        check_evaluators(config, runs.abstract_state(config))
        config.name, config.loss_weights, config.evaluation.evaluators = "", None, ()
        config.model.bottleneck, config.model.likelihood = None, None
        if "encoders" in config.model.backbone:
            config.model.backbone.encoders = None  # a VAE has one, a Topographic VAE two
        rest.append(config.to_dict())
    assert all(one == rest[0] for one in rest)


@pytest.mark.parametrize("experiment", STEPPED, ids=":".join)
def test_a_config_takes_a_step(experiment):
    config = build(*experiment)
    config.optimizer.warmup_steps = 0  # of which the first step would move nothing
    batch = small_batch(config)
    coded = config.model.prior or config.model.second_stage
    kind = "code" if coded else "audio" if config.model.speech else "image"
    assert batch[kind].shape == runs.example_batch(config, rows=4)[kind].shape
    config.model.data_variance = config.model.data_variance or 0.1
    optimizer = steps.make_optimizer(config.optimizer, config.train.steps)
    names = list(abstract(*experiment).window.sums)
    create = runs.make_state(config, runs.build_model(config), optimizer, names)
    start = jax.jit(create)(jax.random.key(0), batch)
    stacked = jax.tree.map(lambda x: x[None, None], batch)  # one device, one step
    state, window = training_step(config)(start, stacked)
    assert int(state.step) == 1
    seen = {name: float(value) for name, value in window.last.items()}
    assert all(math.isfinite(value) for value in seen.values()), seen
    # In NumPy: jax would compile a program for every shape.
    before, after = jax.device_get((start.params, state.params))
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), before, after)
    assert all(jax.tree.leaves(moved)), moved
    # What no optimiser sees, as the heads of the released PartitionVAE.
    frozen = [tree.collections.get("frozen", {}) for tree in (start, state)]
    chex.assert_trees_all_equal(*frozen)
    weights = config.loss_weights
    assert seen["loss"] == pytest.approx(sum(weights[n] * seen[n] for n in weights), rel=1e-5)
    if config.model.prior:
        assert seen["loss"] == seen["nats"]
        return
    if config.model.speech or config.model.second_stage:
        return
    if config.model.bottleneck.name == "vq":
        # As in the authors' notebook: error over variance, and a quarter of the mean over depth.
        constant = math.log(2 * math.pi * config.model.data_variance)
        quarter = 0.25 * seen["commitment"] / config.model.bottleneck.depth
        assert seen["loss"] - constant == pytest.approx(seen["nmse"] + quarter, rel=1e-4)
        codebook = state.collections["codebook"]["bottleneck"]["state"]
        assert codebook.codebook.shape[1:] == tuple(
            config.model.bottleneck[n] for n in ("codes", "depth")
        )
        assert int(codebook.step[0]) == 1
    if config.model.bottleneck.name == "sparse":
        values, depth = math.prod(config.model.image_shape), config.model.bottleneck.depth
        if config.model.bottleneck.mode == "published":
            # As released, on images in [-1, 1]: 4x4 positions, and no L1 term.
            mean_latent = 2 * seen["latent"] / (16 * depth)
            loss = 4 * seen["mse"] + mean_latent / (16 * depth) + math.log(2 * math.pi * 0.25)
        else:
            nats = seen["reconstruction"] + seen["latent"] + seen["l1"]
            loss = 2 * nats / values
        assert seen["loss"] == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize(
    ("experiment", "rows", "code", "bits_per_token"),
    [
        (("vqvae_imagenet128",), 128, (32, 32, 1), 9),
        (("vqvae_dmlab",), 128, (21, 21, 1), 9),
        (("vqvae_cifar10_paper",), 128, (8, 8, 10), 9),
        (("vqvae_cifar10_paper", "eq3"), 128, (8, 8, 10), 9),
        (("vae_cifar10",), 128, (8, 8, 16), None),
        (("vqgan_imagenet256",), 12, (16, 16, 1), 10),
        (("cvgan_imagenet256",), 8, (16, 16, 32, 16), None),
        pytest.param(("vqgan_ffhq256",), 4, (16, 16, 1), 10, marks=pytest.mark.slow),
        pytest.param(("cvgan_cocostuff256",), 8, (16, 16, 32, 16), None, marks=pytest.mark.slow),
        pytest.param(("cvgan_ffhq256",), 8, (16, 16, 32, 16), None, marks=pytest.mark.slow),
        (("scvae_imagenet256", "16"), 8, (16, 16, 512), None),
        (("scvae_imagenet256", "32"), 8, (32, 32, 512), None),
        (("scvae_imagenet256", "4"), 8, (4, 4, 512), None),
        (("scvae_ffhq256", "1"), 8, (1, 1, 512), None),
        (("topographic_vae_dsprites", "L1_3"), 8, (15, 15, 15), None),
        (("topographic_vae_mnist", "L13_36"), 8, (18, 18, 18), None),
        (("topographic_vae_predictive",), 8, (18, 18, 18), None),
        (("partition_vae_pong",), 64, (10,), None),
        (("partition_vae_sports10",), 64, (20,), None),
    ],
)
def test_a_large_config_lowers_at_full_size(experiment, rows, code, bits_per_token):
    config, name = build(*experiment), experiment[0]
    state = abstract(*experiment)
    shape = runs.example_batch(config)["image"].shape[1:]
    assert config.train.batch_size == rows
    batch = {"image": jax.ShapeDtypeStruct((1, 1, rows, *shape), np.uint8)}
    text = training_step(config).lower(state, batch).as_text()
    assert f"tensor<{rows}x{'x'.join(map(str, shape))}xf32>" in text

    variables = {"params": state.params, **state.collections}
    images = {"image": jax.ShapeDtypeStruct((rows, *shape), np.uint8)}
    model = runs.build_model(config)
    output = jax.eval_shape(
        lambda v, b: model.apply(v, b, train=False, rngs={"sample": jax.random.key(0)}),
        variables,
        images,
    )
    assert output.code.shape == (rows, *code)
    assert output.reconstruction.shape == (rows, *shape)
    if bits_per_token:
        assert 2**bits_per_token == config.model.bottleneck.codes
        assert jnp.issubdtype(output.code.dtype, jnp.integer)
    if name == "vqvae_imagenet128":
        # Section 4.2: "a reduction of 128x128x3x8 / 32x32x9 = 42.6 in bits".
        reduction = math.prod(shape) * 8 / (math.prod(code) * bits_per_token)
        assert reduction == pytest.approx(42.6, abs=0.1)


@pytest.mark.parametrize(
    ("experiment", "encoder"),
    [
        (("pixelcnn_cifar10_paper",), "vqvae_cifar10_paper"),
        (("pixelcnn_imagenet128",), "vqvae_imagenet128"),
        (("video_dmlab",), "vqvae_dmlab"),
        (("video_dmlab", "no_actions"), "vqvae_dmlab"),
    ],
)
def test_a_large_prior_lowers_at_full_size(experiment, encoder):
    config, coded = build(*experiment), build(encoder).model.bottleneck
    assert config.data.source == f"codes:runs/{encoder}"
    assert config.model.prior.codes == coded.codes
    assert config.model.code_shape[-1] == coded.codebooks
    assert_logits_lower(experiment, config.model.prior.codes)


def assert_logits_lower(experiment, codes):
    config, state = build(*experiment), abstract(*experiment)
    rows = config.train.batch_size
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((1, 1, *x.shape), x.dtype),
        runs.example_batch(config, rows=rows),
    )
    text = training_step(config).lower(state, batch).as_text()
    shape = (rows, *config.model.code_shape, codes)
    assert f"tensor<{'x'.join(map(str, shape))}xf32>" in text


def test_a_large_second_stage_lowers_at_full_size():
    # Section 4.2: 21x21x1 codes of K=512, and three latents of K=512, each with its own codebook.
    config = build("second_stage_dmlab")
    assert config.data.source == "codes:runs/vqvae_dmlab"
    bottleneck = config.model.bottleneck
    assert bottleneck.codebooks * math.log2(bottleneck.codes) == 27
    assert config.model.code_shape == (21, 21, 1)
    assert config.model.second_stage.map_features == 0
    # Every position sees all of the past, and so where it is.
    assert config.model.second_stage.layers * (config.model.second_stage.kernel // 2) >= 20
    assert_logits_lower(("second_stage_dmlab",), codes=512)


@pytest.mark.parametrize("game", ["pong", "breakout"])
def test_a_second_stage_is_of_codes_of_its_games_frames(game):
    config, coded = build(f"second_stage_{game}"), build(f"vqvae_{game}84")
    assert config.data.source == f"codes:runs/{coded.name}"
    assert coded.data.source == f"game:{game}"
    assert config.model.image_shape == coded.model.image_shape == (84, 84, 3)
    assert config.model.second_stage.codes == coded.model.bottleneck.codes == 512
    image = jax.ShapeDtypeStruct((1, 84, 84, 3), jnp.uint8)
    state = runs.abstract_state(coded)
    variables = {"params": state.params, **state.collections}
    code = jax.eval_shape(latents.encoder(runs.build_model(coded)), variables, image)
    assert code.shape[1:] == config.model.code_shape


@pytest.mark.parametrize(("name", "codes"), [("vqvae_vctk", 120), ("vqvae_librispeech", 320)])
def test_speech_lowers_at_full_size(name, codes):
    # Section 4.3: 40,960 samples at 16 kHz are 320 codes; VCTK's are for 64 samples each.
    config = build(name)
    stride = 2 ** len(config.model.backbone.widths)
    assert config.data.samples == codes * stride
    assert (config.data.sample_rate, config.model.bottleneck.codes) == (16_000, 512)
    state, rows = abstract(name), config.train.batch_size
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((1, 1, *x.shape), x.dtype),
        runs.example_batch(config, rows=rows),
    )
    text = training_step(config).lower(state, batch).as_text()
    assert f"tensor<{rows}x{config.data.samples}x256xf32>" in text  # logits


# Encoder and decoder as released, VQGAN's 72,141,699 in all with its codebook and 1x1 convolutions.
# A CVGAN's decoder reads 512 numbers at a position, not 256, where capsules are routed.
@pytest.mark.parametrize(
    ("experiment", "bottleneck", "decoder", "batch", "start"),
    [
        (("vqgan_imagenet256",), 65_792 + 262_144, 42_449_795 + 65_792, 12, 250_001),
        (("vqgan_ffhq256",), 65_792 + 262_144, 42_449_795 + 65_792, 4, 30_001),
        (("cvgan_imagenet256",), 65_792 + 131_072, 42_449_795 + 9 * 256 * 512, 8, 250_001),
        (("cvgan_cocostuff256", "published"), 2 * 65_792, 42_449_795, 8, 250_001),
        (("cvgan_ffhq256", "published"), 2 * 65_792, 42_449_795, 8, 250_001),
    ],
)
def test_sizes_of_vqgan_and_cvgan(experiment, bottleneck, decoder, batch, start):
    config = build(*experiment)
    state = abstract(*experiment)
    expected = {"encoder": 29_298_176, "bottleneck": bottleneck, "decoder": decoder}
    for name, parameters in expected.items():
        assert sum(a.size for a in jax.tree.leaves(state.params[name])) == parameters, name
    assert sum(a.size for a in jax.tree.leaves(state.adversary.params)) == 2_765_633
    assert (config.train.batch_size, config.adversary.start) == (batch, start)
    assert config.optimizer.learning_rate == pytest.approx(4.5e-6 * batch)
    frozen = sum(a.size for a in jax.tree.leaves(state.collections.get("frozen", {})))
    assert frozen == (3_867_392 if "published" in experiment else 0)


def test_the_loss_of_vqgan_is_the_releases():
    config = build("vqgan_imagenet256")
    model = runs.build_model(config)
    rng = np.random.default_rng(0)
    image, output = rng.uniform(-1, 1, (2, 256, 256, 3)), rng.uniform(-1, 1, (2, 256, 256, 3))
    nats = model.likelihood.nats(np.float32(output / 2), np.float32((image + 1) / 2))
    loss = config.loss_weights.reconstruction * float(jnp.sum(nats)) / 2
    assert loss == pytest.approx(np.abs(image - output).mean(), rel=1e-5)
    # mean (sg z_q - z)^2 + 0.25 mean (z_q - sg z)^2, over 256 numbers; ours are summed.
    weights = config.loss_weights
    assert (256 * weights.commitment, 256 * weights.codebook) == (1, 0.25)


def test_building_a_config_prints_nothing_and_needs_no_data(capsys, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", "/not/there")
    for experiment in ALL:
        build(*experiment)
    assert capsys.readouterr() == ("", "")
