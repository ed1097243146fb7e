"""PartitionVAE's encoder and decoders against loops, and the sizes of the authors' script."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from numpy.lib.stride_tricks import sliding_window_view

import models
from bottlenecks.partition import partition_of_units
from models.backbones import build_backbone

SMALL = {"convs": ((3, 4), (2, 3)), "dense": (7,), "decoder_convs": ((3, 2),), "subresolution": 2}
ADDITIVE = {"partitions": (2, 1), "decoder_convs": (), "activation": "tanh"}
BROADCAST = ADDITIVE | {"broadcast": True, "dense": (5, 4)}
DECODERS = pytest.mark.parametrize(
    "decoder", [{}, ADDITIVE, BROADCAST], ids=["paper", "additive", "broadcast"]
)


def draw(module, x, seed=0):
    """Parameters of the module's shapes, drawn without compiling its init."""
    tree = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=True), x)
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda a: jnp.asarray(rng.normal(size=a.shape) / np.sqrt(a.size / a.shape[-1]), a.dtype),
        tree,
    )


def convolve(x, layer, border=0):
    """A convolution with stride 1 in float64: `[batch, height, width, depth]`."""
    kernel, bias = (np.asarray(layer[name], np.float64) for name in ("kernel", "bias"))
    x = np.pad(x, ((0, 0), (border, border), (border, border), (0, 0)))
    windows = sliding_window_view(x, kernel.shape[:2], axis=(1, 2))
    return np.einsum("bhwdij,ijdf->bhwf", windows, kernel) + bias


def relu(x):
    return np.maximum(x, 0)


def dense(x, layer):
    return x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64)


# ---------------------------------------------------------------- values


def test_encoder_by_hand():
    encoder, _ = build_backbone("partition", output_shape=(14, 12, 3), **SMALL)
    x = np.random.default_rng(1).normal(size=(2, 14, 12, 3)).astype(np.float32)
    variables = draw(encoder, x)
    h = np.asarray(x, np.float64)
    for name in ("conv_0", "conv_1"):
        h = relu(convolve(h, variables["params"][name]))
        h = h[:, : h.shape[1] // 2 * 2, : h.shape[2] // 2 * 2]
        h = h.reshape(2, h.shape[1] // 2, 2, h.shape[2] // 2, 2, -1).max(axis=(2, 4))
    found = encoder.apply(variables, x, train=True)
    assert found.shape == (2, 2, 2, 3)  # 14 -> 12 -> 6 -> 5 -> 2, 12 -> 10 -> 5 -> 4 -> 2
    np.testing.assert_allclose(found, h, rtol=1e-4, atol=1e-5)


def test_pooling_is_that_of_flax_forwards_and_backwards():
    from models.backbones.partition import _largest_of_four

    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 5, 3)), jnp.float32)

    def both(pool):
        return jax.value_and_grad(lambda x: jnp.sum(jnp.sin(3 * pool(x))))(x)

    ours = both(_largest_of_four)
    theirs = both(lambda x: nn.max_pool(x, (2, 2), (2, 2)))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("activation", ["linear", "relu"])
def test_decoder_by_hand(activation):
    options = SMALL | {"activation": activation}
    _, decoder = build_backbone("partition", output_shape=(8, 6, 3), **options)
    z = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    variables = draw(decoder, z)
    params = variables["params"]
    y = dense(np.asarray(z, np.float64), params["dense_0"])
    y = dense(relu(y) if activation == "relu" else y, params["grid"]).reshape(5, 4, 3, 1)
    grown = relu(convolve(y, params["transposed_0"], border=2))
    assert grown.shape == (5, 6, 5, 2)
    y = convolve(relu(convolve(grown, params["conv_0"])), params["output"])
    found = np.asarray(decoder.apply(variables, z, train=True))
    assert found.shape == (5, 8, 6, 3)
    np.testing.assert_allclose(found, y.repeat(2, 1).repeat(2, 2), rtol=1e-4, atol=1e-5)


def test_a_transposed_convolution_without_padding_has_a_border():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 3, 2)), jnp.float32)
    layer = {"kernel": jnp.arange(3 * 3 * 2 * 5.0).reshape(3, 3, 2, 5) / 50, "bias": jnp.zeros(5)}
    theirs = nn.ConvTranspose(5, (3, 3), padding="VALID").apply({"params": layer}, x)
    np.testing.assert_allclose(
        convolve(np.float64(x), layer, border=2), theirs, rtol=1e-5, atol=1e-6
    )


