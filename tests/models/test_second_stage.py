"""The second stage: three latents of a grid of codes, what its terms are, and draws from them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from bottlenecks import product_quantize
from configs import base, priors
from models.priors.pixelcnn_sampling import draw
from models.second_stage import draw_codes

GRID = (6, 5, 2)
KEYS = {name: jax.random.key(i) for i, name in enumerate(("params", "sample", "shared"))}


def settings(**changes):
    config = base.get_config()
    sizes = {"layers": 1, "features": 4, "kernel": 3, "output_features": 6, "embedding": 3}
    priors.set_second_stage(
        config, code_shape=GRID, codes=7, widths=(4,), **(sizes | {"map_features": 0} | changes)
    )
    config.model.backbone.update({"residual_layers": 1, "residual_width": 4})
    config.model.bottleneck.update({"codes": 8, "depth": 3, "start": "data"})
    return config.model.to_dict()


def grids(rows, seed=0):
    rng = np.random.default_rng(seed)
    return {"code": jnp.asarray(rng.integers(7, size=(rows, *GRID)), jnp.int32)}


@pytest.fixture(scope="module", params=[0, 2], ids=["vector", "map"])
def made(request):
    model = models.build(settings(map_features=request.param))
    batch = grids(9)
    variables = dict(jax.jit(lambda b: model.init(KEYS, b, train=True))(batch))
    # At their start the latents hardly move the PixelCNN.
    for layer in ("vertical_map", "horizontal_map"):
        kernel = variables["params"]["pixelcnn"]["layer_0"][layer]["kernel"]
        variables["params"]["pixelcnn"]["layer_0"][layer]["kernel"] = 20 * kernel
    return model, variables, batch


def test_terms_are_per_example_and_in_nats(made):
    model, variables, batch = made
    (losses, output), moved = jax.jit(
        lambda v, b: model.apply(
            v, b, train=True, method="losses", rngs=KEYS, mutable=["codebook", "batch_stats"]
        )
    )(variables, batch)
    assert {name: x.shape for name, x in losses.items()} == {
        "reconstruction": (9,),
        "commitment": (9,),
    }
    assert output.code.shape == (9, 3)
    assert output.code.dtype == jnp.int32
    assert output.latent.shape == (9, 3 * 3)
    # By parts: each code given those before it, and the latents.
    told = model.apply(variables, output.code, method="conditioned_on")
    assert told.shape == ((9, 6, 5, 2) if model.map_features else (9, 1, 1, 9))
    pixelcnn = {"params": variables["params"]["pixelcnn"]}
    logits = model.pixelcnn.apply(pixelcnn, batch["code"], None, told)
    log_p = jax.nn.log_softmax(logits)
    nats = -np.take_along_axis(log_p, batch["code"][..., None], -1).sum((1, 2, 3, 4))
    np.testing.assert_allclose(losses["reconstruction"], nats, rtol=1e-4)
    bits = output.metrics["bits_per_code"]
    np.testing.assert_allclose(bits, nats / 60 / np.log(2), rtol=1e-4)
    for j in range(3):
        share = np.bincount(output.code[:, j], minlength=8) / 9
        perplexity = np.exp(-sum(p * np.log(p) for p in share if p))
        np.testing.assert_allclose(output.metrics[f"perplexity_{j}"], perplexity, rtol=1e-5)
    each = [output.metrics[f"perplexity_{j}"] for j in range(3)]
    np.testing.assert_allclose(output.metrics["perplexity"], np.mean(each, axis=0), rtol=1e-5)
    before, after = (v["codebook"]["bottleneck"]["state"].codebook for v in (variables, moved))
    assert np.all(np.any(before != after, axis=(1, 2)))


def test_each_latent_has_a_codebook_of_its_own(made):
    model, variables, batch = made
    output = model.apply(variables, batch, train=False)
    features = model.apply(variables, batch["code"], method="encode")
    assert features.ndim == 2
    project = variables["params"]["bottleneck"]["project"]
    codebooks = variables["codebook"]["bottleneck"]["state"].codebook
    assert codebooks.shape == (3, 8, 3)
    found = product_quantize(features @ project["kernel"] + project["bias"], codebooks)
    np.testing.assert_array_equal(output.code, found.index)
    np.testing.assert_allclose(output.latent, found.latent, atol=1e-5)
    np.testing.assert_allclose(
        output.losses["commitment"], found.commitment_loss.mean(axis=-1), rtol=1e-4
    )


def test_features_are_normalised_over_the_batch_and_then_by_what_was_seen(made):
    model, variables, batch = made
    table = variables["params"]["code_embedding"]
    embedded = sum(table[j][batch["code"][..., j]] for j in range(2))
    own = {"params": variables["params"]["encoder"]}
    raw = np.float64(model.encoder.apply(own, embedded, train=True)).reshape(9, -1)

    def normalised(mean, variance):
        return (raw - mean) / np.sqrt(variance + 1e-5)

    found, moved = model.apply(
        variables, batch["code"], train=True, method="encode", mutable=["batch_stats"]
    )
    np.testing.assert_allclose(found, normalised(raw.mean(0), raw.var(0)), atol=1e-4)
    found = model.apply({**variables, **moved}, batch["code"], method="encode")
    seen = 0.02 * raw.mean(0), 0.98 + 0.02 * raw.var(0)  # they start from 0 and 1
    np.testing.assert_allclose(found, normalised(*seen), atol=1e-4)


def test_gradients_reach_the_encoder_through_the_codes(made):
    model, variables, batch = made

    def total(params):
        (losses, _), _ = model.apply(
            {**variables, "params": params},
            batch,
            train=True,
            method="losses",
            rngs=KEYS,
            mutable=["codebook", "batch_stats"],
        )
        return losses["reconstruction"].sum()

    for path, leaf in jax.tree.leaves_with_path(jax.jit(jax.grad(total))(variables["params"])):
        assert np.all(np.isfinite(leaf)), path
        assert np.any(leaf != 0), path


def test_draws_are_those_without_a_cache(made):
    model, variables, _ = made
    latent_code = jnp.array([[0, 1, 2], [0, 1, 2], [5, 6, 7]])
    key = jax.random.key(3)
    found = draw_codes(model, variables, key, latent_code, temperature=0.8)
    told = model.apply(variables, latent_code, method="conditioned_on")
    pixelcnn = {"params": variables["params"]["pixelcnn"]}

    @jax.jit
    def next_code(code, at):
        logits = model.pixelcnn.apply(pixelcnn, code, None, told).reshape(3, -1, 7)[:, at]
        one = draw(jax.random.fold_in(jax.random.fold_in(key, at // 2), at % 2), logits, 0.8)
        return code.reshape(3, -1).at[:, at].set(one).reshape(code.shape)

    expected = jnp.zeros((3, *GRID), jnp.int32)
    for at in range(60):
        expected = next_code(expected, at)
    np.testing.assert_array_equal(found, expected)
    assert np.any(found[0] != found[1])  # the same latents, other random numbers


def test_log_prob_is_of_any_latents(made):
    model, variables, batch = made
    losses, output = model.apply(variables, batch, train=False, method="losses")
    own = model.apply(variables, batch["code"], output.code, method="log_prob")
    np.testing.assert_allclose(-own, losses["reconstruction"], rtol=1e-5)
    other = model.apply(variables, batch["code"], (output.code + 1) % 8, method="log_prob")
    assert np.all(np.abs(other - own) > 1e-3)


def test_a_code_outside_its_range_makes_nan(made):
    model, variables, batch = made
    code = batch["code"].at[0, 0, 0, 0].set(7)
    losses, _ = model.apply(variables, {"code": code}, train=False, method="losses")
    assert list(np.isnan(losses["reconstruction"])) == [True, *[False] * 8]


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("second_stage", {"name": "mlp"}, r"second_stage.name is 'mlp'; .* has 'pixelcnn'"),
        ("second_stage", {"classes": 3}, r"model.second_stage has no option 'classes'"),
        ("second_stage", {"embedding": 0}, r"embedding is 0; it must be .* at least 1"),
        ("second_stage", {"map_features": 1.5}, r"map_features is 1.5; it must be .* at least 0"),
        ("backbone", {"name": "mlp"}, r"model.backbone.name is 'mlp'; .* has 'convnet'"),
        ("bottleneck", {"name": "fsq"}, r"model.bottleneck.name is 'fsq'; .* has 'vq'"),
    ],
)
def test_settings_that_cannot_be(section, changes, message):
    wrong = settings()
    wrong[section] |= changes
    with pytest.raises(ValueError, match=message):
        models.build(wrong)


def test_grids_that_do_not_fit():
    for changes, message in (
        ({"code_shape": (6, 2)}, r"\(6, 2\); a second stage has \(height, width, codebooks\)"),
        ({"remat": True}, "model.remat is True, but a PixelCNN keeps its activations"),
    ):
        with pytest.raises(ValueError, match=message):
            models.build(settings() | changes)
    model = models.build(settings())
    with pytest.raises(ValueError, match=r"\(2, 5, 6, 2\); expected \[batch, 6, 5, 2\]"):
        jax.eval_shape(lambda: model.init(KEYS, {"code": jnp.zeros((2, 5, 6, 2), int)}, train=True))
