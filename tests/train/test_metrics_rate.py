"""Bits of codes: hand-counted cases, and the curve that rounding gives."""

import math

import numpy as np
import pytest

from train.metrics import rate


def test_bits_of_hand_counted_indices():
    # Two examples of four positions, one unit: 0 0 0 0 1 1 2 3, entropy 1.75 bits a position.
    symbols = np.array([[0, 0, 1, 2], [0, 0, 1, 3]])[..., None]
    assert rate.code_bits(symbols) == pytest.approx(4 * 1.75)


def test_every_unit_has_a_table_of_its_own():
    random = np.random.default_rng(0)
    symbols = random.integers(-3, 4, (50, 2, 3, 5))
    expected = 0.0
    for unit in range(5):
        seen = symbols[..., unit].ravel().tolist()
        shares = [seen.count(value) / len(seen) for value in set(seen)]
        expected += 6 * -sum(p * math.log2(p) for p in shares)
    assert rate.code_bits(symbols) == pytest.approx(expected)


def test_a_unit_that_never_changes_costs_nothing():
    assert rate.code_bits(np.full((10, 4, 2), 7)) == 0
    one_moves = np.stack([np.arange(8) % 2, np.zeros(8, int)], axis=-1)
    assert rate.code_bits(one_moves) == pytest.approx(1.0)


@pytest.mark.parametrize("symbols", [np.zeros((3, 2)), np.zeros(4, int), np.zeros((0, 2), int)])
def test_other_than_whole_numbers_by_example_are_refused(symbols):
    with pytest.raises(ValueError, match="whole numbers"):
        rate.code_bits(symbols)


def test_finer_steps_cost_more_bits_and_lose_less():
    code = np.random.default_rng(1).normal(size=(400, 3))

    def psnr(rounded):
        return -10 * math.log10(np.mean(np.square(rounded - code)))

    curve = rate.rate_distortion(code, psnr, steps=rate.usual_steps(code))
    bits, found = [p.bits for p in curve], [p.psnr for p in curve]
    assert bits == sorted(bits)
    assert found[-1] > found[4] > found[0]
    # A uniform error of a small step has variance step^2 / 12, and half a step costs a bit a unit.
    fine = curve[5]
    assert fine.psnr == pytest.approx(-10 * math.log10(fine.step**2 / 12), abs=0.3)
    assert curve[4].bits - curve[3].bits == pytest.approx(3, abs=0.25)


def test_rounding_is_to_the_nearest_multiple():
    np.testing.assert_array_equal(
        rate.rounded(np.array([0.24, -0.26, 1.01, 0.0]), 0.5), [0, -1, 2, 0]
    )
    with pytest.raises(ValueError, match="above 0"):
        rate.rate_distortion(np.zeros((2, 2)), lambda _: 0.0, steps=[0.0])


def test_the_cheapest_point_that_loses_nothing_to_be_seen():
    curve = [rate.Rate(4, 10, 20.0), rate.Rate(2, 20, 29.95), rate.Rate(1, 30, 30.0)]
    assert rate.unseen(curve, 30.0) is curve[1]
    assert rate.unseen(curve, 40.0) is curve[2]
