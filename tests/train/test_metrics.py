"""The registry, the masked sums, and the loss terms in nats and bits."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.autoencoder import Autoencoder
from models.backbones.mlp import MLPDecoder, MLPEncoder
from models.gaussian_vae import GaussianBottleneck
from models.likelihoods import Bernoulli, Categorical, Gaussian
from models.vqvae import VectorQuantizer
from train.errors import UserError
from train.metrics import EVALUATORS, Evaluator, build_evaluators
from train.metrics.evaluator import masked_sums, mean_floats

SHAPE = (4, 4, 2)
DIMS = 32


def vae(likelihood, **options):
    return Autoencoder(
        encoder=MLPEncoder(widths=(8,)),
        bottleneck=GaussianBottleneck(depth=3, **options),
        decoder=MLPDecoder((4, 4, likelihood.output_channels(2)), widths=(8,)),
        likelihood=likelihood,
    )


def vqvae(likelihood):
    return Autoencoder(
        encoder=MLPEncoder(widths=(8,)),
        bottleneck=VectorQuantizer(codes=5, depth=3, codebooks=2, start="uniform"),
        decoder=MLPDecoder((4, 4, likelihood.output_channels(2)), widths=(8,)),
        likelihood=likelihood,
    )


def images(count, dtype=np.uint8):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (count, *SHAPE)).astype(np.uint8)
    return image if dtype == np.uint8 else (image / 255).astype(dtype)


def start(model, batch):
    keys = {"params": jax.random.key(1), "sample": jax.random.key(2)}
    return jax.jit(lambda: model.init(keys, batch, train=False))()


def evaluate(evaluator, model, variables, batches, key=None):
    """What the caller does: adds the sums over the batches in float64."""
    key = jax.random.key(3) if key is None else key
    step = jax.jit(lambda batch: evaluator.sums(model, variables, batch, key))
    totals = {}
    for batch in batches:
        for name, value in step(batch).items():
            totals[name] = totals.get(name, 0) + np.asarray(value, np.float64)
    return totals


def padded(image, size):
    """The images in batches of `size`; the last is padded with NaN (or 255) and masked."""
    for first in range(0, len(image), size):
        rows = image[first : first + size]
        fill = np.nan if np.issubdtype(image.dtype, np.floating) else 255
        pad = np.full((size - len(rows), *image.shape[1:]), fill, image.dtype)
        mask = np.r_[np.ones(len(rows)), np.zeros(len(pad))].astype(np.float32)
        yield {"image": np.concatenate([rows, pad]), "mask": mask}


def test_registry_makes_each_evaluator_from_the_options_it_takes():
    built = build_evaluators(["image", "importance"], data_variance=0.1, samples=3, chunk=2)
    assert list(built) == ["image", "importance"]
    assert all(isinstance(evaluator, Evaluator) for evaluator in built.values())
    assert list(build_evaluators(EVALUATORS)) == list(EVALUATORS)


def test_registry_names_what_it_knows():
    with pytest.raises(UserError, match="'fid'; known are: losses, image, codes"):
        build_evaluators(["losses", "fid"])
    with pytest.raises(UserError, match=r"option 'sampels'; known are: .*samples"):
        build_evaluators(["losses"], sampels=3)


def test_masked_sums_select_and_do_not_multiply():
    values = {"a": jnp.array([1.0, 2.0, jnp.nan]), "v": jnp.array([[1.0], [3.0], [jnp.inf]])}
    sums = masked_sums(values, jnp.array([1.0, 1.0, 0.0]))
    assert (sums["a"], sums["v"][0], sums["count"]) == (3.0, 4.0, 2.0)
    assert mean_floats({"a": sums["a"], "count": sums["count"]}) == {"a": 1.5}


def test_empty_split_is_the_users_mistake():
    with pytest.raises(UserError, match="no example"):
        mean_floats({"a": np.array(0.0), "count": np.array(0.0)})


def test_losses_of_a_vq_model_add_n_log_k():
    model, batch = vqvae(Categorical()), {"image": images(6)}
    variables = start(model, batch)
    evaluator = build_evaluators(["losses"])["losses"]
    summary = evaluator.summary(evaluate(evaluator, model, variables, [batch]))
    losses, output = jax.jit(lambda: model.apply(variables, batch, train=False, method="losses"))()
    nats = float(losses["reconstruction"].mean())
    assert output.code.shape == (6, 2)
    np.testing.assert_allclose(summary["nats"], nats, rtol=1e-6)
    np.testing.assert_allclose(summary["reconstruction"], nats, rtol=1e-6)
    np.testing.assert_allclose(summary["commitment"], losses["commitment"].mean(), rtol=1e-6)
    np.testing.assert_allclose(summary["mse"], output.metrics["mse"].mean(), rtol=1e-6)
    np.testing.assert_allclose(summary["bits_per_dim"], nats / (DIMS * np.log(2)), rtol=1e-6)
    bound = nats + 2 * np.log(5)
    np.testing.assert_allclose(summary["nll_uniform_prior"], bound, rtol=1e-6)
    np.testing.assert_allclose(
        summary["nll_uniform_prior_bits_per_dim"], bound / (DIMS * np.log(2)), rtol=1e-6
    )
    assert "elbo" not in summary
    assert not any("dequantised" in name for name in summary)


def test_losses_of_a_vae_give_the_elbo():
    model, batch = vae(Bernoulli()), {"image": images(6, np.float32)}
    variables = start(model, batch)
    evaluator = build_evaluators(["losses"])["losses"]
    summary = evaluator.summary(evaluate(evaluator, model, variables, [batch]))
    np.testing.assert_allclose(
        summary["elbo"], -(summary["reconstruction"] + summary["kl"]), rtol=1e-6
    )
    np.testing.assert_allclose(
        summary["elbo_bits_per_dim"], -summary["elbo"] / (DIMS * np.log(2)), rtol=1e-6
    )
    assert "nll_uniform_prior" not in summary


def test_a_density_has_bits_only_for_dequantised_8_bit_images():
    model = vqvae(Gaussian(variance=0.05))
    evaluator = build_evaluators(["losses"])["losses"]
    batch = {"image": images(6)}
    variables = start(model, batch)
    summary = evaluator.summary(evaluate(evaluator, model, variables, [batch]))
    assert "bits_per_dim" not in summary
    assert "nll_uniform_prior_bits_per_dim" not in summary
    # With a variance far above a level's, spreading a value over its level changes next to nothing.
    per_dim = summary["nats"] / (DIMS * np.log(2)) + 8
    np.testing.assert_allclose(summary["bits_per_dim_dequantised"], per_dim, atol=0.02)
    np.testing.assert_allclose(
        summary["nll_uniform_prior_bits_per_dim_dequantised"] - summary["bits_per_dim_dequantised"],
        2 * np.log(5) / (DIMS * np.log(2)),
        rtol=1e-4,
    )
    floats = {"image": images(6, np.float32)}
    summary = evaluator.summary(evaluate(evaluator, model, variables, [floats]))
    assert not any("bits" in name for name in summary)


def test_dequantised_bits_do_not_fall_below_those_of_the_data():
    """A density sharper than a level, at the one value there is: its nats have no floor."""

    class Sharp:
        discrete = False

        def nats(self, output, image):
            z = (image - 7.5 / 256) / 1e-4
            return 0.5 * z**2 + np.log(1e-4) + 0.5 * np.log(2 * np.pi)

    class Given:
        likelihood, bottleneck, key = Sharp(), None, "image"

        def apply(self, variables, batch, **_):
            nats = jnp.full(3, -100.0)
            output = types.SimpleNamespace(metrics={}, output=None, code=jnp.zeros((3, 1)))
            return {"reconstruction": nats}, output

    evaluator = build_evaluators(["losses"])["losses"]
    batch = {"image": jnp.full((3, *SHAPE), 7, jnp.uint8)}
    summary = evaluator.summary(evaluator.sums(Given(), {}, batch, jax.random.key(0)))
    assert summary["nats"] == -100
    assert summary["bits_per_dim_dequantised"] > 0


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_losses_do_not_depend_on_the_batch_split_or_on_padding(dtype):
    model, image = vqvae(Bernoulli()), images(10, dtype)
    variables = start(model, {"image": image})
    evaluator = build_evaluators(["losses"])["losses"]
    whole = evaluator.summary(evaluate(evaluator, model, variables, [{"image": image}]))
    parts = evaluator.summary(evaluate(evaluator, model, variables, padded(image, 4)))
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        np.testing.assert_allclose(parts[name], value, rtol=2e-6, err_msg=name)


def test_devices_share_no_noise():
    """The sums of two devices, each with the same key, are those of one with the whole batch."""
    image = images(8)
    batch = {"image": image, "mask": np.ones(8, np.float32)}
    alone = vae(Gaussian(variance=0.1))
    variables = start(alone, batch)
    evaluator = build_evaluators(["losses"])["losses"]
    totals = evaluate(evaluator, alone, variables, [batch])
    model = vae(Gaussian(variance=0.1), axis_name="batch")
    halves = {name: value.reshape(2, 4, *value.shape[1:]) for name, value in batch.items()}
    step = jax.vmap(
        lambda rows: jax.lax.psum(
            evaluator.sums(model, variables, rows, jax.random.key(3)), "batch"
        ),
        axis_name="batch",
        out_axes=None,
    )
    sums = jax.jit(step)(halves)
    for name, total in totals.items():
        np.testing.assert_allclose(sums[name], total, rtol=1e-5, err_msg=name)


def test_any_module_with_losses_can_be_averaged():
    class Prior:
        def apply(self, variables, batch, **_):
            output = types.SimpleNamespace(metrics={"hits": batch["code"].astype(jnp.float32)})
            return {"code_nats": 2.0 * batch["code"]}, output

    evaluator = build_evaluators(["losses"])["losses"]
    batch = {"code": jnp.arange(3)}
    summary = evaluator.summary(evaluator.sums(Prior(), {}, batch, jax.random.key(0)))
    assert summary == {"hits": 1.0, "code_nats": 2.0}
