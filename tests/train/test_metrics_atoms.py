"""Use of atoms against counts made by hand."""

import jax
import numpy as np
import pytest

from train.errors import UserError
from train.metrics.atoms import atoms_evaluator


class Given:
    """A model whose codes are in the batch."""

    def apply(self, variables, batch, *, train, rngs):
        class Output:
            code = batch["code"]

        return Output


def sums(code, mask):
    batch = {"code": code, "mask": np.asarray(mask, np.float32)}
    return atoms_evaluator().sums(Given(), {}, batch, jax.random.key(0))


def test_atoms_are_counted_over_examples_and_positions_under_the_mask():
    code = np.zeros((3, 2, 2, 4), np.float32)
    code[0, :, :, 0] = 1.0  # at every position of one example
    code[1, 0, 0, 1] = -2.0  # at one of the eight
    code[2] = 5.0  # padding
    summary = atoms_evaluator().summary(sums(code, [1, 1, 0]))
    assert summary == {"used_atoms": 2, "usual_atoms": 2, "atoms_per_position": 5 / 8}
    many = np.zeros((1, 30, 10, 2), np.float32)
    many[0, 0, 0, 1] = 1.0  # one position of 300 is not usual
    summary = atoms_evaluator().summary(sums(many, [1]))
    assert (summary["used_atoms"], summary["usual_atoms"]) == (1, 0)


def test_indices_are_refused():
    with pytest.raises(UserError, match='evaluator "codes"'):
        sums(np.zeros((2, 4), np.int32), [1, 1])
