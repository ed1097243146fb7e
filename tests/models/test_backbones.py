"""Backbones: shapes, sizes, precision, recomputation, and the transposed convolution."""

from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.backbones import build_backbone
from models.backbones.transposed import TransposedConv

SMALL = {"widths": (6, 8), "last_width": 10, "residual_layers": 2, "residual_width": 4}


def parameters(module, shape):
    """How many numbers the module has for inputs of this shape; computes nothing."""
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=True), x)
    assert set(variables) == {"params"}
    return sum(leaf.size for leaf in jax.tree.leaves(variables))


def out_shape(module, shape):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(
        lambda x: module.init_with_output(jax.random.key(0), x, train=True)[0], x
    ).shape


def draw(module, x, seed=0, **options):
    """Parameters of the module's shapes, drawn without compiling its init."""
    tree = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, **options), x)
    rng = np.random.default_rng(seed)

    def leaf(a):
        return jnp.asarray(rng.normal(size=a.shape) / np.sqrt(a.size / a.shape[-1]), a.dtype)

    return jax.tree.map(leaf, tree)


def small(**options):
    """A small convnet of 16x12 images, its inputs and its parameters."""
    encoder, decoder = build_backbone("convnet", output_shape=(16, 12, 3), **(SMALL | options))
    image = jax.random.uniform(jax.random.key(0), (2, 16, 12, 3)) - 0.5
    latent = jax.random.normal(jax.random.key(1), (2, 4, 3, 5))
    return [(m, x, draw(m, x, train=True)) for m, x in ((encoder, image), (decoder, latent))]


def test_the_authors_example_in_sonnet():
    encoder, decoder = build_backbone("convnet", output_shape=(32, 32, 3))
    residual = (9 * 128 * 32 + 32) + (32 * 128 + 128)
    convs = (16 * 3 * 64 + 64) + (16 * 64 * 128 + 128) + (9 * 128 * 128 + 128)
    assert parameters(encoder, (1, 32, 32, 3)) == convs + 2 * residual == 364_160
    assert out_shape(encoder, (5, 32, 32, 3)) == (5, 8, 8, 128)
    convs = (9 * 64 * 128 + 128) + (16 * 128 * 64 + 64) + (16 * 64 * 3 + 3)
    assert parameters(decoder, (1, 8, 8, 64)) == convs + 2 * residual == 290_307
    assert out_shape(decoder, (5, 8, 8, 64)) == (5, 32, 32, 3)


def test_the_papers_network():
    # Section 4.1: all layers have 256 hidden units.
    encoder, decoder = build_backbone(
        "convnet",
        output_shape=(32, 32, 768),
        widths=[256, 256],
        last_width=None,
        residual_layers=2,
        residual_width=256,
    )
    residual = (9 * 256 * 256 + 256) + (256 * 256 + 256)
    convs = (16 * 3 * 256 + 256) + (16 * 256 * 256 + 256)
    assert parameters(encoder, (1, 32, 32, 3)) == convs + 2 * residual == 2_373_120
    assert out_shape(encoder, (5, 32, 32, 3)) == (5, 8, 8, 256)
    convs = (9 * 10 * 256 + 256) + (16 * 256 * 256 + 256) + (16 * 256 * 768 + 768)
    assert parameters(decoder, (1, 8, 8, 10)) == convs + 2 * residual == 5_530_368
    assert out_shape(decoder, (5, 8, 8, 10)) == (5, 32, 32, 768)


def test_mlp_size():
    encoder, decoder = build_backbone("mlp", output_shape=(8, 8, 3), widths=[30, 20])
    assert parameters(encoder, (1, 8, 8, 1)) == (64 * 30 + 30) + (30 * 20 + 20)
    assert out_shape(encoder, (5, 8, 8, 1)) == (5, 20)
    assert parameters(decoder, (1, 2, 4)) == (8 * 20 + 20) + (20 * 30 + 30) + (30 * 192 + 192)
    assert out_shape(decoder, (5, 2, 4)) == (5, 8, 8, 3)


