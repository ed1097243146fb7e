"""How well found segments agree with annotated ones: mIoU, Dice, adjusted Rand index, covering.

Labels of segments are names alone: a found segment has to be matched with a region before their
overlap can be counted. All figures come from the confusion of two label maps.
"""

from collections.abc import Sequence

import numpy as np

FIGURES = ("miou", "dice", "ari", "covering")


def confusion(labels: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Counts the pixels that each found segment shares with each annotated region.

    Args:
        labels: whole numbers from 0, of any shape, as `[height, width]`: the segment of a pixel.
        truth: like `labels`: its region.

    Returns:
        int64 `[segments, regions]`; numbers that no pixel has are left out.

    Raises:
        ValueError: the maps differ in shape, are empty, or hold anything but whole numbers from 0.
    """
    labels, truth = np.asarray(labels), np.asarray(truth)
    if labels.shape != truth.shape or not labels.size:
        raise ValueError(
            f"labels are {list(labels.shape)} and truth {list(truth.shape)}; expected two maps of "
            "one shape, with pixels"
        )
    for name, map_ in (("labels", labels), ("truth", truth)):
        if map_.dtype.kind not in "iu" or map_.min() < 0:
            raise ValueError(f"{name} are {map_.dtype}; expected whole numbers from 0")
    segments, regions = int(labels.max()) + 1, int(truth.max()) + 1
    pairs = labels.ravel().astype(np.int64) * regions + truth.ravel()
    counts = np.bincount(pairs, minlength=segments * regions).reshape(segments, regions)
    return counts[counts.any(axis=1)][:, counts.any(axis=0)]


def match(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Matches segments with regions, one to one, so that the pixels in matched pairs are most.

    Among matchings with as many pixels, that of the largest sum of IoU is taken, so that the names
    of segments and regions do not matter.

    Args:
        counts: `[segments, regions]`, of `confusion`.

    Returns:
        The pairs' segments and regions, each int64 `[min(segments, regions)]`.

    Source:
        Kuhn 1955, "The Hungarian Method for the Assignment Problem"; solved by SciPy.
    """
    from scipy.optimize import linear_sum_assignment

    # Sums of IoU below 1: they decide between equal numbers of pixels alone.
    ties = _iou(np.asarray(counts, np.float64)) / (min(counts.shape) + 1)
    return linear_sum_assignment(counts + ties, maximize=True)


def agreement(counts: np.ndarray) -> dict[str, float]:
    """Scores found segments against one annotation.

    Args:
        counts: `[segments, regions]`, of `confusion`.

    Returns:
        Each at most 1, and 1 if and only if the two partitions are equal:
        miou: |A and B| / |A or B| of matched segment and region, averaged over the annotation's
            regions. A region without a partner counts 0, so fewer segments than regions cannot
            reach 1. A segment without a partner counts nowhere.
        dice: 2 |A and B| / (|A| + |B|), likewise.
        ari: adjusted Rand index (Hubert and Arabie 1985, Eq. 5): 0 expected of a labelling drawn
            at random. It needs no matching.
        covering: the share-weighted mean over regions of the largest IoU of any segment
            (Arbelaez et al. 2011, section 3.1); one segment may serve several regions.
    """
    counts = np.asarray(counts, np.float64)
    segment, region = counts.sum(axis=1), counts.sum(axis=0)
    iou = _iou(counts)
    dice = 2 * counts / (segment[:, None] + region)
    pairs = match(counts)
    return {
        "miou": float(iou[pairs].sum() / len(region)),
        "dice": float(dice[pairs].sum() / len(region)),
        "ari": _adjusted_rand(counts),
        "covering": float(region @ iou.max(axis=0) / region.sum()),
    }


def over_annotators(labels: np.ndarray, truths: Sequence[np.ndarray]) -> dict[str, float]:
    """Scores found segments against several people's annotations of one image.

    Args:
        labels: `[height, width]`, whole numbers from 0.
        truths: a map like `labels` for each person.

    Returns:
        The figures of `agreement`: each averaged over the people, and as `best_...` the highest
        that any one of them gives it.

    Raises:
        ValueError: there are no annotations, or the maps do not fit.
    """
    if not len(truths):
        raise ValueError("there are no annotations; expected at least one")
    each = [agreement(confusion(labels, truth)) for truth in truths]
    values = {name: [scores[name] for scores in each] for name in FIGURES}
    mean = {name: float(np.mean(values[name])) for name in FIGURES}
    return mean | {f"best_{name}": max(values[name]) for name in FIGURES}


def _iou(counts: np.ndarray) -> np.ndarray:
    """|A and B| / |A or B| of every segment and region."""
    return counts / (counts.sum(axis=1, keepdims=True) + counts.sum(axis=0) - counts)


def _adjusted_rand(counts: np.ndarray) -> float:
    """The index of pixel pairs that the two partitions treat alike, corrected for chance."""

    def pairs(n: np.ndarray) -> float:
        return float((n * (n - 1) / 2).sum())

    segment, region = pairs(counts.sum(axis=1)), pairs(counts.sum(axis=0))
    whole = pairs(counts.sum(keepdims=True))
    expected = segment * region / whole if whole else 0.0
    most = (segment + region) / 2
    # Two partitions that are one segment each, or all single pixels, are equal.
    return 1.0 if most == expected else (pairs(counts) - expected) / (most - expected)
