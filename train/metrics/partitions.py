"""The metrics of `disentanglement` for partitions of the units, and what chance grouping gives.

The units of a code are cut into groups of `partitions` = (d_1 .. d_K) units, in their order, and
each metric looks at the groups where it looked at units. A partition's size matters: a group of
four units knows more of anything than one of two. So a value says nothing without
`permutation_null`, the same for units put into groups of the same sizes at random.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from train.errors import UserError
from train.metrics.disentanglement import (
    checked,
    completeness,
    disentanglement,
    information_gap,
    predictability,
    split,
    top_two_gap,
)
from train.metrics.factor_vae import Variances, count_votes, normalised_variances

# The names of what is measured, in the order of `partition_scores`.
METRICS = ("mig", "dci_disentanglement", "dci_completeness", "sap", "factor_vae")


class Null(NamedTuple):
    """A value and what it is by chance.

    Attributes:
      value: of the partitions as they are.
      mean: over the draws.
      low, high: the 2.5 % and 97.5 % quantiles of the draws.
    """

    value: float
    mean: float
    low: float
    high: float


def partition_scores(
    codes: np.ndarray,
    factors: np.ndarray,
    partitions: tuple[int, ...],
    *,
    importance: np.ndarray,
    random: np.random.Generator,
    **sizes: int,
) -> dict[str, float]:
    """MIG, DCI, SAP and FactorVAE score of partitions, by the names in `METRICS`.

    Each is as for units, with a group in a unit's place:
      MIG: a group's vector is made discrete by k-means, 20 clusters for every group, whatever its
        size: bins of a joint of several units would be mostly empty, and their number, and with it
        the bias of the mutual information, would grow with the size. Units are not scaled: a
        collapsed one, whose posterior means hardly vary, has no say. On the same examples the
        value of a group of one unit is near that of its equal-width bins, not the same.
      DCI: a group's importance is the sum of its units'.
      SAP: the machine has all units of the group.
      FactorVAE: a group's variance is the mean of its active units' normalised ones; a group
        without an active unit does not vote. With fewer groups than factors the score stays below
        1, and a group that merely has more of one factor's units than the others votes for it.

    Args:
      codes: `[n, units]`.
      factors: whole numbers `[n, F]`.
      partitions: sizes of the groups, in the units' order.
      importance: `[units, F]`, from `disentanglement.dci` of these codes: the costly part, which
        no grouping changes.
      random: draws the examples.
      **sizes: `samples` (10,000; MIG), `clusters` (20), `train` and `test` (10,000, 5,000; SAP),
        and of the FactorVAE score `votes` (10,000), `test_votes` (5,000), `batch` (64).

    Raises:
      UserError: arrays that do not fit, or partitions that are not of these units.
    """
    score = _scorer(codes, factors, partitions, importance, random, **sizes)
    return score(np.arange(codes.shape[1]))


def permutation_null(
    codes: np.ndarray,
    factors: np.ndarray,
    partitions: tuple[int, ...],
    *,
    importance: np.ndarray,
    random: np.random.Generator,
    draws: int = 100,
    **sizes: int,
) -> dict[str, Null]:
    """`partition_scores`, beside those of units put into groups of the same sizes at random.

    The units are permuted `draws` times and everything else stays the same: the examples, the
    starts of k-means, the votes. A value inside the range is what any grouping of these units
    gives. Arguments and errors are those of `partition_scores`.
    """
    score = _scorer(codes, factors, partitions, importance, random, **sizes)
    units = codes.shape[1]
    own = score(np.arange(units))
    drawn = [score(random.permutation(units)) for _ in range(draws)]
    null = {}
    for name, value in own.items():
        by_chance = [each[name] for each in drawn]
        low, high = np.quantile(by_chance, [0.025, 0.975])
        null[name] = Null(value, float(np.mean(by_chance)), float(low), float(high))
    return null


def _scorer(
    codes: np.ndarray,
    factors: np.ndarray,
    partitions: tuple[int, ...],
    importance: np.ndarray,
    random: np.random.Generator,
    *,
    samples: int = 10_000,
    clusters: int = 20,
    train: int = 10_000,
    test: int = 5_000,
    votes: int = 10_000,
    test_votes: int = 5_000,
    batch: int = 64,
) -> Callable[[np.ndarray], dict[str, float]]:
    """`score(order)`: of the groups of the units in that order. Draws all that it draws here."""
    codes, factors = checked(codes, factors, least_factors=2)
    n, units = codes.shape
    if len(partitions) < 2 or min(partitions) < 1 or sum(partitions) != units:
        raise UserError(
            f"partitions are {tuple(partitions)}; expected two or more sizes whose sum is the "
            f"number of units, {units}"
        )
    if importance.shape != (units, factors.shape[1]):
        raise UserError(
            f"importance is {importance.shape}; expected {(units, factors.shape[1])}, one for "
            "each unit and factor"
        )
    rows = random.permutation(n)[:samples]
    start = int(random.integers(2**31))
    seen, held = split(n, train=train, test=test, random=random)
    variances = normalised_variances(
        codes,
        factors,
        random=random,
        samples=samples,
        votes=votes + test_votes,
        batch=batch,
        least_deviation=0.05,
    )

    def score(order: np.ndarray) -> dict[str, float]:
        groups = [np.sort(group) for group in np.split(order, np.cumsum(partitions)[:-1])]
        discrete = [cluster(codes[np.ix_(rows, g)], clusters, seed=start) for g in groups]
        grouped = np.stack([importance[group].sum(axis=0) for group in groups])
        accuracy = predictability(codes, factors, groups, seen, held)
        voted = count_votes(_grouped(variances, groups), train=votes)
        values = (
            information_gap(np.stack(discrete, axis=1), factors[rows]).score,
            disentanglement(grouped),
            completeness(grouped),
            float(np.mean(top_two_gap(accuracy))),
            voted.score,
        )
        return dict(zip(METRICS, values, strict=True))

    return score


def cluster(codes: np.ndarray, clusters: int, *, seed: int) -> np.ndarray:
    """The vectors `[n, units]` made whole numbers `[n]` by k-means, as many as clusters at most."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    different = len(np.unique(codes, axis=0))
    if different == 1:
        return np.zeros(len(codes), np.int64)
    means = KMeans(min(clusters, different), n_init=1, max_iter=50, random_state=seed)
    # On one thread: it is little work, and threads that wait for each other take many times as long
    # where other processes use the cores.
    with threadpool_limits(1):
        return means.fit_predict(codes)


def _grouped(variances: Variances, groups: list[np.ndarray]) -> Variances:
    """The variances of the groups: means over their active units, inf where there is none."""
    active = np.isfinite(variances.ratio[0])
    ratio = np.full((len(variances.ratio), len(groups)), np.inf)
    for i, group in enumerate(groups):
        if active[group].any():
            ratio[:, i] = variances.ratio[:, group[active[group]]].mean(axis=1)
    return variances._replace(ratio=ratio)
