"""Metrics of partitions: groups made by hand, groups of one, and what chance grouping gives."""

import numpy as np
import pytest

from train.errors import UserError
from train.metrics import disentanglement, partitions
from train.metrics.factor_vae import Variances, factor_vae_score
from train.metrics.partitions import METRICS, partition_scores, permutation_null

SMALL = {"train": 400, "test": 200, "votes": 400, "test_votes": 300, "batch": 24}


def rng(seed=0):
    return np.random.default_rng(seed)


def spread(units, count=2):
    """An importance that says: unit i is for factor i * count // units."""
    return np.eye(count)[np.arange(units) * count // units]


@pytest.fixture(scope="module")
def told():
    """Two factors, each told in three of six units and by none of them whole."""
    factors = rng(1).integers(0, 4, (800, 2))
    noise = rng(2).normal(size=(800, 6))
    return np.repeat(factors, 3, axis=1) + 0.8 * noise, factors


def test_partitions_of_perfect_codes():
    factors = rng().integers(0, 4, (800, 3))
    codes = np.repeat(factors, 2, axis=1).astype(float)
    found = partition_scores(
        codes, factors, (2, 2, 2), importance=spread(6, 3), random=rng(), **SMALL
    )
    assert tuple(found) == METRICS
    assert found["mig"] > 0.97
    assert found["dci_disentanglement"] > 0.999
    assert found["dci_completeness"] > 0.999
    assert found["factor_vae"] == 1
    assert found["sap"] > 0.2
    # Each factor is in two units, so that units have no gap; groups across factors have little.
    assert disentanglement.mutual_information_gap(codes, factors, random=rng()).score < 1e-9
    across = partition_scores(
        codes[:, [0, 2, 1, 4, 3, 5]],
        factors,
        (2, 2, 2),
        importance=spread(6, 3)[[0, 2, 1, 4, 3, 5]],
        random=rng(),
        **SMALL,
    )
    for name, value in found.items():
        assert across[name] < 0.75 * value, name


def test_groups_of_one_unit_are_units(told):
    codes, factors = told
    importance = rng().random((6, 2))
    alone = (1,) * 6
    found = partition_scores(codes, factors, alone, importance=importance, random=rng(), **SMALL)
    np.testing.assert_allclose(
        [found["dci_disentanglement"], found["dci_completeness"]],
        [disentanglement.disentanglement(importance), disentanglement.completeness(importance)],
    )
    # The same draws in another order: the same up to what samples differ by.
    sap = disentanglement.sap(codes, factors, random=rng(), train=400, test=200)
    np.testing.assert_allclose(found["sap"], sap.score, atol=0.05)
    votes = factor_vae_score(codes, factors, random=rng(), train=400, test=300, batch=24)
    np.testing.assert_allclose(found["factor_vae"], votes.score, atol=0.06)
    gap = disentanglement.mutual_information_gap(codes, factors, random=rng())
    np.testing.assert_allclose(found["mig"], gap.score, atol=0.03)


def test_a_grouping_that_holds_the_factors_apart_is_outside_the_null():
    factors = rng(1).integers(0, 4, (600, 2))
    codes = np.repeat(factors, 5, axis=1) + 0.6 * rng(2).normal(size=(600, 10))
    sizes = SMALL | {"train": 200, "test": 100}
    null = permutation_null(
        codes, factors, (5, 5), importance=spread(10), random=rng(), draws=40, **sizes
    )
    assert tuple(null) == METRICS
    for name, (value, mean, low, high) in null.items():
        assert low <= mean <= high
        # Three units against two are enough for a vote: the FactorVAE score is 1 there too.
        assert high <= value if name == "factor_vae" else high < value, name
    again = permutation_null(
        codes, factors, (5, 5), importance=spread(10), random=rng(), draws=40, **sizes
    )
    assert again == null


def test_the_null_is_drawn_from_all_groupings(told):
    codes, factors = told
    codes, importance = codes[:, 1:5] * np.array([1, 0.5, 2, 3]), rng(3).random((4, 2))
    sizes = SMALL | {"train": 200, "test": 100}
    null = permutation_null(
        codes, factors, (3, 1), importance=importance, random=rng(), draws=40, **sizes
    )
    every = []
    for last in range(4):
        order = [i for i in range(4) if i != last] + [last]
        every.append(
            partition_scores(
                codes[:, order],
                factors,
                (3, 1),
                importance=importance[order],
                random=rng(),
                **sizes,
            )
        )
    for name, (value, mean, low, high) in null.items():
        values = [each[name] for each in every]
        np.testing.assert_allclose([value, low, high], [values[3], min(values), max(values)])
        np.testing.assert_allclose(mean, np.mean(values), atol=0.25 * np.ptp(values))


def test_random_codes_are_inside_the_null():
    factors = rng(1).integers(0, 3, (400, 2))
    codes = rng(5).normal(size=(400, 7))
    importance = rng(3).random((7, 2))
    sizes = SMALL | {"train": 200, "test": 100}
    null = permutation_null(
        codes, factors, (4, 2, 1), importance=importance, random=rng(), draws=40, **sizes
    )
    for name, (value, _, low, high) in null.items():
        assert low <= value <= high, name
        assert low < high, name


def test_collapsed_units_have_no_say(told):
    codes, factors = told
    dead = np.c_[codes, 1e-3 * rng(5).normal(size=(800, 2)), np.zeros(800)]
    importance = np.r_[spread(6), np.zeros((3, 2))]
    found = partition_scores(dead, factors, (3, 3, 3), importance=importance, random=rng(), **SMALL)
    assert found["factor_vae"] > 0.9
    kept = partition_scores(codes, factors, (3, 3), importance=spread(6), random=rng(), **SMALL)
    np.testing.assert_allclose(found["dci_disentanglement"], kept["dci_disentanglement"])
    mixed = np.r_[:3, 6, 3:6, 7]  # one dead unit in either group
    among = partition_scores(
        dead[:, mixed], factors, (4, 4), importance=importance[mixed], random=rng(), **SMALL
    )
    np.testing.assert_allclose(among["mig"], kept["mig"], atol=0.02)
    np.testing.assert_allclose(among["factor_vae"], kept["factor_vae"], atol=1e-12)


def test_a_groups_variance_is_the_mean_of_its_active_units():
    ratio = np.array([[1, 3, np.inf, 0.5, np.inf], [2, 0, np.inf, 4, np.inf]])
    groups = [np.array([0, 1]), np.array([2, 3]), np.array([4])]
    found = partitions._grouped(Variances(np.zeros(2, int), ratio, 2), groups)
    np.testing.assert_array_equal(found.ratio, [[2, 0.5, np.inf], [1, 4, np.inf]])


def test_clusters_of_few_different_vectors():
    few = np.repeat([[0.0, 1], [2, 3], [5, 5]], 10, axis=0)
    labels = partitions.cluster(few, 20, seed=0)
    assert [len(set(labels[i : i + 10])) for i in (0, 10, 20)] == [1, 1, 1]
    assert len(set(labels)) == 3
    np.testing.assert_array_equal(partitions.cluster(np.ones((4, 2)), 20, seed=0), 0)
    assert len(set(partitions.cluster(rng().normal(size=(300, 3)), 20, seed=0))) == 20


@pytest.mark.parametrize(
    ("sizes", "importance", "expected"),
    [
        ((3, 2), spread(6), r"partitions are \(3, 2\); .* number of units, 6"),
        ((6,), spread(6), "two or more sizes"),
        ((6, 0), spread(6), "two or more sizes"),
        ((3, 3), spread(5), r"importance is \(5, 2\); expected \(6, 2\)"),
    ],
)
def test_what_does_not_fit_is_refused(told, sizes, importance, expected):
    codes, factors = told
    with pytest.raises(UserError, match=expected):
        partition_scores(codes, factors, sizes, importance=importance, random=rng())