def test_additive_decoder_by_hand():
    _, decoder = build_backbone("partition", output_shape=(8, 6, 3), **(SMALL | ADDITIVE))
    z = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    variables = draw(decoder, z)
    params = variables["params"]["parts"]
    images = []
    for k, part in enumerate((z[:, :2], z[:, 2:])):
        y = np.asarray(part, np.float64)
        for i in range(2):
            kernel = np.asarray(params[f"layer_{i}"]["kernel"], np.float64)[k, : y.shape[1]]
            y = (np.tanh(y) if i else y) @ kernel
            y = y + np.asarray(params[f"layer_{i}"]["bias"], np.float64)[k]
        images.append(y.reshape(5, 4, 3, 3).repeat(2, 1).repeat(2, 2))
    parts = decoder.apply(variables, z, method="parts")
    np.testing.assert_allclose(parts, np.stack(images, 1), rtol=1e-4, atol=1e-5)
    found = decoder.apply(variables, z, train=True)
    np.testing.assert_allclose(found, np.sum(images, 0), rtol=1e-4, atol=1e-5)


def test_broadcast_decoder_by_hand():
    _, decoder = build_backbone("partition", output_shape=(8, 6, 3), **(SMALL | BROADCAST))
    z = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    variables = draw(decoder, z)
    params = variables["params"]
    sums = np.tile(np.asarray(params["background"], np.float64), (5, 1, 1, 1))
    parts = np.empty((5, 2, 4, 3, 3))
    for k, part in enumerate((z[:, :2], z[:, 2:])):
        net = params[f"part_{k}"]
        for row in range(4):
            for column in range(3):
                y, x = -1 + 2 * row / 3, -1 + column
                place = [x, y]
                for n in (1, 2, 3, 4):
                    place += [f(np.pi / 2 * n * c) for f in (np.sin, np.cos) for c in (x, y)]
                h = dense(np.asarray(part, np.float64), net["code"])
                h = h + np.array(place) @ np.asarray(net["place"]["kernel"], np.float64)
                h = dense(np.tanh(dense(np.tanh(h), net["dense_0"])), net["dense_1"])
                parts[:, k, row, column] = h
        sums += parts[:, k]
    found = decoder.apply(variables, z, train=True)
    assert found.shape == (5, 8, 6, 3)
    np.testing.assert_allclose(found, sums.repeat(2, 1).repeat(2, 2), rtol=1e-4, atol=1e-5)
    # The background is shared out.
    shared = decoder.apply(variables, z, method="parts") - parts.repeat(2, 2).repeat(2, 3)
    expected = np.asarray(params["background"]).repeat(2, 0).repeat(2, 1) / 2
    np.testing.assert_allclose(shared, np.broadcast_to(expected, shared.shape), atol=1e-5)


@pytest.mark.parametrize("decoder", [ADDITIVE, BROADCAST], ids=["additive", "broadcast"])
def test_an_image_of_an_additive_decoder_is_one_partitions_own(decoder):
    _, decoder = build_backbone("partition", output_shape=(4, 4, 1), **(SMALL | decoder))
    z = np.random.default_rng(1).normal(size=(1, 3)).astype(np.float32)
    variables = draw(decoder, z)
    parts = jax.jacobian(lambda z: decoder.apply(variables, z, method="parts"))(jnp.asarray(z))
    J = np.moveaxis(np.asarray(parts)[0, ..., 0, :], -1, 0)  # [units, K, height, width, 1]
    same = partition_of_units((2, 1))[:, None] == np.arange(2)
    np.testing.assert_array_equal(J[~same], 0)
    assert (J[same] != 0).any(axis=(1, 2, 3)).all()


@DECODERS
def test_centre_and_scale_are_what_the_networks_take_for_0_and_1(decoder):
    shape = {"output_shape": (14, 12, 1)}
    plain = build_backbone("partition", **shape, **(SMALL | decoder))
    spread = build_backbone("partition", **shape, **(SMALL | decoder), centre=0.3, scale=0.02)
    image = np.random.default_rng(0).normal(size=(2, 14, 12, 1)).astype(np.float32)
    z = np.random.default_rng(1).normal(size=(2, 3)).astype(np.float32)
    variables = draw(plain[0], image)
    # The networks see images with 0.5 taken away: an image of 0.3 + 0.02 x is to them what x is.
    np.testing.assert_allclose(
        spread[0].apply(variables, 0.3 + 0.02 * image - 0.5, train=True),
        plain[0].apply(variables, image, train=True),
        atol=1e-4,
    )
    variables = draw(plain[1], z)
    np.testing.assert_allclose(
        spread[1].apply(variables, z, train=True),
        0.02 * plain[1].apply(variables, z, train=True) + 0.3 - 0.5,
        atol=1e-6,
    )
    if decoder:
        parts = spread[1].apply(variables, z, method="parts")
        plain_parts = plain[1].apply(variables, z, method="parts")
        np.testing.assert_allclose(parts, 0.02 * plain_parts, atol=1e-6)


