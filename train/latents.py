"""A trained run and its latents in a notebook: images to codes and codes to images, in batches.

    run = train.load("runs/scvae_photos")
    images = run.images(limit=64)
    code = run.encode(images)
    pictures = run.decode(code)

The methods of `Run` are the functions of this module.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from train.data.pipeline import evaluation_batches
from train.data.sources import load_source
from train.data.transforms import make_transform
from train.errors import UserError

BATCH = 128


class Run(NamedTuple):
    """A trained run.

    Attributes:
      model: the Flax module; `model.apply(variables, image, method="encode")` gives features.
      variables: parameters (averaged, where the run keeps an average) and codebooks.
      config: the run's config.
      step: steps it has been trained for.
      evaluation: what `evaluation.json` holds, "values" by name and "arrays"; None before the end.
    """

    model: nn.Module
    variables: dict[str, Any]
    config: ConfigDict
    step: int
    evaluation: dict[str, Any] | None = None

    @property
    def code_shape(self) -> tuple[int, ...]:
        """Shape of one example's code, `(positions..., units)`."""
        return abstract_code(self).shape[1:]

    def images(self, *, split: str = "test", limit: int = 0) -> np.ndarray:
        """Images of a split of the run's data; see `images`."""
        return images(self, split=split, limit=limit)

    def encode(self, images: np.ndarray) -> np.ndarray:
        """The code of images `[n, height, width, channels]`; see `encode`."""
        return encode(self, images)

    def decode(self, code: np.ndarray) -> np.ndarray:
        """Mean images of codes; see `decode`."""
        return decode(self, code)

    def reconstruct(self, images: np.ndarray) -> np.ndarray:
        """Images encoded and decoded again; see `reconstruct`."""
        return reconstruct(self, images)

    def sample(self, n: int, *, key: jax.Array) -> np.ndarray:
        """Decoded draws of codes; see `sample`."""
        return sample(self, n, key=key)

    def interpolate(self, a: np.ndarray, b: np.ndarray, *, steps: int = 8) -> np.ndarray:
        """Images from a's to b's; see `interpolate`."""
        return interpolate(self, a, b, weights=np.linspace(0, 1, steps))

    def traverse(
        self, image: np.ndarray, unit: int | tuple[int, ...], values: Sequence[float]
    ) -> np.ndarray:
        """An image with one entry of its code set to each of `values`; see `traverse`."""
        return traverse(self, image, unit, values)


def images(run: Run, *, split: str = "test", limit: int = 0) -> np.ndarray:
    """Images of a split of the run's data, as evaluation sees them.

    `[n, height, width, channels]`, of sequences `[n, frames, height, width, channels]`.

    Args:
      run: a trained run.
      split: "test" or "train".
      limit: how many, the first; 0: all.

    Raises:
      UserError: the data are not there, or the run is of codes.
    """
    if run.config.model.prior or run.config.model.second_stage:
        what = "a prior over" if run.config.model.prior else "a second stage of"
        raise UserError(
            f"{run.config.name} is {what} codes and has no images; name the run that encodes"
        )
    return examples(run, split=split, limit=limit)["image"]


def examples(run: Run, *, split: str = "test", limit: int = 0) -> dict[str, np.ndarray]:
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


def encode(run: Run, images: np.ndarray) -> np.ndarray:
    """The code of images: indices, sparse code, posterior mean; `[n, positions..., units]`.

    Args:
      run: a trained run.
      images: `[n, height, width, channels]`, of sequences `[n, frames, height, width, channels]`,
        uint8 or floating in [0, 1].

    Raises:
      ValueError: other shapes than the run's own.
    """
    wanted = image_shape(run.config)
    if np.shape(images)[1:] != wanted or not len(images):
        raise ValueError(
            f"images are {list(np.shape(images))}; expected [n, {', '.join(map(str, wanted))}], as "
            "the run was trained on: give one image as image[None]"
        )
    return in_batches(encoder(run.model), run.variables, images)


