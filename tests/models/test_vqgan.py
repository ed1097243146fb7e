"""VQGAN's backbone: sizes at full scale, its blocks against NumPy, starts, precision, errors."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.backbones import build_backbone
from models.backbones.vqgan import AttnBlock, Layers, ResBlock

SMALL = {
    "ch": 4,
    "ch_mult": (1, 2),
    "num_res_blocks": 1,
    "attn_resolutions": (4,),
    "z_channels": 6,
    "groups": 2,
}


def shapes(module, *shape):
    """The module's output and parameters for inputs of this shape; computes nothing."""
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x, train=True), x)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def draw(module, x, seed=0, **options):
    """Parameters of the module's shapes, none of them 0 or 1, drawn without compiling its init."""
    tree = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, **options), x)
    rng = np.random.default_rng(seed)

    def leaf(a):
        return jnp.asarray(rng.normal(size=a.shape) / np.sqrt(a.size / a.shape[-1]), a.dtype)

    return jax.tree.map(leaf, tree)


def small(**options):
    """A small network of 8x8 images, its inputs and its parameters."""
    encoder, decoder = build_backbone("vqgan", output_shape=(8, 8, 3), **(SMALL | options))
    image = jax.random.uniform(jax.random.key(0), (2, 8, 8, 3)) - 0.5
    latent = jax.random.normal(jax.random.key(1), (2, 4, 4, 5))
    return [(m, x, draw(m, x, train=True)) for m, x in ((encoder, image), (decoder, latent))]


# ---------------------------------------------------------------- sizes


# Counted from the layers of the released networks: VQGAN f=16 on ImageNet, which is also SC-VAE's
# network for 16x16 latents, and SC-VAE's for the other three of its sizes.
@pytest.mark.parametrize(
    ("side", "ch_mult", "of_encoder", "of_decoder"),
    [
        (32, (1, 2, 2, 4), 26_455_936, 38_260_227),
        (16, (1, 1, 2, 2, 4), 29_298_176, 42_449_795),
        (4, (1, 1, 1, 2, 2, 4, 4), 40_264_320, 57_645_315),
        (1, (1, 1, 1, 2, 2, 2, 4, 4, 4), 55_019_904, 78_303_747),
    ],
)
def test_parameters_of_the_papers_networks(side, ch_mult, of_encoder, of_decoder):
    encoder, decoder = build_backbone(
        "vqgan", output_shape=(256, 256, 3), ch_mult=ch_mult, remat=True, dtype="bfloat16"
    )
    features, variables = shapes(encoder, 2, 256, 256, 3)
    assert features.shape == (2, side, side, 256)
    assert set(variables) == {"params"}
    assert count(variables) == of_encoder
    output, variables = shapes(decoder, 2, side, side, 256)
    assert output.shape == (2, 256, 256, 3)
    assert output.dtype == jnp.float32
    assert count(variables) == of_decoder
    # Attention in the middle, and where the height is 16, which 32x32 latents never come down to.
    attention = {name for name in variables["params"] if "attn" in name}
    level = {32: None, 16: 4, 4: 4, 1: 4}[side]
    at_16 = {f"up_{level}_attn_{j}" for j in range(3)} if level else set()
    assert attention == {"mid_attn_1"} | at_16


def test_the_default_is_vqgan_of_16x16_codes():
    given = build_backbone("vqgan", output_shape=(256, 256, 3), ch_mult=(1, 1, 2, 2, 4))
    assert build_backbone("vqgan", output_shape=(256, 256, 3)) == given
    # With a codebook of 1024 and a 1x1 convolution on both sides of it: the released VQGAN.
    both = count(shapes(given[0], 1, 256, 256, 3)[1]) + count(shapes(given[1], 1, 16, 16, 256)[1])
    assert both + 1024 * 256 + 2 * (256 * 256 + 256) == 72_141_699


# ---------------------------------------------------------------- blocks against NumPy, in float64


def group_norm(layer, x, groups):
    y = np.empty_like(x)
    size = x.shape[-1] // groups
    for b in range(x.shape[0]):
        for g in range(groups):
            part = x[b, :, :, g * size : (g + 1) * size]
            y[b, :, :, g * size : (g + 1) * size] = (part - part.mean()) / np.sqrt(
                part.var() + 1e-6
            )
    return y * layer["scale"] + layer["bias"]


def swish(x):
    return x / (1 + np.exp(-x))