@DECODERS
@pytest.mark.parametrize("method", ["nearest", "bilinear"])
def test_subresolution_and_upsampling(decoder, method):
    options = SMALL | {"subresolution": 4, "upsample": method} | decoder
    _, decoder = build_backbone("partition", output_shape=(8, 12, 1), **options)
    z = np.random.default_rng(1).normal(size=(2, 3)).astype(np.float32)
    variables = draw(decoder, z)
    y = np.asarray(decoder.apply(variables, z, train=True))
    assert y.shape == (2, 8, 12, 1)
    blocks = y.reshape(2, 2, 4, 3, 4)
    copied = np.ptp(blocks, axis=(2, 4)) == 0
    assert copied.all() == (method == "nearest")
    assert np.ptp(y) > 0


def test_bfloat16_computes_and_float32_comes_out():
    for module, x in zip(
        build_backbone("partition", output_shape=(14, 12, 3), dtype=jnp.bfloat16, **SMALL),
        (jnp.ones((2, 14, 12, 3)), jnp.ones((2, 4))),
        strict=True,
    ):
        variables = draw(module, x)
        assert {a.dtype for a in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
        y = jax.eval_shape(lambda v, x, module=module: module.apply(v, x, train=True), variables, x)
        assert y.dtype == (jnp.bfloat16 if y.shape[-2:] == (2, 3) else jnp.float32)


# ---------------------------------------------------------------- sizes


def parameters(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_parameters_of_the_released_script():
    # Its MNIST script: latent 2 + 4, heads [[5, 2], [10, 4]], f = 2, dense [100, 196].
    model = models.build(
        {
            "image_shape": (28, 28, 1),
            "backbone": {"name": "partition"},
            "bottleneck": {
                "name": "partition",
                "partitions": (2, 4),
                "hidden": ((5,), (10,)),
                "mode": "legacy",
            },
            "likelihood": {"name": "gaussian"},
            "data_variance": 0.1,
            "dtype": "float32",
            "remat": False,
        }
    )
    keys = {"params": jax.random.key(0), "sample": jax.random.key(0)}
    batch = {"image": jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32)}
    variables = jax.eval_shape(lambda b: model.init(keys, b, train=True), batch)
    params = variables["params"]
    counts = {
        "conv_0": parameters(params["encoder"]["conv_0"]),
        "conv_1": parameters(params["encoder"]["conv_1"]),
        "mix": parameters(params["bottleneck"]),
        "decoder": {name: parameters(layer) for name, layer in params["decoder"].items()},
    }
    assert counts == {
        "conv_0": 832,
        "conv_1": 6408,
        "mix": 128 * 6 + 6,
        "decoder": {"dense_0": 700, "grid": 19_796, "transposed_0": 26, "conv_0": 26, "output": 2},
    }
    assert parameters(params["encoder"]) + parameters(params["bottleneck"]) == 8014
    assert parameters(params["decoder"]) == 20_550
    assert parameters(params) == 28_564


# ---------------------------------------------------------------- errors


def test_lists_are_taken_as_a_config_holds_them():
    lists = {"convs": [[3, 4], [2, 3]], "dense": [7], "decoder_convs": [[3, 2]]}
    assert build_backbone("partition", output_shape=(8, 8, 1), **lists) == build_backbone(
        "partition", output_shape=(8, 8, 1), **(SMALL | {"subresolution": 2})
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subresolution": 3}, "subresolution.* is 3; it must divide height and width, 28 and 28"),
        ({"subresolution": 0}, "subresolution.* is 0"),
        ({"upsample": "cubic"}, "no upsample is called 'cubic'; there are nearest, bilinear"),
        ({"activation": "gelu"}, "no activation is called 'gelu'; there are linear, tanh, relu"),
        ({"convs": (5, 32)}, r"convs of backbone 'partition' are pairs .*found \(5, 32\)"),
        ({"decoder_convs": ((5, 0),)}, r"pairs of decoder_convs must be 2 .*found \(5, 0\)"),
        ({"dense": (0,)}, r"dense must be .* found \(0,\)"),
        ({"partitions": (4, 2)}, r"set decoder_convs=\(\)"),
        ({"partitions": (4, 0), "decoder_convs": ()}, r"partitions must be .*found \(4, 0\)"),
        ({"broadcast": True}, "broadcast=True without partitions"),
        (ADDITIVE | {"broadcast": True, "dense": ()}, r"found dense=\(\), give widths"),
        ({"scale": 0.0}, r"scale of backbone 'partition' is 0\.0; it must be above 0"),
        ({"remat": True}, "too small to recompute"),
    ],
    ids=str,
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        build_backbone("partition", output_shape=(28, 28, 1), **options)


def test_images_that_the_convolutions_use_up():
    encoder, _ = build_backbone("partition", output_shape=(8, 8, 1))
    with pytest.raises(ValueError, match=r"convs\[1\].* is 5x5 .* finds 2x2 pixels"):
        draw(encoder, jnp.zeros((1, 8, 8, 1)))
