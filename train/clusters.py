"""What the clusters of runs have in common with labels: `python -m train.clusters --workdir W`.

    python -m train.clusters --workdir runs/cvvae_digits --workdir runs/vqvae_digits

The cluster of a position is its longest capsule, argmax_j |v_j|, in a CV-VAE or CVGAN, and its code
in a VQ-VAE or VQGAN. Beside them stand k-means of the encoder's features, of each run and with as
many clusters as any of the runs has, and of the pixels of each position. The means are fitted to
positions of training images; all figures are of test images.

Labels of a position:

- class: that of its image, where the data have classes;
- ink: of images of one channel, whether the mean of its pixels is above 1/2;
- region, with `--images FOLDER` of annotated photographs (laid out as BSDS500): where a person saw
  the pixel in its middle. Photographs are cut to whole cells and encoded at once, and the means are
  fitted to their own positions. Each photograph is measured alone and against every person; figures
  are means over people, then over photographs.

Each figure stands beside that of the same labels in random order. NMI and purity rise with the
number of clusters: compare equal numbers. `clusters.json` in the first run's folder holds all.
"""

import functools
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import linen as nn

from models.cvvae import CapsuleRouter, capsule_index
from models.likelihoods import to_unit
from models.vqvae import VectorQuantizer
from train import cli, latents, parallel, patch_features, runs
from train.data.annotated import find_annotated
from train.errors import UserError
from train.metrics.clusters import ORDERS, Agreement, agreement
from train.progress import watched
from train.segment import read_whole_cells
from train.writers import write_whole

IMAGES = 2000  # of the test split, the first
FITTED = 20_000  # positions that means are fitted to
SEED = 0

# Images `[n, height, width, channels]` to int `[n, rows, columns]`, the clusters of positions.
Clusterer = Callable[[np.ndarray], np.ndarray]


class Coded(NamedTuple):
    """What a run makes of images at each position.

    Attributes:
      index: int32 `[n, rows, columns]`, the cluster.
      features: float32 `[n, rows, columns, features]`, the encoder's, before the bottleneck.
    """

    index: np.ndarray
    features: np.ndarray


def clusters_of(run: runs.Run) -> int:
    """How many clusters a run's index maps have.

    Raises:
      UserError: the run's code is no map of single indices.
    """
    bottleneck = run.model.bottleneck
    if isinstance(bottleneck, CapsuleRouter) and bottleneck.mode == "agreement":
        return bottleneck.outputs
    if isinstance(bottleneck, VectorQuantizer) and bottleneck.codebooks == 1:
        return bottleneck.codes
    raise UserError(
        f"{run.config.name} has no index map: expected capsules that compete (mode 'agreement') or "
        "codes of one codebook"
    )


def code_images(run: runs.Run, images: np.ndarray) -> Coded:
    """Index maps and features of images `[n, height, width, channels]`."""
    parts = [
        jax.device_get(_coder(run.model)(run.variables, images[start : start + latents.BATCH]))
        for start in range(0, len(images), latents.BATCH)
    ]
    return Coded(*(np.concatenate(part) for part in zip(*parts, strict=True)))


@functools.cache
def _coder(model: nn.Module) -> Callable[[Any, Any], list[jax.Array]]:
    """`(variables, images) -> [index, features]`; positions in one row stay in one row."""

    def code(module: nn.Module, image: jax.Array) -> list[jax.Array]:
        features = module.encode(image)
        code = module.bottleneck(features, train=False).code
        routed = isinstance(module.bottleneck, CapsuleRouter)
        index = capsule_index(code) if routed else code[..., 0]
        return [
            x.reshape(len(image), *((1,) * (4 - features.ndim)), *x.shape[1:])
            for x in (index, features.astype(jnp.float32))
        ]

    return jax.jit(lambda variables, image: model.apply(variables, image, method=code))