def decode(run: Run, code: np.ndarray) -> np.ndarray:
    """Mean images of codes such as `encode` gives, shaped as there, in [0, 1].

    Raises:
      ValueError: other shapes or kinds of numbers than `encode` gives, or an index that is no code.
    """
    known = abstract_code(run)
    code = np.asarray(code)
    whole = np.issubdtype(known.dtype, np.integer)
    right = np.issubdtype(code.dtype, np.integer if whole else np.floating)
    if code.shape[1:] != known.shape[1:] or not len(code) or not right:
        kind = "whole numbers" if whole else "floating numbers"
        raise ValueError(
            f"the code is {code.dtype} {list(code.shape)}; expected {kind} "
            f"[n, {', '.join(map(str, known.shape[1:]))}], as encode gives"
        )
    if whole and not 0 <= code.min() <= code.max() < run.model.bottleneck.codes:
        raise ValueError(
            f"the code's indices are {code.min()} to {code.max()}; there are "
            f"{run.model.bottleneck.codes} codes, from 0"
        )
    return in_batches(decoder(run.model, lead=lead(run)), run.variables, code)


def reconstruct(run: Run, images: np.ndarray) -> np.ndarray:
    """Images encoded and decoded again, in [0, 1]."""
    return decode(run, encode(run, images))


def latent(run: Run, code: np.ndarray) -> np.ndarray:
    """What the decoder reads of codes: of indices, their codewords; `[n, ..., depth]`."""
    return in_batches(_looker(run.model), run.variables, code)


def sample(run: Run, n: int, *, key: jax.Array) -> np.ndarray:
    """Images decoded from n drawn codes, in [0, 1].

    Of a bottleneck with a prior (Gaussian, partitioned, topographic) the code is drawn from that.
    Indices have none before one is trained: each is drawn by itself, as often as its codebook's
    codes occur in the test split (`evaluation.json`), so that nothing arranges them.

    Args:
      run: a trained run.
      n: how many.
      key: of the draws.

    Raises:
      ValueError: n is below 1.
      UserError: the codes are neither indices nor have a prior, or the run has no code counts.
    """
    if n < 1:
        raise ValueError(f"n is {n}; expected 1 or more images")
    bottleneck, shape = run.model.bottleneck, (n, *run.code_shape)
    if hasattr(bottleneck, "draw_prior"):
        draw = _prior_drawer(run.model, shape)
        return decode(run, np.asarray(draw(run.variables, key)))
    if not np.issubdtype(abstract_code(run).dtype, np.integer):
        raise UserError(
            f"{run.config.name} has codes without a prior to draw them from "
            f"({type(bottleneck).__name__}): fit a distribution to run.encode(images) and decode "
            "draws of it by run.decode, or change the code of an image by run.traverse"
        )
    counts = (run.evaluation or {}).get("arrays", {}).get("code_counts")
    if counts is None:
        raise UserError(
            f"{run.config.name} has no counts of its codes to draw by: name 'codes' in "
            "evaluation.evaluators, and let the run come to its end"
        )
    return decode(run, draw_by_counts(key, np.asarray(counts), shape))


