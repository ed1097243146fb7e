"""The floor under the error of a decoder that copies its pixels, over a data set."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from models.backbones import build_backbone
from train.errors import UserError
from train.metrics.subresolution import subresolution_evaluator


def model(shape=(8, 12, 1), name="partition", **options):
    _, decoder = build_backbone(name, output_shape=shape, **options)
    return SimpleNamespace(decoder=decoder, key="image")


def floor(image, **options):
    evaluator = subresolution_evaluator()
    batch = {"image": image, "mask": np.array([1.0] * (len(image) - 1) + [0.0], np.float32)}
    key = jax.random.key(0)
    return evaluator.summary(evaluator.sums(model(image.shape[1:], **options), None, batch, key))


@pytest.mark.parametrize("additive", [{}, {"partitions": (2, 1), "decoder_convs": ()}], ids=str)
def test_floor_of_the_real_rows(additive):
    image = np.random.default_rng(0).integers(0, 256, (5, 8, 12, 1), dtype=np.uint8)
    blocks = image.reshape(5, 4, 2, 6, 2) / 255
    expected = ((blocks - blocks.mean(axis=(2, 4), keepdims=True)) ** 2).reshape(5, -1).mean(1)
    found = floor(image, subresolution=2, **additive)
    assert found == {"mse_floor": pytest.approx(expected[:4].mean(), rel=1e-5)}
    assert floor(image, subresolution=1, **additive) == {"mse_floor": 0}


def test_only_where_pixels_are_copied():
    image = np.zeros((2, 8, 8, 1), np.uint8)
    for options in ({"upsample": "bilinear"}, {"name": "mlp"}):
        with pytest.raises(UserError, match="needs a decoder that copies pixels"):
            floor(image, **options)
