"""The linear probe: what it can read, what chance is worth, what it refuses."""

import numpy as np
import pytest

from train.metrics.probe import chance, linear_probe


def rows(count, seed):
    """Two numbers and the class: the sign of the first, whatever its size."""
    x = np.random.default_rng(seed).normal(size=(count, 1, 2)) * [1e-3, 1e3]
    return x.astype(np.float32), (x[:, 0, 0] > 0).astype(int)


def test_it_reads_what_lies_open_and_nothing_else():
    (x, y), (tested, truth) = rows(300, 0), rows(1000, 1)
    assert linear_probe(x, y, tested, truth) > 0.97
    # The other number says nothing: 1,000 guesses have a standard error of 0.016.
    assert linear_probe(x[..., 1:], y, tested[..., 1:], truth) == pytest.approx(0.5, abs=0.07)


def test_chance_is_the_most_frequent_class():
    assert chance(np.array([2, 2, 2, 1, 0]), np.array([2, 1, 2, 0])) == 0.5


def test_what_cannot_be_is_refused():
    x, y = rows(10, 0)
    with pytest.raises(ValueError, match="10 and 10 rows with 9 and 10 labels"):
        linear_probe(x, y[:-1], x, y)
    with pytest.raises(ValueError, match="two classes or more"):
        linear_probe(x, 0 * y, x, y)
