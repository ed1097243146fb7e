"""What clusters have in common with labels: purity and normalised mutual information.

Both rise with the number of clusters, and are above 0 where clusters and labels are independent, so
each is given beside what chance would give.
"""

from typing import NamedTuple

import numpy as np

from train.metrics.segmentation import confusion

ORDERS = 5  # random ones of the labels


class Agreement(NamedTuple):
    """How far clusters tell labels, each in [0, 1].

    Attributes:
      nmi: mutual information over the mean of the two entropies.
      purity: see `purity`.
      nmi_by_chance: the same of labels in random order, the mean of a few orders.
      purity_by_chance: likewise.
      clusters: how many are in use; of several agreements' mean, no whole number.
    """

    nmi: float
    purity: float
    nmi_by_chance: float
    purity_by_chance: float
    clusters: float


def purity(clusters: np.ndarray, labels: np.ndarray) -> float:
    """The share of points that have the most frequent label of their cluster.

    Args:
      clusters: whole numbers from 0, of any shape.
      labels: like `clusters`.

    Returns:
      From the share of the most frequent label, of clusters that tell nothing, to 1.

    Raises:
      ValueError: the shapes differ, or these are no whole numbers from 0.

    Source:
      Manning, Raghavan & Schuetze 2008, "Introduction to Information Retrieval", section 16.3.
    """
    counts = confusion(clusters, labels)
    return float(counts.max(axis=1).sum() / counts.sum())


def normalised_mutual_information(clusters: np.ndarray, labels: np.ndarray) -> float:
    """I(cluster; label) over the mean of their entropies, in [0, 1]; arguments as of `purity`.

    Source:
      Strehl & Ghosh 2002, "Cluster Ensembles", with the arithmetic mean; by scikit-learn.
    """
    from sklearn.metrics import normalized_mutual_info_score

    found = normalized_mutual_info_score(np.ravel(labels), np.ravel(clusters))
    return float(min(max(found, 0.0), 1.0))  # rounding


def agreement(clusters: np.ndarray, labels: np.ndarray, *, seed: int = 0) -> Agreement:
    """Both figures, beside those of labels in random order.

    Args:
      clusters: whole numbers from 0, `[n, ...]`.
      labels: likewise, or `[n]`, one for all points of an element; these are put in another order
        as wholes, so that chance has points which share a label too.
      seed: of the orders.

    Raises:
      ValueError: the shapes do not fit.
    """
    clusters, labels = np.asarray(clusters), np.asarray(labels)
    if labels.shape not in (clusters.shape, clusters.shape[:1]):
        raise ValueError(
            f"clusters are {list(clusters.shape)} and labels {list(labels.shape)}; expected the "
            "same, or one label for each of the first axis"
        )

    def figures(labels: np.ndarray) -> tuple[float, float]:
        if labels.shape != clusters.shape:
            lead = labels.reshape(-1, *(1,) * (clusters.ndim - 1))
            labels = np.broadcast_to(lead, clusters.shape)
        return normalised_mutual_information(clusters, labels), purity(clusters, labels)

    random = np.random.default_rng(seed)
    orders = [random.permutation(labels.ravel()).reshape(labels.shape) for _ in range(ORDERS)]
    by_chance = np.mean([figures(order) for order in orders], axis=0)
    return Agreement(*figures(labels), *by_chance.tolist(), clusters=len(np.unique(clusters)))
