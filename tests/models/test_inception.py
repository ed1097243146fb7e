"""FID's Inception-v3: its size, its arithmetic on a small scale, and the weights it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import inception
from models.inception import Conv, Fork, inception_features, inception_from_weights


def branches():
    """Every branch with the prefix of its names, in order."""
    yield "", (inception.STEM,)
    for name, block in inception.BLOCKS.items():
        yield f"{name}.", block


def state_dict(values=lambda shape: np.broadcast_to(np.float32(1), shape)):
    """Arrays named and laid out as pytorch-fid's."""
    arrays, before = {}, 3
    for prefix, block in branches():
        given = []
        for branch in block:
            width = before
            for part in branch:
                convs = part.convs if isinstance(part, Fork) else (part,)
                convs = [conv for conv in convs if isinstance(conv, Conv)]
                for conv in convs:
                    name = prefix + conv.name
                    arrays[f"{name}.conv.weight"] = values((conv.features, width, *conv.size))
                    for kind in ("weight", "bias", "running_mean", "running_var"):
                        arrays[f"{name}.bn.{kind}"] = values((conv.features,))
                width = sum(conv.features for conv in convs) or width
            given.append(width)
        before = sum(given)
    return arrays


def test_layers_of_the_published_network():
    arrays = state_dict()
    shapes = {name: a.shape for name, a in arrays.items()}
    learned = [np.prod(s) for n, s in shapes.items() if not n.split(".")[-1].startswith("running")]
    # torchvision's inception_v3 without its two classifiers; its widths below, as in the paper.
    assert sum(learned) == 21_785_568
    assert sum(name.endswith("conv.weight") for name in shapes) == 94
    assert shapes["Mixed_5c.branch1x1.conv.weight"] == (64, 256, 1, 1)
    assert shapes["Mixed_6b.branch7x7dbl_2.conv.weight"] == (128, 128, 7, 1)
    assert shapes["Mixed_7a.branch3x3_2.conv.weight"] == (320, 192, 3, 3)
    assert shapes["Mixed_7c.branch_pool.conv.weight"] == (192, 2048, 1, 1)

    weights = inception_from_weights(arrays)
    images = jax.ShapeDtypeStruct((2, 32, 48, 1), jnp.float32)
    features = jax.eval_shape(inception_features, weights, images)
    assert features.shape == (2, inception.FEATURES)


@pytest.fixture
def small(monkeypatch):
    """A network of a few layers, on images of 7x7."""
    monkeypatch.setattr(inception, "SIDE", 7)
    monkeypatch.setattr(inception, "STEM", (Conv("stem", 2, (3, 3), 2, same=False),))
    block = (
        (Conv("one", 2),),
        (Conv("two", 3), Fork((Conv("a", 2, (1, 3)), Conv("b", 1, (3, 1))))),
        (inception.Pool("average"), Conv("three", 1)),
        (inception.Pool("max"),),
    )
    monkeypatch.setattr(inception, "BLOCKS", {"block": block})
    rng = np.random.default_rng(0)
    arrays = state_dict(lambda shape: rng.uniform(0.2, 1, shape) * rng.choice([-1, 1], shape))
    return {name: abs(a) if "running_var" in name else a for name, a in arrays.items()}


def by_hand(arrays, name, x, stride=1, same=True):
    """A convolution, its normalisation and ReLU, pixel by pixel."""
    kernel = arrays[f"{name}.conv.weight"]
    rows, columns = kernel.shape[2:]
    if same:
        edges = [(0, 0), (rows // 2, rows // 2), (columns // 2, columns // 2), (0, 0)]
        x = np.pad(x, edges)
    shape = [(n - k) // stride + 1 for n, k in zip(x.shape[1:3], (rows, columns), strict=True)]
    y = np.empty((len(x), *shape, len(kernel)))
    for i, j in np.ndindex(*shape):
        window = x[:, stride * i : stride * i + rows, stride * j : stride * j + columns]
        y[:, i, j] = np.einsum("brck,okrc->bo", window, kernel)
    gain, bias, mean, variance = (
        arrays[f"{name}.bn.{kind}"] for kind in ("weight", "bias", "running_mean", "running_var")
    )
    return np.maximum((y - mean) / np.sqrt(variance + 1e-3) * gain + bias, 0)


def test_blocks_by_hand(small):
    images = np.random.default_rng(1).uniform(size=(2, 7, 7, 3)).astype(np.float32)
    h = by_hand(small, "stem", 2 * np.float64(images) - 1, stride=2, same=False)
    assert h.shape == (2, 3, 3, 2)
    average, most = np.empty_like(h), np.empty_like(h)
    for i, j in np.ndindex(3, 3):
        window = h[:, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
        average[:, i, j], most[:, i, j] = window.mean((1, 2)), window.max((1, 2))
    two = by_hand(small, "block.two", h)
    parts = (
        by_hand(small, "block.one", h),
        by_hand(small, "block.a", two),
        by_hand(small, "block.b", two),
        by_hand(small, "block.three", average),
        most,
    )
    expected = np.concatenate(parts, axis=-1).mean((1, 2))
    found = jax.jit(inception_features)(inception_from_weights(small), images)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_images_are_resized_as_by_pytorch(small):
    # torch.nn.functional.interpolate(mode="bilinear", align_corners=False): of 14 pixels in a row
    # to 7, pixel i is the mean of 2i and 2i + 1; of 1 to 7, all are the same.
    weights = inception_from_weights(small)
    x = np.random.default_rng(1).uniform(size=(2, 14, 14, 3)).astype(np.float32)
    halves = x.reshape(2, 7, 2, 7, 2, 3).mean((2, 4))
    for given, same in ((x, halves), (x[:, :1, :1], np.broadcast_to(x[:, :1, :1], halves.shape))):
        np.testing.assert_allclose(
            inception_features(weights, given), inception_features(weights, same), rtol=1e-4
        )
    grey = inception_features(weights, x[..., :1])
    np.testing.assert_allclose(
        grey, inception_features(weights, np.repeat(x[..., :1], 3, -1)), rtol=1e-5
    )


def test_what_does_not_fit(small):
    with pytest.raises(ValueError, match=r"1 or 3\], got \(2, 7, 7, 2\)"):
        inception_features(inception_from_weights(small), np.zeros((2, 7, 7, 2)))
    name = "block.a.conv.weight"
    for change, message in (
        ({}, r"lack 'block\.a\.conv\.weight', \[2, 3, 1, 3\]"),
        ({name: np.zeros((2, 3, 3, 1))}, r"\[2, 3, 3, 1\], expected \[2, 3, 1, 3\]"),
        ({name: np.full((2, 3, 1, 3), np.nan)}, "is not finite"),
    ):
        arrays = {key: a for key, a in small.items() if key != name} | change
        with pytest.raises(ValueError, match=message):
            inception_from_weights(arrays)
