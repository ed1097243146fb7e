"""Clusters against labels: by loops over the definitions, and at the ends of the scale."""

import numpy as np
import pytest

from train.metrics.clusters import agreement, normalised_mutual_information, purity

RANDOM = np.random.default_rng(0)
CLUSTERS = RANDOM.integers(0, 5, (6, 4, 4))
OTHERS = RANDOM.integers(0, 3, CLUSTERS.shape)
LABELS = np.where(RANDOM.random(CLUSTERS.shape) < 0.6, CLUSTERS % 3, OTHERS)


def test_by_loops():
    pairs = list(zip(CLUSTERS.ravel().tolist(), LABELS.ravel().tolist(), strict=True))
    right = 0
    for c in range(5):
        of_c = [label for cluster, label in pairs if cluster == c]
        right += max(of_c.count(label) for label in range(3))
    assert purity(CLUSTERS, LABELS) == pytest.approx(right / len(pairs))

    def entropy(values):
        p = np.array([values.count(v) for v in set(values)]) / len(values)
        return -(p * np.log(p)).sum()

    parts = [entropy([pair[i] for pair in pairs]) for i in (0, 1)]
    expected = (sum(parts) - entropy(pairs)) / (sum(parts) / 2)
    assert normalised_mutual_information(CLUSTERS, LABELS) == pytest.approx(expected)


def test_ends_of_the_scale():
    for clusters in (LABELS, 2 - LABELS):
        found = agreement(clusters, LABELS)
        assert (found.nmi, found.purity, found.clusters) == (pytest.approx(1), 1, 3)
        assert found.nmi_by_chance < 0.1
    found = agreement(np.zeros_like(LABELS), LABELS)
    most = np.bincount(LABELS.ravel()).max() / LABELS.size
    assert (found.nmi, found.purity) == (0, most)
    assert (found.nmi_by_chance, found.purity_by_chance, found.clusters) == (0, most, 1)


def test_a_label_of_a_whole_image_stays_whole_in_random_order():
    # An image's positions share a cluster: with ten images, chance itself tells much.
    image = np.arange(10)
    found = agreement(np.repeat(image, 50).reshape(10, 50) % 5, image % 5)
    assert (found.nmi, found.purity) == (1, 1)
    assert found.nmi_by_chance > 0.2
    spread = agreement(
        np.repeat(image, 50).reshape(10, 50) % 5, np.repeat(image, 50).reshape(10, 50) % 5
    )
    assert spread.nmi_by_chance < 0.05


def test_shapes_must_fit():
    with pytest.raises(ValueError, match="one label for each of the first axis"):
        agreement(np.zeros((4, 3), int), np.zeros(3, int))
    with pytest.raises(ValueError, match="whole numbers"):
        purity(np.zeros(3), np.zeros(3, int))