@pytest.mark.parametrize("widths", [(8,), (4, 6, 8)])
def test_depth_follows_widths(widths):
    encoder, decoder = build_backbone(
        "convnet", output_shape=(24, 16, 2), widths=widths, last_width=None
    )
    grid = (24 // 2 ** len(widths), 16 // 2 ** len(widths))
    assert out_shape(encoder, (1, 24, 16, 2)) == (1, *grid, 8)
    assert out_shape(decoder, (1, *grid, 3)) == (1, 24, 16, 2)


@jax.jit
def encoder_by_hand(params, x):
    """The layers in the order of the paper, written out, for the widths of SMALL."""

    def conv(layer, h, stride=1):
        strides, layout = (stride, stride), ("NHWC", "HWIO", "NHWC")
        h = jax.lax.conv_general_dilated(
            h, layer["kernel"], strides, "SAME", dimension_numbers=layout
        )
        return h + layer["bias"]

    h = nn.relu(conv(params["down_0"]["conv"], x, 2))
    h = nn.relu(conv(params["down_1"]["conv"], h, 2))
    h = conv(params["last"], h)
    for name in ("residual_0", "residual_1"):
        inside = nn.relu(conv(params[name]["conv3x3"], nn.relu(h)))
        h += conv(params[name]["conv1x1"], inside)
    return nn.relu(h)


def test_encoder_by_hand():
    (encoder, x, variables), _ = small()
    eager = encoder.apply(variables, x, train=True)
    np.testing.assert_allclose(eager, encoder_by_hand(variables["params"], x), atol=1e-5)


def test_mlp_by_hand():
    encoder, decoder = build_backbone(
        "mlp", output_shape=(2, 3, 1), widths=(5, 4), activation="tanh"
    )
    image = jax.random.normal(jax.random.key(0), (2, 2, 3, 1))
    features, variables = encoder.init_with_output(jax.random.key(1), image, train=True)
    h = image.reshape(2, 6)
    for name in ("hidden_0", "hidden_1"):
        layer = variables["params"][name]
        h = jnp.tanh(h @ layer["kernel"] + layer["bias"])
    np.testing.assert_allclose(features, h, atol=1e-6)
    output, variables = decoder.init_with_output(jax.random.key(2), features, train=True)
    for name in ("hidden_0", "hidden_1", "output"):
        layer = variables["params"][name]
        h = h @ layer["kernel"] + layer["bias"]
        h = h if name == "output" else jnp.tanh(h)
    np.testing.assert_allclose(output, h.reshape(2, 2, 3, 1), atol=1e-6)


def test_jit_is_eager_and_gradients_are_finite():
    for module, x, variables in small(residual_layers=1):

        @jax.jit
        def run(variables, x, module=module):
            def loss(variables, x):
                y = module.apply(variables, x, train=True)
                return jnp.sum(y**2), y

            return jax.grad(loss, argnums=(0, 1), has_aux=True)(variables, x)

        grads, jitted = run(variables, x)
        eager = module.apply(variables, x, train=False)  # train changes nothing
        np.testing.assert_allclose(jitted, eager, atol=1e-5)
        chex.assert_tree_all_finite(grads)
        chex.assert_tree_all_finite(run(variables, jnp.zeros_like(x))[0])


@pytest.mark.parametrize("name", ["convnet", "mlp"])
def test_bfloat16_keeps_float32_parameters_and_output(name):
    shape = (8, 8, 1)
    options = {
        "convnet": SMALL | {"residual_layers": 1},
        "mlp": {"widths": (20,), "activation": "relu"},
    }[name]
    pairs = [
        build_backbone(name, output_shape=shape, dtype=d, **options)
        for d in ("float32", "bfloat16")
    ]
    image = jax.random.uniform(jax.random.key(0), (2, *shape)) - 0.5
    outputs = []
    for encoder, decoder in pairs:
        encoding = draw(encoder, image, train=True)
        features = jax.jit(partial(encoder.apply, train=True))(encoding, image)
        decoding = draw(decoder, features, train=True)
        output = jax.jit(partial(decoder.apply, train=True))(decoding, features)
        assert {leaf.dtype for leaf in jax.tree.leaves((encoding, decoding))} == {np.dtype("f4")}
        assert output.dtype == jnp.float32
        outputs.append((features, output))
    (features, output), (half_features, half_output) = outputs
    assert features.dtype == jnp.float32
    assert half_features.dtype == jnp.bfloat16
    scale = float(jnp.max(jnp.abs(output)))
    np.testing.assert_allclose(half_output, output, atol=0.05 * scale)  # 8 bits of mantissa


def test_remat_changes_neither_paths_nor_gradients():
    grads = []
    for remat in (True, False):
        (encoder, x, encoding), (decoder, z, decoding) = small(residual_layers=1, remat=remat)

        def loss(variables, encoder=encoder, decoder=decoder, x=x, z=z):
            features = encoder.apply(variables[0], x, train=True)
            output = decoder.apply(variables[1], z * jnp.mean(features), train=True)
            return jnp.sum(output**2)

        variables = (encoding, decoding)
        assert ("remat" in str(jax.make_jaxpr(loss)(variables))) == remat
        grads.append((variables, jax.jit(jax.grad(loss))(variables)))
    # The same paths, shapes and numbers; gradients up to the order of float32 sums.
    chex.assert_trees_all_equal(grads[0][0], grads[1][0])
    chex.assert_trees_all_close(grads[0][1], grads[1][1], rtol=1e-4, atol=1e-5)


# The transposed convolution.

SIZES = [(2, 8, 8, 16, 6), (3, 5, 7, 4, 3), (1, 1, 1, 2, 5), (2, 9, 2, 3, 1)]


def test_transposed_starts_as_flax_conv_transpose():
    flax = nn.ConvTranspose(3, (4, 4), strides=(2, 2), padding="SAME")
    x = jnp.ones((1, 2, 3, 5))
    y, variables = TransposedConv(3).init_with_output(jax.random.key(0), x)
    chex.assert_trees_all_equal(variables, flax.init(jax.random.key(0), x))
    np.testing.assert_allclose(y, flax.apply(variables, x), atol=1e-5)  # not jitted


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_transposed_is_flax_conv_transpose(size):
    batch, height, width, depth, features = size
    ours = TransposedConv(features)
    flax = nn.ConvTranspose(features, (4, 4), strides=(2, 2), padding="SAME")
    x = jax.random.normal(jax.random.key(0), (batch, height, width, depth))
    weight = jax.random.normal(jax.random.key(1), (batch, 2 * height, 2 * width, features))
    variables = draw(flax, x)

    def run(module):
        def loss(variables, x):
            y = module.apply(variables, x)
            return jnp.sum(weight * jnp.sin(y)), y

        (_, y), grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(
            variables, x
        )
        return y, grads

    # Sums of at most 16 depth (values, image) or batch height width (kernel) float32 terms, in
    # another order.
    chex.assert_trees_all_close(run(ours), run(flax), rtol=1e-4, atol=2e-5)


def test_transposed_in_bfloat16():
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 8))
    module = TransposedConv(3, dtype=jnp.bfloat16)
    variables = draw(module, x)
    y = jax.jit(module.apply)(variables, x)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("f4")}
    exact = jax.jit(TransposedConv(3).apply)(variables, x)
    np.testing.assert_allclose(y.astype(jnp.float32), exact, atol=0.05)


