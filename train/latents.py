"""A trained run's latents in a notebook: images to codes and codes to images, in batches.

run = train.load("runs/scvae_photos")
images = latents.images(run, limit=64)
code = latents.encode(run, images)
pictures = latents.decode(run, code)
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from train import runs
from train.data.pipeline import evaluation_batches
from train.data.sources import load_source
from train.data.transforms import make_transform

BATCH = 128


def images(run: runs.Run, *, split: str = "test", limit: int = 0) -> np.ndarray:
    """Images of a split of the run's data, as evaluation sees them.

    `[n, height, width, channels]`, of sequences `[n, frames, height, width, channels]`.

    Args:
      run: a trained run.
      split: "test" or "train".
      limit: how many, the first; 0: all.

    Raises:
      UserError: the data are not there.
    """
    return examples(run, split=split, limit=limit)["image"]


def examples(run: runs.Run, *, split: str = "test", limit: int = 0) -> dict[str, np.ndarray]:
    """All that the examples of a split hold, such as "image" and "label", as in `images`."""
    source = load_source(run.config.data, split)
    transform = make_transform(run.config.data, split)
    found: dict[str, list[np.ndarray]] = {}
    count = 0
    for batch in evaluation_batches(source, batch_size=BATCH, transform=transform):
        real = np.asarray(batch.pop("mask")) > 0
        for name, value in batch.items():
            found.setdefault(name, []).append(np.asarray(value)[real])
        count += int(real.sum())
        if 0 < limit <= count:
            break
    whole = {name: np.concatenate(parts) for name, parts in found.items()}
    return {name: value[: limit or None] for name, value in whole.items()}


def encode(run: runs.Run, images: np.ndarray) -> np.ndarray:
    """The code of images: indices, sparse code, posterior mean; `[n, positions..., units]`."""
    return in_batches(_encoder(run.model), run.variables, images)


def decode(run: runs.Run, code: np.ndarray) -> np.ndarray:
    """Mean images of codes such as `encode` gives, shaped as there, in [0, 1]."""
    lead = 2 if run.config.data.frames else 1
    return in_batches(_decoder(run.model, lead), run.variables, code)


def reconstruct(run: runs.Run, images: np.ndarray) -> np.ndarray:
    """Images encoded and decoded again, in [0, 1]."""
    return decode(run, encode(run, images))


@functools.cache
def _encoder(model: nn.Module) -> Any:
    def code(module: nn.Module, image: jax.Array) -> jax.Array:
        return module({module.key: image}, train=False).code

    return jax.jit(lambda variables, image: model.apply(variables, image, method=code))


@functools.cache
def _decoder(model: nn.Module, lead: int) -> Any:
    def mean(module: nn.Module, code: jax.Array) -> jax.Array:
        output = module.decode(module.bottleneck.look_up(code), lead=lead)
        return jnp.clip(module.likelihood.mean(output), 0, 1)

    return jax.jit(lambda variables, code: model.apply(variables, code, method=mean))


def in_batches(function: Any, variables: Any, x: np.ndarray) -> np.ndarray:
    """`function(variables, x)` of all rows of x, in batches of one size: compiled once."""
    size = min(BATCH, len(x))
    parts = []
    for start in range(0, len(x), size):
        part = np.asarray(x[start : start + size])
        padded = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
        parts.append(np.asarray(function(variables, padded))[: len(part)])
    return np.concatenate(parts)
