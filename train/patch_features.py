"""What the patches of a photograph look like to a trained run, and to controls without learning.

A patch belongs to one position of the run's grid: the image is cut into cells of `stride` pixels a
side. All functions give float32 `[height / stride, width / stride, features]` of one photograph.
"""

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from train import runs
from train.errors import UserError

Features = Callable[[np.ndarray], np.ndarray]


class Encoder(NamedTuple):
    """What a run makes of whole photographs.

    Attributes:
      features: uint8 `[height, width, 3]` to `[height / stride, width / stride, depth]`; height and
        width are multiples of the stride.
      stride: pixels from one position to the next.
      depth: of the latent, which the decoder reads.
    """

    features: Features
    stride: int
    depth: int


def run_encoder(run: runs.Run) -> Encoder:
    """The run's encoder and bottleneck, applied to a photograph of any size at once.

    The features are the bottleneck's code: posterior means, signed sparse codes. Where the code is
    of whole numbers, which have no distances, they are the latent: the codewords.

    Raises:
      UserError: the run is not of RGB images, or has no grid of positions.
    """
    name = run.config.name
    height, width, channels = run.config.model.image_shape
    if channels != 3:
        raise UserError(f"{name} was trained on images of {channels} channels; expected 3, RGB")

    @jax.jit
    def squeeze(image: jax.Array) -> tuple[jax.Array, jax.Array]:
        output = run.model.apply(
            run.variables, image[None], method=lambda m, x: m.bottleneck(m.encode(x), train=False)
        )
        discrete = jnp.issubdtype(output.code.dtype, jnp.integer)
        features = output.latent if discrete else output.code
        return features[0].astype(jnp.float32), output.latent[0]

    own = jax.ShapeDtypeStruct((height, width, 3), jnp.uint8)
    code, latent = (x.shape for x in jax.eval_shape(squeeze, own))
    stride = height // code[0]
    if len(code) != 3 or (height, width) != (stride * code[0], stride * code[1]):
        raise UserError(
            f"the code of {name} is {list(code)} for an image; expected a grid of positions, "
            "[height, width, features], as of a convolutional backbone"
        )
    check_any_size(run)
    return Encoder(lambda image: np.asarray(squeeze(image)[0]), stride, latent[-1])


def check_any_size(run: runs.Run) -> None:
    """Refuses a run whose encoder has other layers for images of another size.

    Raises:
      UserError: attention at some grid heights alone is elsewhere in a larger image.
    """
    height, width, channels = run.config.model.image_shape
    larger = jax.ShapeDtypeStruct((1, 2 * height, 3 * width, channels), jnp.uint8)
    start = functools.partial(run.model.init, method="encode")
    found = jax.eval_shape(start, jax.random.key(0), larger)["params"]["encoder"]
    trained = run.variables["params"]["encoder"]
    if jax.tree.map(jnp.shape, found) != jax.tree.map(jnp.shape, trained):
        raise UserError(
            f"the backbone of {run.config.name} has other layers for images that are not "
            f"{height}x{width}; whole photographs need one that has the same at any size, such as "
            "convnet"
        )


def unit_length(features: np.ndarray) -> np.ndarray:
    """The features of each position, divided by their norm; 0 stays 0."""
    norm = np.linalg.norm(features, axis=-1, keepdims=True)
    return features / np.where(norm > 0, norm, 1)


def pooled(features: np.ndarray, *, side: int) -> np.ndarray:
    """The mean over the `side` x `side` positions around each; at an edge, its own are repeated."""
    from scipy.ndimage import uniform_filter

    return uniform_filter(features, size=(side, side, 1), mode="nearest")


def patches(image: np.ndarray, *, stride: int, side: int) -> np.ndarray:
    """The pixels in [0, 1] of the `side` x `side` window around each cell, row by row.

    Over the edge, the image is reflected. `side` - `stride` is even and not negative.
    """
    beyond = (side - stride) // 2
    around = ((beyond, beyond), (beyond, beyond), (0, 0))
    image = np.pad((image / np.float32(255)).astype(np.float32), around, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(image, (side, side), axis=(0, 1))
    windows = windows[::stride, ::stride].transpose(0, 1, 3, 4, 2)
    return windows.reshape(*windows.shape[:2], -1)


def mean_colour(image: np.ndarray, *, stride: int) -> np.ndarray:
    """The mean colour of each cell, in [0, 1]."""
    height, width, channels = image.shape
    cells = image.reshape(height // stride, stride, width // stride, stride, channels)
    return cells.mean(axis=(1, 3), dtype=np.float32) / np.float32(255)


def principal_components(
    images: Iterable[np.ndarray], *, stride: int, side: int, depth: int, seed: int
) -> Features:
    """Codes of the patches by their first `depth` principal components.

    The components are those of some patches of each of the photographs given, 100 drawn at random.
    """
    from sklearn.decomposition import PCA

    random = np.random.default_rng(seed)

    def drawn(image: np.ndarray) -> np.ndarray:
        rows = patches(image, stride=stride, side=side)
        rows = rows.reshape(-1, rows.shape[-1])
        return rows[random.choice(len(rows), min(100, len(rows)), replace=False)]

    rows = np.concatenate([drawn(image) for image in images])
    depth = min(depth, *rows.shape)
    pca = PCA(depth, svd_solver="randomized", random_state=seed).fit(rows)

    def features(image: np.ndarray) -> np.ndarray:
        x = patches(image, stride=stride, side=side)
        return pca.transform(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:2], -1)

    return features
