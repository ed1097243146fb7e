"""Unsupervised segmentation by clustering patch codes: `python -m train.segment --workdir W ...`.

    python -m train.segment --workdir runs/scvae_photos --workdir runs/vqvae_photos --images BSDS

Xiao et al. 2025 cluster the codes of patches to segment images; their protocol is not published,
and this one is ours. Each photograph, cut at the right and below to whole cells, is encoded at
once by encoder and bottleneck. Its positions are clustered by k-means, each photograph alone, and
a pixel belongs to the cluster of its cell. The figures are those of `train.metrics.segmentation`
against every annotator, averaged over people, then over photographs. Nothing is fitted to the
annotations, and a cluster may lie in several places, where people drew several regions. The table
and `segmentation.json`, `pictures/segmentation.png` in the first run's folder hold the results.

Every method is given the same grid, the same k-means and the same pooling, three views of it:
the features of a position; "pooled", their mean over 5x5 positions; "magnitudes", the mean of
their absolute values there. Codes have length 1 at each position, those of the controls too.
The controls: principal components of patches (as many as the first run's latent is deep, fitted
to the photographs themselves), the patches' pixels, the cells' mean colours, a regular grid of k
blocks, and clusters drawn at random.
"""

import functools
import json
import math
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from etils import epath

from train import cli, parallel, patch_features, pictures, runs
from train.data.annotated import Annotated, Place, find_annotated, read_annotated
from train.errors import UserError
from train.metrics import segmentation
from train.patch_features import Encoder, Features
from train.progress import watched
from train.writers import write_whole

SEED = 0
POOL = 5  # positions a side
FITTED = 2000  # positions of a photograph that its clusters are fitted to; all of them are assigned
CONTROLS = ("components", "patches", "colour")
REFERENCE = "colour, pooled"
SHOWN = 5  # photographs in the picture
SHRINK = 2  # of their sides there

# For one number of clusters: of each photograph, figures by name, by method.
Scores = list[dict[str, dict[str, float]]]


class Method(NamedTuple):
    """A way to describe positions; `coded`: by codes, which are clustered at length 1."""

    features: Features
    coded: bool