def k_means(
    features: Callable[[np.ndarray], np.ndarray], fitted: Sequence[np.ndarray], *, clusters: int
) -> Clusterer:
    """Clusters positions by k-means, the best of three starts.

    Args:
      features: images to what is clustered, `[n, rows, columns, features]`.
      fitted: batches of images; the means are fitted to 20,000 of their positions, as many of each.
      clusters: how many.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    random = np.random.default_rng(SEED)

    def drawn(batch: np.ndarray) -> np.ndarray:
        rows = features(batch)
        rows = rows.reshape(-1, rows.shape[-1])
        return rows[random.permutation(len(rows))[: FITTED // len(fitted)]]

    rows = np.concatenate([drawn(batch) for batch in fitted]).astype(np.float64)
    means = KMeans(min(clusters, len(rows)), n_init=3, max_iter=100, random_state=SEED)
    with threadpool_limits(1), warnings.catch_warnings():
        # Fewer kinds of positions than clusters: some clusters stay empty, and that is well.
        warnings.simplefilter("ignore", ConvergenceWarning)
        means.fit(rows)

    def nearest(images: np.ndarray) -> np.ndarray:
        x = features(images)
        with threadpool_limits(1):
            found = means.predict(x.reshape(-1, x.shape[-1]).astype(np.float64))
        return found.reshape(x.shape[:-1])

    return nearest


def cells(images: np.ndarray, *, stride: int) -> np.ndarray:
    """The pixels in [0, 1] of each position: `[n, rows, columns, stride * stride * channels]`."""
    n, height, width, channels = images.shape
    rows, columns = height // stride, width // stride
    x = np.asarray(to_unit(images), np.float32)
    x = x.reshape(n, rows, stride, columns, stride, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, rows, columns, -1)


def stride_of(run: runs.Run) -> int:
    """Pixels from one position of a run's index map to the next.

    Raises:
      UserError: the positions are no grid of square cells.
    """
    shape = run.config.model.image_shape
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    index, _ = jax.eval_shape(_coder(run.model), run.variables, image)
    stride = shape[0] // index.shape[1]
    if index.ndim != 3 or (stride * index.shape[1], stride * index.shape[2]) != tuple(shape[:2]):
        raise UserError(
            f"{run.config.name} makes {list(index.shape[1:])} codes of an image of {shape[0]}x"
            f"{shape[1]}; expected a grid of positions, as of a convolutional backbone"
        )
    return stride


def ways(
    loaded: Mapping[str, runs.Run], fitted: Sequence[np.ndarray], *, stride: int
) -> dict[str, Clusterer]:
    """The runs' own clusters and those of k-means, by name.

    Args:
      loaded: the runs, by name.
      fitted: batches of images that means are fitted to.
      stride: pixels from one position to the next.
    """
    sizes = sorted({clusters_of(run) for run in loaded.values()})
    found: dict[str, Clusterer] = {}
    for name, run in loaded.items():
        routed = isinstance(run.model.bottleneck, CapsuleRouter)
        what = "longest capsule" if routed else "code"
        found[f"{name}: {what} ({clusters_of(run)})"] = functools.partial(_index, run)
        for k in sizes:
            features = functools.partial(_features, run)
            found[f"{name}: k-means of features ({k})"] = k_means(features, fitted, clusters=k)
    pixels = functools.partial(cells, stride=stride)
    for k in sizes:
        found[f"k-means of pixels ({k})"] = k_means(pixels, fitted, clusters=k)
    return found


def _index(run: runs.Run, images: np.ndarray) -> np.ndarray:
    return code_images(run, images).index


def _features(run: runs.Run, images: np.ndarray) -> np.ndarray:
    return code_images(run, images).features


def position_labels(examples: Mapping[str, np.ndarray], *, stride: int) -> dict[str, np.ndarray]:
    """Labels without annotation, those there are: "class" `[n]`, "ink" `[n, rows, columns]`."""
    labels = {}
    if "label" in examples:
        labels["class"] = np.unique(examples["label"], return_inverse=True)[1].reshape(-1)
    if examples["image"].shape[-1] == 1:
        ink = cells(examples["image"], stride=stride).mean(axis=-1) > 0.5
        labels["ink"] = ink.astype(np.int64)
    return labels


def table(found: Mapping[str, Agreement]) -> str:
    """A line for each way of clustering; the number behind it says how many clusters there are."""
    width = max(map(len, found))
    heads = ("in use", "NMI", "by chance", "purity", "by chance")
    lines = [" " * width + "".join(f"{head:>11}" for head in heads)]
    for name, a in found.items():
        values = (a.nmi, a.nmi_by_chance, a.purity, a.purity_by_chance)
        lines.append(
            f"{name:{width}}{a.clusters:>11.6g}" + "".join(f"{value:>11.4f}" for value in values)
        )
    return "\n".join(lines)


def load_runs(workdirs: Sequence[str]) -> dict[str, runs.Run]:
    """The runs, by the names of their folders.

    Raises:
      UserError: a folder is given twice, a run has no index map, or other images or positions.
    """
    names = runs.short_names(workdirs)
    loaded = {name: runs.load(each) for name, each in zip(names, workdirs, strict=True)}
    for run in loaded.values():
        clusters_of(run)
    grids = {n: (*run.config.model.image_shape, stride_of(run)) for n, run in loaded.items()}
    if len(set(grids.values())) > 1:
        raise UserError(
            "runs of different grids cannot be compared; height, width, channels of an image and "
            f"pixels a position: {grids}"
        )
    return loaded


def of_images(loaded: Mapping[str, runs.Run], *, stride: int) -> dict[str, dict[str, Agreement]]:
    """Figures against the labels of the first run's test images, by label and way of clustering."""
    run = next(iter(loaded.values()))
    examples = latents.examples(run, limit=IMAGES)
    labels = position_labels(examples, stride=stride)
    if not labels:
        return {}
    fitted = latents.images(run, split="train", limit=IMAGES)
    found: dict[str, dict[str, Agreement]] = {label: {} for label in labels}
    for name, clusterer in ways(loaded, [fitted], stride=stride).items():
        index = clusterer(examples["image"])
        for label, truth in labels.items():
            found[label][name] = agreement(index, truth)
    return found