def draw_by_counts(key: jax.Array, counts: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Indices drawn one by one, each as often as its codebook's codes were counted.

    Args:
      key: of the draws.
      counts: `[codebooks, K]`.
      shape: `[n, positions..., codebooks]`.

    Returns:
      int32 of that shape.
    """
    logits = jnp.log(jnp.asarray(counts, jnp.float32))
    drawn = [
        jax.random.categorical(jax.random.fold_in(key, i), row, shape=shape[:-1])
        for i, row in enumerate(logits)
    ]
    return np.stack(drawn, axis=-1).astype(np.int32)


def interpolate(
    run: Run, first: np.ndarray, last: np.ndarray, *, weights: Sequence[float]
) -> np.ndarray:
    """Images of (1 - w) z_first + w z_last for each weight w.

    z is the code, and of indices what the decoder reads, their codewords: what lies between two of
    these is no code, and only the ends are what the run can send.

    Args:
      run: a trained run.
      first: `[height, width, channels]`, or a sequence of such frames.
      last: like `first`.
      weights: w.

    Returns:
      `[len(weights), height, width, channels]` in [0, 1].

    Raises:
      ValueError: an image's shape is not the run's.
    """
    a, b = _single(run, first, "the first image"), _single(run, last, "the last image")
    z = encode(run, np.stack([a, b]))
    w = np.asarray(weights, np.float32).reshape(-1, *[1] * (z.ndim - 1))
    if not np.issubdtype(z.dtype, np.integer):
        return decode(run, (1 - w) * z[0] + w * z[1])
    z = latent(run, z)
    between = (1 - w) * z[0] + w * z[1]
    return in_batches(decoder(run.model, lead=lead(run), coded=False), run.variables, between)


def traverse(
    run: Run, image: np.ndarray, unit: int | tuple[int, ...], values: Sequence[float]
) -> np.ndarray:
    """Images decoded from an image's code with one entry set to each of `values`.

    Args:
      run: a trained run.
      image: `[height, width, channels]`, or a sequence of such frames.
      unit: which entry: a place in `run.code_shape`, or its number counted row by row.
      values: of that entry; of indices, which codes.

    Returns:
      `[len(values), height, width, channels]` in [0, 1].

    Raises:
      ValueError: the image's shape is not the run's, or there is no such entry or code.
    """
    code = encode(run, _single(run, image, "the image")[None])
    place = _place(unit, code.shape[1:])
    code = np.repeat(code, len(values), axis=0)
    if np.issubdtype(code.dtype, np.integer) and not np.all(np.mod(values, 1) == 0):
        raise ValueError(f"the values are {list(values)}; the run's codes are whole numbers")
    code[(slice(None), *place)] = values
    return decode(run, code)


def _place(unit: int | tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The place of an entry given by number or place."""
    whole = math.prod(shape)
    if isinstance(unit, tuple):
        if len(unit) == len(shape) and all(0 <= u < s for u, s in zip(unit, shape, strict=True)):
            return unit
    elif 0 <= unit < whole:
        return tuple(int(i) for i in np.unravel_index(unit, shape))
    raise ValueError(f"unit is {unit}; the code is {list(shape)}: 0 to {whole - 1}, or a place")


def _single(run: Run, image: np.ndarray, what: str) -> np.ndarray:
    """One image (or sequence) of the run's shape."""
    wanted = image_shape(run.config)
    if np.shape(image) != wanted:
        raise ValueError(
            f"{what} is {list(np.shape(image))}; expected {list(wanted)}, without a batch"
        )
    return np.asarray(image)


def image_shape(config: ConfigDict) -> tuple[int, ...]:
    """Of one example: an image, a sequence of them, or as many samples of speech."""
    if config.model.speech:
        return (config.data.samples,)
    frames = (config.data.frames,) if config.data.frames else ()
    return (*frames, *config.model.image_shape)


def lead(run: Run) -> int:
    """Axes of a batch before those of an image: examples, and frames of a sequence."""
    return 2 if run.config.data.frames else 1


def abstract_code(run: Run) -> jax.ShapeDtypeStruct:
    """Shape `[1, positions..., units]` and dtype of a code, without computing one."""
    image = jax.ShapeDtypeStruct((1, *image_shape(run.config)), jnp.float32)
    return jax.eval_shape(encoder(run.model), run.variables, image)


@functools.cache
def encoder(model: nn.Module) -> Any:
    """`(variables, images) -> code`."""

    def code(module: nn.Module, image: jax.Array) -> jax.Array:
        return module.bottleneck(module.encode(image), train=False).code

    return jax.jit(lambda variables, image: model.apply(variables, image, method=code))


@functools.cache
def decoder(model: nn.Module, *, lead: int, coded: bool = True) -> Any:
    """`(variables, code) -> mean images`; with `coded` False, of latents.

    The first `lead` axes are batch (and time).
    """

    def mean(module: nn.Module, z: jax.Array) -> jax.Array:
        output = module.decode(module.bottleneck.look_up(z) if coded else z, lead=lead)
        return jnp.clip(module.likelihood.mean(output), 0, 1)

    return jax.jit(lambda variables, z: model.apply(variables, z, method=mean))


@functools.cache
def _looker(model: nn.Module) -> Any:
    def look_up(module: nn.Module, code: jax.Array) -> jax.Array:
        return module.bottleneck.look_up(code)

    return jax.jit(lambda variables, code: model.apply(variables, code, method=look_up))


@functools.cache
def _prior_drawer(model: nn.Module, shape: tuple[int, ...]) -> Any:
    def draw(module: nn.Module, key: jax.Array) -> jax.Array:
        return module.bottleneck.draw_prior(key, shape)

    return jax.jit(lambda variables, key: model.apply(variables, key, method=draw))


def in_batches(function: Any, variables: Any, x: np.ndarray) -> np.ndarray:
    """`function(variables, x)` of all rows of x, in batches of one size: compiled once."""
    size = min(BATCH, len(x))
    parts = []
    for start in range(0, len(x), size):
        part = np.asarray(x[start : start + size])
        padded = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
        parts.append(np.asarray(function(variables, padded))[: len(part)])
    return np.concatenate(parts)