def test_transposed_under_pmap_compiles_one_form():
    assert jax.local_device_count() >= 4, "tests/conftest.py asks for four CPU devices"
    module = TransposedConv(3)
    x = jax.random.normal(jax.random.key(0), (4, 2, 4, 4, 5))
    variables = draw(module, x[0])

    def grad(variables, x):
        local = jax.grad(lambda v: jnp.mean(module.apply(v, x) ** 2))(variables)
        return jax.lax.pmean(local, "batch")

    mapped = jax.pmap(
        grad, axis_name="batch", in_axes=(None, 0), out_axes=None, devices=jax.local_devices()[:4]
    )
    compiled = mapped.lower(variables, x).compile().as_text()
    assert "convolution(" in compiled
    assert "lhs_dilate" not in compiled
    assert "conditional(" not in compiled
    found = jax.block_until_ready(mapped(variables, x))
    whole = jax.grad(lambda v: jnp.mean(module.apply(v, x.reshape(8, 4, 4, 5)) ** 2))(variables)
    chex.assert_trees_all_close(jax.device_get(found), whole, rtol=1e-5, atol=1e-6)


def test_transposed_under_vmap_and_shard_map():
    module = TransposedConv(3)
    x = jax.random.normal(jax.random.key(0), (4, 1, 4, 4, 5))
    variables = draw(module, x[0])
    whole = module.apply(variables, x[:, 0])
    mapped = jax.vmap(lambda x: module.apply(variables, x))(x)
    np.testing.assert_allclose(mapped[:, 0], whole, atol=1e-6)
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.PartitionSpec("batch")
    sharded = jax.jit(
        jax.shard_map(
            module.apply,
            mesh=mesh,
            in_specs=(jax.sharding.PartitionSpec(), split),
            out_specs=split,
        )
    )
    np.testing.assert_allclose(sharded(variables, x[:, 0]), whole, atol=1e-6)


@pytest.mark.parametrize(("platform", "dilates"), [("cpu", False), ("cuda", True), ("tpu", True)])
def test_transposed_form_by_platform(platform, dilates):
    module = TransposedConv(3)
    x = jnp.zeros((1, 4, 4, 2))
    variables = draw(module, x)
    text = jax.export.export(jax.jit(module.apply), platforms=[platform])(
        variables, x
    ).mlir_module()
    assert ("lhs_dilate = [2, 2]" in text) == dilates
    assert text.count("stablehlo.convolution(") == 1


# Errors.


def test_unknown_names_and_options():
    with pytest.raises(ValueError, match=r"'resnet'.*convnet, mlp"):
        build_backbone("resnet", output_shape=(8, 8, 1))
    with pytest.raises(ValueError, match=r"'convnet' has no option 'depth'.*widths, last_width"):
        build_backbone("convnet", output_shape=(8, 8, 1), depth=3)
    with pytest.raises(ValueError, match=r"'mlp' has no option 'residual_width'.*activation"):
        build_backbone("mlp", output_shape=(8, 8, 1), residual_width=3)
    with pytest.raises(ValueError, match=r"'gelu'.*tanh, relu"):
        build_backbone("mlp", output_shape=(8, 8, 1), activation="gelu")
    with pytest.raises(ValueError, match="remat=False"):
        build_backbone("mlp", output_shape=(8, 8, 1), remat=True)


@pytest.mark.parametrize("widths", [(), (0,), (64, -1), (2.5,), 64])
def test_widths_must_be_positive(widths):
    with pytest.raises(ValueError, match="positive whole numbers"):
        build_backbone("convnet", output_shape=(8, 8, 1), widths=widths)


def test_wrong_image_size():
    encoder, decoder = build_backbone("convnet", output_shape=(30, 32, 3))
    grid = out_shape(encoder, (1, 30, 32, 3))
    with pytest.raises(ValueError, match=r"8x8 doubled 2 times is 32x32.*image is 30x32"):
        out_shape(decoder, grid)