def of_photographs(
    loaded: Mapping[str, runs.Run], folder: str, *, stride: int, limit: int = 0
) -> dict[str, Agreement]:
    """Figures against people's regions, by way of clustering: means over people and photographs."""
    for run in loaded.values():
        patch_features.check_any_size(run)
    places = find_annotated(folder)[: limit or None]
    photographs = [
        read_whole_cells(place, stride=stride, side=stride, clusters=1)
        for place in watched(places, total=len(places))
    ]
    clusterers = ways(loaded, [p.image[None] for p in photographs], stride=stride)
    middle = slice(stride // 2, None, stride)
    found: dict[str, Agreement] = {}
    for name, clusterer in clusterers.items():
        each = []
        for photograph in photographs:
            index = clusterer(photograph.image[None])[0]
            people = [agreement(index, truth[middle, middle]) for truth in photograph.truths]
            each.append(np.mean(people, axis=0))
        found[name] = Agreement(*np.mean(each, axis=0).tolist())
    return found


def main(_: list[str]) -> None:
    """Prints and writes the figures of the runs."""
    options: Any = flags.FLAGS
    loaded = load_runs(options.workdir)
    stride = stride_of(next(iter(loaded.values())))
    found = of_images(loaded, stride=stride)
    if options.images:
        found["region"] = of_photographs(loaded, options.images, stride=stride, limit=options.limit)
    if not found:
        raise UserError(
            "the data of the first run have no labels; give --images, a folder with images/ and "
            "ground_truth/, as BSDS500"
        )
    if not parallel.is_first_process():
        return
    for label, measured in found.items():
        print(f"against {label}\n{table(measured)}\n")
    content = {
        "runs": list(options.workdir),
        "orders": ORDERS,
        "labels": {
            label: {name: a._asdict() for name, a in measured.items()}
            for label, measured in found.items()
        },
    }
    path = runs.folder(options.workdir[0]) / "clusters.json"
    write_whole(path, json.dumps(content, indent=2) + "\n")
    print(f"written: {path}")


if __name__ == "__main__":
    flags.DEFINE_multi_string("workdir", None, "folder of a run; several may be given, in turn")
    flags.DEFINE_string("images", None, "folder with images/*.jpg and ground_truth/*.mat")
    flags.DEFINE_integer("limit", 0, "photographs, the first ones; 0: all", lower_bound=0)
    cli.run(main)
