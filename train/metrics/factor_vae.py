"""The FactorVAE score: whether the unit that varies least tells which factor was held fixed.

Codes, factors and examples are as in `train.metrics.disentanglement`.
"""

from typing import NamedTuple

import numpy as np

from train.errors import UserError
from train.metrics.disentanglement import checked


class FactorVaeScore(NamedTuple):
    """The FactorVAE score.

    Attributes:
      score: share of the test votes that name the fixed factor.
      train_score: the same of the votes that the classifier was made of.
      active: how many units vary enough to vote.
      votes: `[units, F]`, training votes for a unit while a factor was fixed.
    """

    score: float
    train_score: float
    active: int
    votes: np.ndarray


def factor_vae_score(
    codes: np.ndarray,
    factors: np.ndarray,
    *,
    random: np.random.Generator,
    samples: int = 10_000,
    train: int = 10_000,
    test: int = 5_000,
    batch: int = 64,
    least_deviation: float = 0.05,
) -> FactorVaeScore:
    """FactorVAE score: whether the unit that varies least tells which factor was fixed.

    A vote: draw a factor, then an example, then `batch` different examples that share its value of
    the factor; the vote is for the unit with the smallest variance among them, over its variance in
    `samples` examples. The factor that most of `train` votes for a unit came from is that unit's;
    the score is the share of `test` more votes whose unit has the right one. Units whose standard
    deviation is below `least_deviation` do not vote; if none does, the score is 0. A value that
    fewer than `batch` examples share is never fixed. Chance is 1/F.

    Raises:
      UserError: arrays that do not fit, or a factor without a value that `batch` examples share.

    Source:
      Kim and Mnih 2018, "Disentangling by Factorising", section 4.
    """
    variances = normalised_variances(
        codes,
        factors,
        random=random,
        samples=samples,
        votes=train + test,
        batch=batch,
        least_deviation=least_deviation,
    )
    return count_votes(variances, train=train)


class Variances(NamedTuple):
    """What `normalised_variances` found.

    Attributes:
      fixed: int `[votes]`, the factor that was fixed.
      ratio: `[votes, units]`, variance in the batch over that of all; inf for an inactive unit.
      factors: F.
    """

    fixed: np.ndarray
    ratio: np.ndarray
    factors: int


def normalised_variances(
    codes: np.ndarray,
    factors: np.ndarray,
    *,
    random: np.random.Generator,
    samples: int,
    votes: int,
    batch: int,
    least_deviation: float,
) -> Variances:
    """Variances of the units while one factor is fixed; see `factor_vae_score`."""
    codes, factors = checked(codes, factors, least_units=1)
    n, F = factors.shape
    overall = np.var(codes[random.permutation(n)[:samples]], axis=0, ddof=1)
    active = np.sqrt(overall) >= least_deviation
    sharers = []  # of each factor: the examples of each value that enough share, and how many
    for j, y in enumerate(factors.T):
        rows = np.split(np.argsort(y, kind="stable"), np.cumsum(np.bincount(y))[:-1])
        rows = [each for each in rows if len(each) >= batch]
        if not rows:
            raise UserError(
                f"no value of factor {j} is shared by {batch} of the {n} examples; take more "
                "examples or fewer bins"
            )
        sharers.append((rows, np.cumsum([len(each) for each in rows])))
    fixed = random.integers(F, size=votes)
    ratio = np.full((votes, codes.shape[1]), np.inf)
    for vote, j in enumerate(fixed):
        rows, ends = sharers[j]
        value = np.searchsorted(ends, random.integers(ends[-1]), side="right")
        drawn = random.choice(rows[value], batch, replace=False)
        local = np.var(codes[drawn], axis=0, ddof=1)
        ratio[vote, active] = local[active] / overall[active]
    return Variances(fixed, ratio, F)


def count_votes(variances: Variances, *, train: int) -> FactorVaeScore:
    """The score of votes, of which the first `train` make the classifier."""
    fixed, ratio, F = variances
    units = ratio.shape[1]
    active = int(np.isfinite(ratio[0]).sum())
    votes = np.zeros((2, units, F), np.int64)
    if active == 0:
        return FactorVaeScore(0.0, 0.0, 0, votes[0])
    tested = (np.arange(len(fixed)) >= train).astype(np.int64)
    np.add.at(votes, (tested, np.argmin(ratio, axis=1), fixed), 1)
    names = np.argmax(votes[0], axis=1)
    train_score, score = votes[:, np.arange(units), names].sum(axis=1) / votes.sum(axis=(1, 2))
    return FactorVaeScore(float(score), float(train_score), active, votes[0])