def conv(layer, x, stride=1, before=1, after=1):
    """Output pixel by pixel; `before` and `after` are the zeros on either side of each axis."""
    kernel = layer["kernel"]
    size = kernel.shape[0]
    if size == 1:
        before = after = 0
    x = np.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))
    height, width = ((n - size) // stride + 1 for n in x.shape[1:3])
    y = np.empty((x.shape[0], height, width, kernel.shape[-1]))
    for i in range(height):
        for j in range(width):
            window = x[:, stride * i : stride * i + size, stride * j : stride * j + size]
            y[:, i, j] = np.tensordot(window, kernel, 3)
    return y + layer["bias"]


def res_block(params, x, groups):
    h = conv(params["conv1"], swish(group_norm(params["norm1"], x, groups)))
    h = conv(params["conv2"], swish(group_norm(params["norm2"], h, groups)))
    if "nin_shortcut" in params:
        x = conv(params["nin_shortcut"], x)
    return x + h


def attn_block(params, x, groups):
    batch, height, width, depth = x.shape
    h = group_norm(params["norm"], x, groups)
    q, k, v = (conv(params[n], h).reshape(batch, -1, depth) for n in "qkv")
    mixed = np.empty_like(v)
    for b in range(batch):
        for i in range(height * width):
            score = np.exp(k[b] @ q[b, i] / np.sqrt(depth))
            mixed[b, i] = score @ v[b] / score.sum()
    return x + conv(params["proj_out"], mixed.reshape(x.shape))


def in_float64(variables):
    return jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"])


@pytest.mark.parametrize("features", [8, 12])
def test_res_block_by_hand(features):
    module = ResBlock(features, Layers(groups=4))
    x = jax.random.normal(jax.random.key(0), (2, 5, 3, 8))
    variables = draw(module, x)
    assert ("nin_shortcut" in variables["params"]) == (features != 8)
    expected = res_block(in_float64(variables), np.asarray(x, np.float64), 4)
    np.testing.assert_allclose(jax.jit(module.apply)(variables, x), expected, atol=1e-5)
    np.testing.assert_allclose(module.apply(variables, x), expected, atol=1e-5)


def test_attn_block_by_hand():
    module = AttnBlock(Layers(groups=4))
    x = jax.random.normal(jax.random.key(0), (2, 5, 3, 8))
    variables = draw(module, x)
    expected = attn_block(in_float64(variables), np.asarray(x, np.float64), 4)
    assert np.abs(expected - np.asarray(x)).max() > 0.1
    np.testing.assert_allclose(jax.jit(module.apply)(variables, x), expected, atol=1e-5)


def test_networks_by_hand():
    (encoder, image, encoding), (decoder, latent, decoding) = small()
    p = in_float64(encoding)
    h = conv(p["conv_in"], np.asarray(image, np.float64))
    h = res_block(p["down_0_block_0"], h, 2)
    h = conv(p["down_0_downsample_conv"], h, stride=2, before=0)  # zeros at the end alone
    h = res_block(p["down_1_block_0"], h, 2)
    h = attn_block(p["down_1_attn_0"], h, 2)
    h = res_block(p["mid_block_1"], h, 2)
    h = attn_block(p["mid_attn_1"], h, 2)
    h = res_block(p["mid_block_2"], h, 2)
    h = conv(p["conv_out"], swish(group_norm(p["norm_out"], h, 2)))
    found = jax.jit(partial(encoder.apply, train=True))(encoding, image)
    # float32 through some ten layers, of numbers of about 1.
    np.testing.assert_allclose(found, h, atol=3e-5)

    p = in_float64(decoding)
    h = conv(p["conv_in"], np.asarray(latent, np.float64))
    h = res_block(p["mid_block_1"], h, 2)
    h = attn_block(p["mid_attn_1"], h, 2)
    h = res_block(p["mid_block_2"], h, 2)
    for j in (0, 1):
        h = res_block(p[f"up_1_block_{j}"], h, 2)
        h = attn_block(p[f"up_1_attn_{j}"], h, 2)
    h = conv(p["up_1_upsample_conv"], h.repeat(2, 1).repeat(2, 2))
    for j in (0, 1):
        h = res_block(p[f"up_0_block_{j}"], h, 2)
    h = conv(p["conv_out"], swish(group_norm(p["norm_out"], h, 2)))
    found = jax.jit(partial(decoder.apply, train=True))(decoding, latent)
    np.testing.assert_allclose(found, h, atol=3e-5)


# ---------------------------------------------------------------- starts


@pytest.mark.parametrize("start", ["pytorch", "xavier"])
def test_starts(start):
    module = ResBlock(64, Layers(start=start))
    params = module.init(jax.random.key(0), jnp.zeros((1, 2, 2, 32)))["params"]
    for name, fan_in, fan_out in (
        ("conv1", 9 * 32, 9 * 64),
        ("conv2", 9 * 64, 9 * 64),
        ("nin_shortcut", 32, 64),
    ):
        kernel, bias = params[name]["kernel"], params[name]["bias"]
        # torch.nn.Conv2d: both within 1 / sqrt(fan in); SC-VAE: xavier_uniform_, biases 0.
        bound = fan_in**-0.5 if start == "pytorch" else (6 / (fan_in + fan_out)) ** 0.5
        assert 0.99 * bound < float(jnp.abs(kernel).max()) <= bound
        assert float(kernel.std()) == pytest.approx(bound / 3**0.5, rel=0.03)
        if start == "pytorch":
            assert 0.8 * bound < float(jnp.abs(bias).max()) <= bound
        else:
            assert not bias.any()


# ---------------------------------------------------------------- precision, recomputation


def test_bfloat16_keeps_float32_parameters_and_output():
    outputs = {}
    for dtype in ("float32", "bfloat16"):
        (encoder, image, encoding), (decoder, latent, decoding) = small(dtype=dtype)
        assert {leaf.dtype for leaf in jax.tree.leaves((encoding, decoding))} == {np.dtype("f4")}
        outputs[dtype] = (
            jax.jit(partial(encoder.apply, train=True))(encoding, image),
            jax.jit(partial(decoder.apply, train=True))(decoding, latent),
        )
    assert outputs["bfloat16"][0].dtype == jnp.bfloat16
    assert outputs["bfloat16"][1].dtype == jnp.float32
    for half, exact in zip(outputs["bfloat16"], outputs["float32"], strict=True):
        scale = float(jnp.abs(exact).max())
        # 8 bits of mantissa, in some ten layers.
        np.testing.assert_allclose(half.astype(jnp.float32), exact, atol=0.05 * scale)


def test_remat_changes_neither_paths_nor_gradients():
    grads = []
    for remat in (True, False):
        (encoder, x, encoding), (decoder, z, decoding) = small(remat=remat)

        def loss(variables, encoder=encoder, decoder=decoder, x=x, z=z):
            features = encoder.apply(variables[0], x, train=True)
            output = decoder.apply(variables[1], z * jnp.mean(features), train=True)
            return jnp.sum(output**2)

        variables = (encoding, decoding)
        assert ("remat" in str(jax.make_jaxpr(loss)(variables))) == remat
        grads.append((variables, jax.jit(jax.grad(loss))(variables)))
    chex.assert_tree_all_finite(grads)
    # The same paths, shapes and numbers; gradients up to the order of float32 sums.
    chex.assert_trees_all_equal(grads[0][0], grads[1][0])
    chex.assert_trees_all_close(grads[0][1], grads[1][1], rtol=1e-3, atol=1e-4)


def test_constant_images_have_finite_gradients():
    encoder, image, encoding = small()[0]

    def loss(variables, x):
        return jnp.sum(encoder.apply(variables, x, train=True) ** 2)

    # A group of equal values has variance 0.
    grads = jax.jit(jax.grad(loss, (0, 1)))(encoding, jnp.zeros_like(image))
    chex.assert_tree_all_finite(grads)


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ch": 16}, "32 groups, which a width of 16 does not have; make ch=16 a multiple of 32"),
        ({"ch": 0}, "ch of backbone 'vqgan' is 0; it must be a whole number, at least 1"),
        ({"groups": 0}, "groups of backbone 'vqgan' is 0"),
        ({"ch_mult": ()}, "ch_mult must be 1 or more positive whole numbers"),
        ({"attn_resolutions": (0,)}, "attn_resolutions must be 0 or more positive whole numbers"),
        ({"start": "zeros"}, "no start is called 'zeros'; there are pytorch, xavier"),
        ({"dropout": 0.1}, "'vqgan' has no option 'dropout'; it takes ch, ch_mult"),
    ],
    ids=str,
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        build_backbone("vqgan", output_shape=(32, 32, 3), **options)


def test_wrong_image_size():
    encoder, decoder = build_backbone("vqgan", output_shape=(10, 8, 3), **SMALL)
    features, _ = shapes(encoder, 1, 10, 8, 3)
    shapes(decoder, *features.shape)
    encoder, decoder = build_backbone("vqgan", output_shape=(9, 8, 3), **SMALL)
    features, _ = shapes(encoder, 1, 9, 8, 3)
    with pytest.raises(ValueError, match=r"4x4 doubled 1 times is 8x8.*image is 9x8"):
        shapes(decoder, *features.shape)