def cluster(features: np.ndarray, *, clusters: int, seed: int = SEED) -> np.ndarray:
    """Clusters the positions of one photograph by k-means, the best of three starts.

    Args:
        features: `[height, width, features]`.
        clusters: k.
        seed: of the starts, and of the 2,000 positions that the means are fitted to.

    Returns:
        int32 `[height, width]`: the nearest mean of each position, from 0.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    rows = features.reshape(-1, features.shape[-1])
    used = rows.any(axis=0)
    rows = rows[:, used] if used.any() else rows  # atoms that a photograph does not use
    random = np.random.default_rng(seed)
    some = random.choice(len(rows), min(FITTED, len(rows)), replace=False)
    # On so few rows threads wait for each other longer than they compute.
    with threadpool_limits(1), warnings.catch_warnings():
        # Fewer kinds of positions than clusters: some clusters stay empty, and that is well.
        warnings.simplefilter("ignore", ConvergenceWarning)
        means = KMeans(clusters, n_init=3, max_iter=100, random_state=seed).fit(rows[some])
        return means.predict(rows).reshape(features.shape[:2])


def blocks(height: int, width: int, clusters: int) -> np.ndarray:
    """A regular grid of blocks `[height, width]`, as near to squares as their number allows."""
    few = max(n for n in range(1, math.isqrt(clusters) + 1) if clusters % n == 0)
    rows, columns = (few, clusters // few) if height <= width else (clusters // few, few)
    row, column = np.arange(height) * rows // height, np.arange(width) * columns // width
    return row[:, None] * columns + column


def views(features: np.ndarray, *, coded: bool) -> dict[str, np.ndarray]:
    """What is clustered of a method's features `[height, width, features]`, by the view's name.

    Codes get length 1 and the view of their magnitudes; pixels and colours are not negative.
    """
    x = patch_features.unit_length(features) if coded else features
    found = {"": x, ", pooled": patch_features.pooled(x, side=POOL)}
    if coded:
        found[", magnitudes"] = patch_features.pooled(np.abs(x), side=POOL)
    return found


def segment(
    image: np.ndarray, methods: dict[str, Method], *, stride: int, clusters: Sequence[int]
) -> dict[int, dict[str, np.ndarray]]:
    """Cuts one photograph into segments by every method and view, and by the blind controls.

    Args:
        image: uint8 `[height, width, 3]`, of whole cells.
        methods: by name.
        stride: side of a cell in pixels.
        clusters: numbers of clusters.

    Returns:
        Number of clusters to method to label map `[height, width]`, from 0.
    """
    height, width = image.shape[0] // stride, image.shape[1] // stride
    labels: dict[int, dict[str, np.ndarray]] = {k: {} for k in clusters}
    for name, method in methods.items():
        for view, x in views(method.features(image), coded=method.coded).items():
            for k in clusters:
                labels[k][name + view] = cluster(x, clusters=k)
    random = np.random.default_rng(SEED)
    for k in clusters:
        labels[k]["grid of blocks"] = blocks(height, width, k)
        labels[k]["at random"] = random.integers(0, k, (height, width))
    return {
        k: {name: map_.repeat(stride, 0).repeat(stride, 1) for name, map_ in found.items()}
        for k, found in labels.items()
    }


def table(scores: Scores) -> str:
    """Means over the photographs, a line for each method, the one with the highest ARI first.

    The last column is the difference of its ARI to that of the pooled colours on the same
    photograph: mean and standard error of the mean.
    """
    figures = (*segmentation.FIGURES, *(f"best_{name}" for name in ("miou", "dice", "ari")))
    means = {m: {f: np.mean([s[m][f] for s in scores]) for f in figures} for m in scores[0]}
    width = max(map(len, means))
    heads = [f.replace("_", " ") for f in figures]
    lines = [" " * width + "".join(f"{h:>10}" for h in heads) + "  ari - pooled colour"]
    for method in sorted(means, key=lambda m: -means[m]["ari"]):
        apart = np.array([s[method]["ari"] - s[REFERENCE]["ari"] for s in scores])
        error = apart.std(ddof=1) / math.sqrt(len(apart)) if len(apart) > 1 else math.nan
        values = "".join(f"{means[method][f]:>10.3f}" for f in figures)
        lines.append(f"{method:{width}}{values}  {apart.mean():>+8.3f} +- {error:.3f}")
    return "\n".join(lines)


def read_whole_cells(place: Place, *, stride: int, side: int, clusters: int) -> Annotated:
    """A photograph and its maps, without the last rows and columns that fill no cell.

    Raises:
      UserError: it cannot be read, or is too small for patches of `side` or so many `clusters`.
    """
    name, image, truths = read_annotated(place)
    rows, columns = image.shape[0] // stride, image.shape[1] // stride
    if min(image.shape[:2]) < side or rows * columns < clusters:
        raise UserError(
            f"{place.image} is {image.shape[0]}x{image.shape[1]}, too small for patches of {side} "
            f"or for {clusters} clusters of its {rows}x{columns} cells"
        )
    cut = (slice(rows * stride), slice(columns * stride))
    return Annotated(name, image[cut], tuple(truth[cut] for truth in truths))


def load_encoders(workdirs: Sequence[str]) -> dict[str, Encoder]:
    """The runs' encoders, by the names of their folders.

    Raises:
      UserError: a folder has no run, is given twice, or has another method's name; grids differ.
    """
    encoders: dict[str, Encoder] = {}
    for name, workdir in zip(runs.short_names(workdirs), workdirs, strict=True):
        if name in CONTROLS:
            raise UserError(f"{workdir}: the table has a {name!r} already; rename the folder")
        encoders[name] = patch_features.run_encoder(runs.load(workdir))
    strides = {name: encoder.stride for name, encoder in encoders.items()}
    if len(set(strides.values())) > 1:
        raise UserError(f"runs of different grids cannot be compared; pixels a cell: {strides}")
    return encoders


def all_methods(
    encoders: dict[str, Encoder], images: Iterable[np.ndarray], *, side: int
) -> dict[str, Method]:
    """The runs and the controls that see the image, by name.

    Args:
        encoders: of the runs; all of one stride.
        images: photographs to fit principal components to.
        side: of the controls' patches, in pixels.
    """
    stride, depth = next((e.stride, e.depth) for e in encoders.values())
    components = patch_features.principal_components(
        images, stride=stride, side=side, depth=depth, seed=SEED
    )
    pixels = functools.partial(patch_features.patches, stride=stride, side=side)
    colours = functools.partial(patch_features.mean_colour, stride=stride)
    coded = {name: encoder.features for name, encoder in encoders.items()}
    coded["components"] = components
    return {name: Method(features, coded=True) for name, features in coded.items()} | {
        "patches": Method(pixels, coded=False),
        "colour": Method(colours, coded=False),
    }


def draw(
    path: epath.Path, shown: Sequence[tuple[Annotated, dict[str, np.ndarray]]], *, title: str
) -> None:
    """Draws photographs, the first person's regions and each method's segments side by side.

    A segment has its mean colour. Of a method's views, the pooled one is drawn.

    Args:
        path: of the PNG file.
        shown: photographs of one size, each with its label maps `[height, width]` by method.
        title: above the picture.
    """
    names = list(shown[0][1])
    columns = [n for n in names if n.endswith(", pooled")] + ["grid of blocks"]

    def small(image: np.ndarray) -> np.ndarray:
        return image[::SHRINK, ::SHRINK]

    rows = []
    for photograph, found in shown:
        maps = [photograph.truths[0], *(found[name] for name in columns)]
        cells = [photograph.image, *(_painted(photograph.image, map_) for map_ in maps)]
        rows.append(np.stack([small(cell) for cell in cells]))
    heads = ["photograph", "one person", *(n.removesuffix(", pooled") for n in columns)]
    # Drawn beside, then copied, for a workdir in a bucket.
    with tempfile.TemporaryDirectory() as local:
        file = Path(local) / path.name
        pictures.side_by_side(np.stack(rows), file, column_labels=heads, title=title)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.read_bytes())


def _painted(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The image with every segment in its mean colour."""
    _, labels, counts = np.unique(labels.ravel(), return_inverse=True, return_counts=True)
    sums = [np.bincount(labels, weights=image[..., c].ravel()) for c in range(image.shape[-1])]
    colours = np.stack(sums, axis=-1) / counts[:, None]
    return np.round(colours).astype(np.uint8)[labels].reshape(image.shape)


