"""The Topographic VAE's network: sizes of the release, its start, its layers by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.backbones import build_backbone

MNIST, SPRITES = ((28, 28, 3), 324), ((64, 64, 1), 225)


def sizes(shape, units, encoders=2):
    """Parameters of encoder and decoder, and the shapes that they give; computes nothing."""
    pair = build_backbone("capsule_mlp", output_shape=shape, units=units, encoders=encoders)
    found = []
    for module, x in zip(pair, ((5, *shape), (5, units)), strict=True):
        y, variables = jax.eval_shape(
            lambda x, module=module: module.init_with_output(jax.random.key(0), x, train=True),
            jax.ShapeDtypeStruct(x, jnp.float32),
        )
        count = sum(leaf.size for leaf in jax.tree.leaves(variables))
        found.append((count, y.shape, y.dtype))
    return found


@pytest.mark.parametrize(
    ("case", "one_encoder", "decoder"),
    [(MNIST, 3_338_172, 3_127_575), (SPRITES, 3_272_625, 3_170_926)],
    ids=["mnist", "dsprites"],
)
def test_the_release_has_as_many_parameters(case, one_encoder, decoder):
    shape, units = case
    two, last = sizes(shape, units)
    assert two == (2 * one_encoder, (5, 2, 2, units), jnp.float32)
    assert last == (decoder, (5, *shape), jnp.float32)
    assert sizes(shape, units, encoders=1)[0] == (one_encoder, (5, 1, 2, units), jnp.float32)


@pytest.fixture(scope="module")
def small():
    """Encoder, decoder, and their parameters, of 4x3 images in two colours; 5 units."""
    encoder, decoder = build_backbone("capsule_mlp", output_shape=(4, 3, 2), units=5)
    start = jax.jit(lambda key, m, x: m.init(key, x, train=True), static_argnums=1)
    return (
        (encoder, start(jax.random.key(0), encoder, jnp.zeros((1, 4, 3, 2)))),
        (decoder, start(jax.random.key(1), decoder, jnp.zeros((1, 5)))),
    )


def test_every_layer_starts_uniform_within_pytorchs_bound(small):
    # nn.Conv2d: 1 / sqrt(input channels x area); nn.ConvTranspose2d: 1 / sqrt(output ...).
    bounds = {"z_0": 24, "z_1": 15, "z_2": 10, "u_0": 24, "u_1": 15, "u_2": 10}
    decoding = {"hidden_0": 10, "hidden_1": 15, "output": 24}
    for (_, variables), fans in zip(small, (bounds, decoding), strict=True):
        params = variables["params"]
        assert set(params) == set(fans) | ({"output_bias"} if "output" in fans else set())
        for name, fan in fans.items():
            kernel = np.asarray(params[name]["kernel"]) * np.sqrt(fan)
            assert 0.9 < np.abs(kernel).max() <= 1.0 + 1e-6
            assert abs(kernel.std() - 1 / np.sqrt(3)) < 0.1
            if name != "output":
                bias = np.asarray(params[name]["bias"]) * np.sqrt(fan)
                assert 0.4 < np.abs(bias).max() <= 1.0 + 1e-6
    bias = small[1][1]["params"]["output_bias"]
    assert bias.shape == (2,)  # one for each channel
    assert (np.abs(bias) <= 1 / np.sqrt(24)).all()
    # z and u have encoders of their own.
    encoding = small[0][1]["params"]
    assert (encoding["z_1"]["kernel"] != encoding["u_1"]["kernel"]).all()


def test_by_hand_in_float64(small):
    (encoder, encoding), (decoder, decoding) = small
    image = np.random.default_rng(0).random((3, 4, 3, 2)).astype(np.float32)
    features = np.asarray(encoder.apply(encoding, image - 0.5, train=True))
    for i, name in enumerate(("z", "u")):
        h = image.reshape(3, -1).astype(np.float64)  # in [0, 1], as released
        for layer in range(3):
            p = encoding["params"][f"{name}_{layer}"]
            h = np.maximum(h, 0) @ np.asarray(p["kernel"], np.float64) + np.asarray(p["bias"])
        np.testing.assert_allclose(features[:, i], h.reshape(3, 2, 5), atol=1e-5)
    z = np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32)
    output = decoder.apply(decoding, z, train=True)
    h, params = z.astype(np.float64), decoding["params"]
    for name in ("hidden_0", "hidden_1"):
        h = np.maximum(h @ np.asarray(params[name]["kernel"]) + np.asarray(params[name]["bias"]), 0)
    h = (h @ np.asarray(params["output"]["kernel"])).reshape(3, 4, 3, 2)
    np.testing.assert_allclose(output, h + np.asarray(params["output_bias"]), atol=1e-5)


def test_settings_that_cannot_be():
    for options, part in (({"units": 0}, "units=0"), ({"encoders": 3}, "encoders=3")):
        with pytest.raises(ValueError, match=part):
            build_backbone("capsule_mlp", output_shape=(8, 8, 1), **options)
    with pytest.raises(ValueError, match="remat=False"):
        build_backbone("capsule_mlp", output_shape=(8, 8, 1), remat=True)
