"""Disentanglement metrics on codes made by hand, against loops, SciPy and scikit-learn."""

import numpy as np
import pytest
from scipy.stats import entropy as scipy_entropy
from sklearn.metrics import mutual_info_score

from train.errors import UserError
from train.metrics import disentanglement as metrics
from train.metrics.factor_vae import (
    Variances,
    count_votes,
    factor_vae_score,
    normalised_variances,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def factors_of(n, values=4, count=2):
    return rng(7).integers(0, values, (n, count))


def rotated(factors):
    """Two factors turned by 45 degrees: each unit knows of both."""
    return factors @ np.array([[1, -1], [1, 1]]) / np.sqrt(2)


# ---------------------------------------------------------------- information


def loop_information(x, y):
    """I(x; y) = sum p(x, y) log(p(x, y) / p(x) p(y)), term by term."""
    n, total = len(x), 0.0
    for a in set(x.tolist()):
        for b in set(y.tolist()):
            both = sum(1 for u, v in zip(x, y, strict=True) if u == a and v == b) / n
            if both:
                one, other = np.mean(x == a), np.mean(y == b)
                total += both * np.log(both / (one * other))
    return total


def test_information_and_entropy_against_loops_and_scikit_learn():
    a = rng().integers(0, 5, (200, 3))
    b = np.stack([a[:, 0] // 2, rng(1).integers(0, 3, 200)], axis=1)
    found = metrics.mutual_information(a, b)
    for i in range(3):
        for j in range(2):
            np.testing.assert_allclose(found[i, j], loop_information(a[:, i], b[:, j]), atol=1e-12)
            expected = mutual_info_score(a[:, i], b[:, j])
            np.testing.assert_allclose(found[i, j], expected, atol=1e-12)
    counts = [np.bincount(column) for column in a.T]
    np.testing.assert_allclose(metrics.entropy(a), [scipy_entropy(c) for c in counts], rtol=1e-12)


def test_bins_are_equally_wide_and_hold_both_ends():
    codes = np.stack([np.linspace(-1, 1, 41), np.full(41, 3.0), np.r_[np.zeros(40), 1e6]], axis=1)
    binned = metrics.discretise(codes, bins=20)
    np.testing.assert_array_equal(np.bincount(binned[:, 0]), [2] * 19 + [3])
    assert len(set(binned[:, 1])) == 1
    np.testing.assert_array_equal(np.unique(binned[:, 2]), [0, 19])


def test_factors_of_few_values_are_kept_and_others_binned():
    factors = np.stack([[5, 5, 9, 200, 9], [0, 25, 50, 75, 100], [0.0, 0.5, 1.0, 0.5, 0.2]], axis=1)
    binned = metrics.bin_factors(factors, bins=4)
    assert binned.dtype == np.int32
    np.testing.assert_array_equal(binned.T, [[0, 0, 1, 2, 1], [0, 1, 2, 3, 3], [0, 2, 3, 2, 0]])
    np.testing.assert_array_equal(metrics.bin_factors(factors, bins=5)[:, 1], [0, 1, 2, 3, 4])


def test_gap_on_hand_made_codes():
    n = 2000
    factors = factors_of(n)

    def gap(codes):
        return metrics.mutual_information_gap(codes, factors, random=rng()).score

    assert gap(factors) > 0.99
    assert gap(rng(1).normal(size=(n, 3))) < 0.03
    assert gap(rotated(factors)) < 0.7
    # A second unit that knows the same leaves no gap; a dead one changes nothing.
    assert gap(np.concatenate([factors, factors * 2.0], axis=1)) < 1e-12
    dead = np.concatenate([factors, np.full((n, 1), 0.3)], axis=1)
    np.testing.assert_allclose(gap(dead), gap(factors))


def test_gap_against_the_formula():
    n = 500
    codes, factors = rng().normal(size=(n, 3)), factors_of(n)
    codes[:, 1] += factors[:, 0]
    found = metrics.mutual_information_gap(codes, factors, random=rng(), bins=6)
    gaps = []
    for j in range(2):
        known = []
        for i in range(3):
            low, high = codes[:, i].min(), codes[:, i].max()
            binned = np.minimum((codes[:, i] - low) / (high - low) * 6, 5).astype(int)
            known.append(mutual_info_score(binned, factors[:, j]))
        np.testing.assert_allclose(found.information[:, j], known, rtol=1e-9)
        gaps.append((max(known) - sorted(known)[-2]) / scipy_entropy(np.bincount(factors[:, j])))
    np.testing.assert_allclose(found.score, np.mean(gaps), rtol=1e-9)
    # Some of the examples are another sample, the same for the same generator.
    some = [
        metrics.mutual_information_gap(codes, factors, random=rng(s), samples=300).score
        for s in (0, 0, 1)
    ]
    assert some[0] == some[1] != some[2]


# ---------------------------------------------------------------- DCI


def test_disentanglement_and_completeness_against_scipy():
    importance = rng().random((4, 3)) ** 4
    importance[2] = 0
    rows = 1 - scipy_entropy(importance.T + 1e-11, base=3)
    columns = 1 - scipy_entropy(importance + 1e-11, base=4)
    share = importance / importance.sum()
    expected = rows @ share.sum(axis=1), columns @ share.sum(axis=0)
    found = metrics.disentanglement(importance), metrics.completeness(importance)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    # One unit for two factors: it is not disentangled, but both factors are complete.
    shared = np.array([[1.0, 1.0], [0, 0]])
    np.testing.assert_allclose(metrics.disentanglement(shared), 0, atol=1e-9)
    np.testing.assert_allclose(metrics.completeness(shared), 1, atol=1e-9)
    assert abs(metrics.disentanglement(np.zeros((3, 2)))) < 1e-9


def test_dci_on_hand_made_codes():
    n = 450
    factors = factors_of(n)
    sizes = {"train": 300, "test": 150}
    same = metrics.dci(np.c_[factors, np.zeros(n)], factors, random=rng(), **sizes)
    assert min(same.disentanglement, same.completeness) > 0.999
    assert same.informativeness == same.informativeness_train == 1
    np.testing.assert_allclose(same.importance, [[1, 0], [0, 1], [0, 0]], atol=1e-6)

    turned = metrics.dci(rotated(factors), factors, random=rng(), **sizes)
    assert max(turned.disentanglement, turned.completeness) < 0.5
    assert turned.informativeness > 0.95

    none = metrics.dci(rng(1).normal(size=(n, 2)), factors, random=rng(), **sizes)
    assert max(none.disentanglement, none.completeness) < 0.05
    assert none.informativeness < 0.4  # chance is 0.25
    again = metrics.dci(rng(1).normal(size=(n, 2)), factors, random=rng(), **sizes)
    np.testing.assert_array_equal(none.importance, again.importance)


# ---------------------------------------------------------------- SAP


def test_sap_on_hand_made_codes():
    n = 900
    factors = factors_of(n, values=2)
    same = metrics.sap(np.c_[factors, np.zeros(n)], factors, random=rng())
    assert same.accuracy.shape == (3, 2)
    np.testing.assert_array_equal(np.diag(same.accuracy), 1)
    assert 0.35 < same.score < 0.55  # the second best unit guesses
    assert metrics.sap(rng(1).normal(size=(n, 3)), factors, random=rng()).score < 0.06
    assert metrics.sap(rotated(factors), factors, random=rng()).score < 0.7 * same.score


def test_sap_is_a_gap_of_test_accuracies():
    from sklearn.svm import LinearSVC

    codes, factors = rng(1).normal(size=(300, 3)), factors_of(300, values=3)
    codes[:, 0] += factors[:, 1]
    found = metrics.sap(codes, factors, random=rng(), train=100, test=50)
    rows = rng().permutation(300)
    seen, held = rows[:100], rows[100:150]
    gaps = []
    for j in range(2):
        accuracy = []
        for i in range(3):
            machine = LinearSVC(C=0.01, class_weight="balanced", random_state=0)
            machine.fit(codes[seen, i : i + 1], factors[seen, j])
            accuracy.append(machine.score(codes[held, i : i + 1], factors[held, j]))
        np.testing.assert_allclose(found.accuracy[:, j], accuracy, atol=0.021)  # one example
        gaps.append(max(accuracy) - sorted(accuracy)[-2])
    np.testing.assert_allclose(found.score, np.mean(gaps), atol=0.03)


# ---------------------------------------------------------------- FactorVAE


def votes_of(codes, factors, **options):
    options = {"train": 600, "test": 400, "batch": 16} | options
    return factor_vae_score(codes, factors, random=rng(), **options)


def test_votes_on_hand_made_codes():
    n = 1500
    factors = factors_of(n, count=4)
    same = votes_of(factors, factors)
    assert same.score == same.train_score == 1
    assert same.active == 4
    np.testing.assert_array_equal(same.votes > 0, np.eye(4) > 0)
    assert same.votes.sum() == 600
    none = votes_of(rng(1).normal(size=(n, 5)), factors)
    assert 0.15 < none.score < 0.35
    # A dead unit would win every vote, if it had one.
    dead = votes_of(np.c_[factors, 0.01 * rng(1).normal(size=n)], factors)
    assert (dead.score, dead.active) == (1, 4)
    assert dead.votes[4].sum() == 0
    assert votes_of(np.zeros((n, 3)), factors)[:3] == (0, 0, 0)


def test_variances_are_of_examples_that_share_the_factor():
    n = 200
    factors = factors_of(n, values=3)
    codes = np.c_[rng(1).normal(size=n), factors[:, 1], np.full(n, 2.0)]
    found = normalised_variances(
        codes, factors, random=rng(), samples=n, votes=50, batch=20, least_deviation=0.05
    )
    assert found.ratio.shape == (50, 3)
    assert set(found.fixed) == {0, 1}
    np.testing.assert_array_equal(found.ratio[:, 1] == 0, found.fixed == 1)
    assert np.all(np.isinf(found.ratio[:, 2]))
    # About 1 where nothing that the unit knows of is fixed.
    np.testing.assert_allclose(found.ratio[:, 0].mean(), 1, atol=0.15)


def test_counted_votes_against_loops():
    fixed, ratio = rng().integers(0, 3, 90), rng(1).random((90, 4))
    found = count_votes(Variances(fixed, ratio, 3), train=60)
    table = np.zeros((4, 3))
    for j, each in zip(fixed[:60], ratio[:60], strict=True):
        table[each.argmin(), j] += 1
    right = [
        table[each.argmin()].argmax() == j for j, each in zip(fixed[60:], ratio[60:], strict=True)
    ]
    np.testing.assert_array_equal(found.votes, table)
    np.testing.assert_allclose(found.score, np.mean(right))
    np.testing.assert_allclose(found.train_score, table.max(axis=1).sum() / 60)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("codes", "factors", "expected"),
    [
        (np.zeros((5, 2, 1)), np.zeros((5, 2), int), r"codes are \(5, 2, 1\)"),
        (np.zeros((4, 2)), np.zeros((5, 2), int), r"factors \(5, 2\); expected \[n, units\]"),
        (np.zeros((5, 1)), np.zeros((5, 2), int), "found 1 units and 2 factors; expected at least"),
        (np.full((5, 2), np.nan), np.zeros((5, 2), int), "not all finite"),
        (np.zeros((5, 2)), np.zeros((5, 2)), "float64; expected whole numbers .* use bin_factors"),
        (np.zeros((5, 2)), np.full((5, 2), -1), "whole numbers from 0 up"),
        (np.zeros((5, 2)), np.c_[np.arange(5), np.ones(5, int)], "factor 1 has the same value"),
        (np.zeros((0, 2)), np.zeros((0, 2), int), "factor 0 has the same value"),
    ],
)
def test_arrays_that_cannot_be_measured(codes, factors, expected):
    for measure in (metrics.mutual_information_gap, metrics.sap, metrics.dci):
        with pytest.raises(UserError, match=expected):
            measure(codes, factors, random=rng())


def test_values_that_too_few_share_are_not_fixed():
    factors = np.r_[np.zeros(30, int), np.ones(5, int)][:, None]
    found = votes_of(rng().normal(size=(35, 2)), factors)
    assert found.votes.sum() == 600
    with pytest.raises(UserError, match="no value of factor 0 is shared by 31 of the 35 examples"):
        votes_of(rng().normal(size=(35, 2)), factors, batch=31)
