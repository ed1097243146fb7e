"""Agreement of segments with regions: by hand, by loops over pixels, and beside scikit-learn."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from train.metrics.segmentation import agreement, confusion, match, over_annotators


def maps(seed, segments, regions, size=40):
    random = np.random.default_rng(seed)
    truth = random.integers(0, regions, size)
    # Half of the pixels follow the truth, so that there is something to find.
    drawn = random.integers(0, segments, size)
    return np.where(random.random(size) < 0.5, truth % segments, drawn), truth


def by_loops(labels, truth):
    """The figures from sets of pixels, every matching tried."""
    pixels = range(labels.size)
    segments = [{i for i in pixels if labels[i] == s} for s in sorted(set(labels.tolist()))]
    regions = [{i for i in pixels if truth[i] == r} for r in sorted(set(truth.tolist()))]
    # With more regions than segments, some regions are matched with nothing.
    padded = segments + [set()] * max(0, len(regions) - len(segments))
    matchings = [
        list(zip(chosen, regions, strict=True))
        for chosen in itertools.permutations(padded, len(regions))
    ]

    def overlap(pairs):
        return sum(len(a & b) for a, b in pairs), sum(len(a & b) / len(a | b) for a, b in pairs)

    pairs = max(matchings, key=overlap)
    same = [(labels[i] == labels[j], truth[i] == truth[j]) for i in pixels for j in range(i)]
    both, a, b = (sum(map(rule, same)) for rule in (all, lambda s: s[0], lambda s: s[1]))
    expected = a * b / len(same)
    return {
        "miou": np.mean([len(a & b) / len(a | b) for a, b in pairs]),
        "dice": np.mean([2 * len(a & b) / (len(a) + len(b)) for a, b in pairs]),
        "ari": (both - expected) / ((a + b) / 2 - expected),
        "covering": sum(len(r) * max(len(r & s) / len(r | s) for s in segments) for r in regions)
        / labels.size,
    }


def test_by_hand():
    # Two segments of a row of 6 pixels against regions of 3, 2 and 1.
    labels, truth = np.array([0, 0, 1, 1, 1, 1]), np.array([5, 5, 5, 7, 7, 9])
    counts = confusion(labels, truth)
    np.testing.assert_array_equal(counts, [[2, 0, 0], [1, 2, 1]])
    np.testing.assert_array_equal(match(counts), [[0, 1], [0, 1]])
    found = agreement(counts)
    # IoU 2/3 and 2/4, Dice 4/5 and 4/6; the region of one pixel has no partner and counts 0.
    assert found["miou"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert found["dice"] == pytest.approx((4 / 5 + 2 / 3 + 0) / 3)
    # Covering lets the second segment serve the last region too: IoU 1/4.
    assert found["covering"] == pytest.approx((3 * 2 / 3 + 2 * 1 / 2 + 1 * 1 / 4) / 6)
    # Of 15 pairs, 2 are together in both, 7 in the labels and 4 in the truth.
    assert found["ari"] == pytest.approx((2 - 28 / 15) / (5.5 - 28 / 15))


def test_matching_is_of_the_whole_and_not_greedy():
    # The largest overlap, 5, would leave 0 for the other segment; 4 + 4 is more.
    segments, regions = match(np.array([[5, 4], [4, 0]]))
    np.testing.assert_array_equal(segments, [0, 1])
    np.testing.assert_array_equal(regions, [1, 0])


@pytest.mark.parametrize(("segments", "regions"), [(3, 3), (2, 5), (6, 2), (1, 3)])
def test_as_loops_over_pixels_and_scikit_learn(segments, regions):
    for seed in range(3):
        labels, truth = maps(seed, segments, regions)
        found = agreement(confusion(labels, truth))
        expected = by_loops(labels, truth)
        assert found == pytest.approx(expected, abs=1e-12)
        assert found["ari"] == pytest.approx(adjusted_rand_score(truth, labels), abs=1e-12)


def test_names_of_segments_and_regions_do_not_matter():
    labels, truth = maps(0, 4, 5, size=200)
    renamed = np.array([7, 0, 30, 2])[labels], np.array([9, 1, 4, 0, 1000])[truth]
    expected = agreement(confusion(labels, truth))
    assert agreement(confusion(*renamed)) == pytest.approx(expected, abs=1e-12)


def test_equal_overlaps_are_decided_by_iou_whatever_the_order():
    # Both matchings hold 2 pixels: 2 + 0 with a mean IoU of 1/4, 1 + 1 with 1/3.
    labels, truth = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 0])
    for map_ in (labels, 1 - labels):
        for other in (truth, 1 - truth):
            assert agreement(confusion(map_, other))["miou"] == pytest.approx(1 / 3)


def test_perfect_and_random():
    random = np.random.default_rng(0)
    truth = random.integers(0, 4, (100, 100))
    perfect = agreement(confusion((truth + 1) % 4, truth.astype(np.uint16)))
    assert perfect == pytest.approx(dict.fromkeys(perfect, 1.0))
    chance = agreement(confusion(random.integers(0, 4, (100, 100)), truth))
    assert abs(chance["ari"]) < 2e-3
    # A quarter of each region lies in any segment: IoU 1/7.
    assert chance["miou"] == pytest.approx(1 / 7, abs=0.01)
    one = np.zeros((3, 3), int)
    assert agreement(confusion(one, one))["ari"] == 1
    assert agreement(confusion(one, np.arange(9).reshape(3, 3)))["ari"] == 0


def test_pixel_pairs_of_a_large_photograph_are_counted_exactly():
    # 12 megapixels: squares of the pairs would not fit into 64-bit integers.
    counts = np.array([[5_000_000, 1_000_000], [1_000_000, 5_000_000]])
    # With halves on both sides the index is (p - q)^2, up to O(1 / pixels).
    assert agreement(counts)["ari"] == pytest.approx((4 / 6) ** 2, abs=1e-5)


def test_over_annotators():
    truth = np.array([[0, 0, 1, 1]])
    found = over_annotators(truth, [truth, np.array([[0, 1, 0, 1]]), np.array([[3, 3, 3, 3]])])
    each = [agreement(confusion(truth, t)) for t in (truth, [[0, 1, 0, 1]], [[3, 3, 3, 3]])]
    for name in ("miou", "dice", "ari", "covering"):
        assert found[name] == pytest.approx(np.mean([scores[name] for scores in each]))
        assert found[f"best_{name}"] == 1
    # One region has one partner: half of it.
    assert each[2]["miou"] == 0.5
    with pytest.raises(ValueError, match="no annotations"):
        over_annotators(truth, [])


@pytest.mark.parametrize(
    ("labels", "truth", "expected"),
    [
        (np.zeros((2, 3), int), np.zeros((3, 2), int), "one shape"),
        (np.zeros((0, 3), int), np.zeros((0, 3), int), "with pixels"),
        (np.zeros(3), np.zeros(3, int), "labels are float64"),
        (np.zeros(3, int), np.full(3, -1), "truth are int64; expected whole numbers from 0"),
    ],
)
def test_maps_that_do_not_fit(labels, truth, expected):
    with pytest.raises(ValueError, match=expected):
        confusion(labels, truth)