def main(_: list[str]) -> None:
    """Segments the photographs by the runs' codes and by the controls; prints and writes."""
    options: Any = flags.FLAGS
    clusters = _numbers(options.clusters)
    if not options.images:
        raise UserError("--images is missing: a folder with images/ and ground_truth/, as BSDS500")
    places = find_annotated(options.images)
    places = places[: options.limit] if options.limit else places
    encoders = load_encoders(options.workdir)
    workdir = runs.open_workdir(options.workdir[0])
    stride = next(iter(encoders.values())).stride
    if options.patch < stride or (options.patch - stride) % 2:
        raise UserError(f"--patch is {options.patch}; a cell is {stride}: expected {stride} + 2n")
    read = functools.partial(
        read_whole_cells, stride=stride, side=options.patch, clusters=clusters[-1]
    )
    methods = all_methods(encoders, (read(place).image for place in places), side=options.patch)

    scores: dict[int, Scores] = {k: [] for k in clusters}
    drawn: list[tuple[Annotated, dict[str, np.ndarray]]] = []
    middle = clusters[len(clusters) // 2]
    for place in watched(places, total=len(places)):
        photograph = read(place)
        labels = segment(photograph.image, methods, stride=stride, clusters=clusters)
        for k, found in labels.items():
            over = functools.partial(segmentation.over_annotators, truths=photograph.truths)
            scores[k].append({name: over(map_) for name, map_ in found.items()})
        alike = not drawn or photograph.image.shape == drawn[0][0].image.shape
        if alike and len(drawn) < SHOWN:
            drawn.append((photograph, labels[middle]))
    if not parallel.is_first_process():
        return

    for k in clusters:
        print(f"{k} clusters, {len(places)} photographs\n{table(scores[k])}\n")
    content = {
        "runs": list(options.workdir),
        "patch": options.patch,
        "photographs": [place.image.stem for place in places],
        "clusters": {str(k): _by_method(scores[k]) for k in clusters},
    }
    written = workdir / "segmentation.json", workdir / "pictures" / "segmentation.png"
    write_whole(written[0], json.dumps(content) + "\n")
    draw(written[1], drawn, title=f"{middle} clusters; pooled features")
    print("written:", *written, sep="\n  ")


def _by_method(scores: Scores) -> dict[str, dict[str, list[float]]]:
    """Method to figure to a value for each photograph, to 5 decimals."""
    return {
        method: {name: [round(s[method][name], 5) for s in scores] for name in figures}
        for method, figures in scores[0].items()
    }


def _numbers(texts: Sequence[str]) -> list[int]:
    """What `--clusters` says, in rising order."""
    if not texts or not all(text.isdecimal() and 0 < int(text) <= FITTED for text in texts):
        raise UserError(
            f"--clusters is {','.join(texts)!r}; expected numbers from 1 to {FITTED}, as 2,4,8"
        )
    return sorted(set(map(int, texts)))


if __name__ == "__main__":
    flags.DEFINE_multi_string("workdir", None, "folder of a run; several may be given, in turn")
    flags.DEFINE_string("images", None, "folder with images/*.jpg and ground_truth/*.mat")
    flags.DEFINE_list("clusters", ["2", "4", "8"], "numbers of clusters, separated by commas")
    flags.DEFINE_integer("limit", 0, "photographs, the first ones; 0: all", lower_bound=0)
    flags.DEFINE_integer("patch", 12, "side in pixels of the patches of the controls")
    cli.run(main)
