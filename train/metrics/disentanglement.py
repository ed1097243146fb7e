"""How far codes hold known factors apart: MIG, DCI and SAP; beside them `train.metrics.factor_vae`.

All take `codes`, floating `[n, units]` (posterior means, flattened), and `factors`, whole numbers
`[n, F]` (`bin_factors` makes them of anything else), one row an example, and draw by a NumPy
Generator. Constants and protocol are those of Locatello et al. 2019, "Challenging Common
Assumptions in the Unsupervised Learning of Disentangled Representations", as their
`disentanglement_lib` has them, but on a fixed set of examples, where that draws new ones.
Everything is float64 NumPy; trees and support vector machines are scikit-learn's.

None of them has 0 for codes that know nothing, nor 1 for the best there can be where the factors
depend on each other: measure an untrained encoder, permuted factors, and the factors themselves
beside the codes.
"""

from typing import NamedTuple

import numpy as np

from train.errors import UserError


class InformationGap(NamedTuple):
    """The mutual information gap.

    Attributes:
      score: mean over the factors, in [0, 1].
      information: `[units, F]`, mutual information of unit and factor in nats.
      entropy: `[F]`, of the factors, in nats.
    """

    score: float
    information: np.ndarray
    entropy: np.ndarray


class Dci(NamedTuple):
    """Disentanglement, completeness, informativeness.

    Attributes:
      disentanglement: 1 where every unit is important for one factor alone; in [0, 1].
      completeness: 1 where for every factor one unit alone is important; in [0, 1].
      informativeness: share of test examples whose factor is predicted, mean over the factors.
      informativeness_train: the same of the training examples.
      importance: `[units, F]`, of a unit in predicting a factor; each column sums to 1, or to 0.
    """

    disentanglement: float
    completeness: float
    informativeness: float
    informativeness_train: float
    importance: np.ndarray


class Sap(NamedTuple):
    """The separated attribute predictability.

    Attributes:
      score: mean over the factors, in [0, 1].
      accuracy: `[units, F]`, share of test examples whose factor is predicted from the unit.
    """

    score: float
    accuracy: np.ndarray


def bin_factors(factors: np.ndarray, *, bins: int = 10) -> np.ndarray:
    """Factors as whole numbers of few values: int32 `[n, F]`.

    Whole-numbered factors of at most `bins` different values keep them, counted through from 0;
    others are cut into bins of equal width between their least and largest value.
    """
    factors = np.asarray(factors)
    binned = discretise(factors, bins=bins)
    for j, column in enumerate(factors.T):
        values, rank = np.unique(column, return_inverse=True)
        if len(values) <= bins and np.all(values == np.round(values)):
            binned[:, j] = rank
    return binned


def discretise(codes: np.ndarray, *, bins: int = 20) -> np.ndarray:
    """Each column cut into bins of equal width from its least to its largest value.

    `[n, columns]` to int32 0 .. bins - 1; a constant column comes into one bin.
    """
    binned = np.empty(np.shape(codes), np.int32)
    for i, column in enumerate(np.asarray(codes, np.float64).T):
        edges = np.histogram_bin_edges(column, bins)[:-1]
        binned[:, i] = np.digitize(column, edges) - 1
    return binned


def mutual_information(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Plug-in mutual information of columns of whole numbers from 0 up, in nats.

    `[n, A]` and `[n, B]` to `[A, B]`. Its expectation is above 0 for independent columns, by about
    (values of a - 1) (values of b - 1) / 2n.
    """
    a, b = np.asarray(a, np.int64), np.asarray(b, np.int64)
    information = np.empty((a.shape[1], b.shape[1]))
    for i, x in enumerate(a.T):
        for j, y in enumerate(b.T):
            counts = np.bincount(x * (y.max() + 1) + y, minlength=(x.max() + 1) * (y.max() + 1))
            joint = counts.reshape(x.max() + 1, y.max() + 1) / len(x)
            apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0)
            seen = joint > 0
            information[i, j] = np.sum(joint[seen] * np.log(joint[seen] / apart[seen]))
    return np.maximum(information, 0)  # it may round to below 0


def entropy(a: np.ndarray) -> np.ndarray:
    """Plug-in entropy of columns of whole numbers from 0 up, in nats: H(a) = I(a; a), `[A]`."""
    return np.array([mutual_information(x[:, None], x[:, None])[0, 0] for x in np.asarray(a).T])


def mutual_information_gap(
    codes: np.ndarray,
    factors: np.ndarray,
    *,
    random: np.random.Generator,
    samples: int = 10_000,
    bins: int = 20,
) -> InformationGap:
    """MIG: how much more the best unit knows of a factor than the second best, over its entropy.

    mean over j of (largest - second largest over i of I(z_i; y_j)) / H(y_j), each unit in `bins`
    bins of equal width, on at most `samples` of the examples.

    Raises:
      UserError: arrays that do not fit, fewer than two units, or a constant factor.

    Source:
      Chen et al. 2018, "Isolating Sources of Disentanglement in VAEs", Eq. 6.
    """
    codes, factors = checked(codes, factors)
    rows = random.permutation(len(codes))[:samples]
    return information_gap(discretise(codes[rows], bins=bins), factors[rows])


def information_gap(discrete: np.ndarray, factors: np.ndarray) -> InformationGap:
    """MIG of codes that are whole numbers already, `[n, units]`; see `mutual_information_gap`."""
    information = mutual_information(discrete, factors)
    own = entropy(factors)
    return InformationGap(float(np.mean(top_two_gap(information) / own)), information, own)


def top_two_gap(matrix: np.ndarray) -> np.ndarray:
    """Largest less second largest entry of each column, `[units, F]` to `[F]`."""
    second, largest = np.sort(matrix, axis=0)[-2:]
    return largest - second


def dci(
    codes: np.ndarray,
    factors: np.ndarray,
    *,
    random: np.random.Generator,
    train: int = 10_000,
    test: int = 5_000,
) -> Dci:
    """DCI, by the importance of units in trees that predict the factors from all units.

    For each factor a gradient boosting classifier with scikit-learn's defaults; R_ij is the
    importance of unit i for factor j. The factors are fitted in parallel threads. This takes far
    longer than the other metrics, in proportion to examples x units x values of the factors: with
    fewer examples the importances are coarser and the accuracies lower.

    Raises:
      UserError: arrays that do not fit, fewer than two units or factors, or a constant factor.

    Source:
      Eastwood and Williams 2018, "A Framework for the Quantitative Evaluation of Disentangled
      Representations", section 2.
    """
    from joblib import Parallel, delayed
    from sklearn.ensemble import GradientBoostingClassifier

    codes, factors = checked(codes, factors, least_factors=2)
    seen, held = split(len(codes), train=train, test=test, random=random)
    seeds = random.integers(2**31, size=factors.shape[1])
    codes = codes.astype(np.float32)  # what the trees look at

    def fit(y: np.ndarray, seed: int) -> tuple[np.ndarray, float, float]:
        model = GradientBoostingClassifier(random_state=seed).fit(codes[seen], y[seen])
        accuracy = (np.mean(model.predict(codes[rows]) == y[rows]) for rows in (seen, held))
        return np.abs(model.feature_importances_), *accuracy

    fitted = Parallel(n_jobs=-1, prefer="threads")(
        delayed(fit)(y, seed) for y, seed in zip(factors.T, seeds, strict=True)
    )
    importance = np.stack([column for column, _, _ in fitted], axis=1)
    return Dci(
        disentanglement=disentanglement(importance),
        completeness=completeness(importance),
        informativeness=float(np.mean([accuracy for _, _, accuracy in fitted])),
        informativeness_train=float(np.mean([accuracy for _, accuracy, _ in fitted])),
        importance=importance,
    )


def disentanglement(importance: np.ndarray) -> float:
    """Sum over i of rho_i (1 - H_F(R_i.)), rho_i being row i's share of R; R is `[units, F]`."""
    return _concentration(importance)


def completeness(importance: np.ndarray) -> float:
    """Sum over j of rho_j (1 - H_units(R_.j)), rho_j being column j's share of R."""
    return _concentration(importance.T)


def _concentration(importance: np.ndarray) -> float:
    """1 less the entropy of each row, in units of an even row's; a mean weighed by rows' sums."""
    p = importance + 1e-11  # so that a row of zeros is an even one, whose weight is 0
    p = p / p.sum(axis=1, keepdims=True)
    each = 1 + np.sum(p * np.log(p), axis=1) / np.log(importance.shape[1])
    weight = importance.sum(axis=1)
    weight = weight / weight.sum() if weight.sum() > 0 else np.full(len(weight), 1 / len(weight))
    return float(weight @ each)


def sap(
    codes: np.ndarray,
    factors: np.ndarray,
    *,
    random: np.random.Generator,
    train: int = 10_000,
    test: int = 5_000,
) -> Sap:
    """SAP: how much better the best unit predicts a factor than the second best.

    Accuracy on test examples of a linear support vector machine (C = 0.01, classes balanced) from
    unit i to factor j; mean over j of the largest less the second largest.

    Raises:
      UserError: arrays that do not fit, fewer than two units, or a constant factor.

    Source:
      Kumar et al. 2018, "Variational Inference of Disentangled Latent Concepts from Unlabeled
      Observations", section 3, with discrete factors.
    """
    codes, factors = checked(codes, factors)
    groups = [np.array([i]) for i in range(codes.shape[1])]
    seen, held = split(len(codes), train=train, test=test, random=random)
    accuracy = predictability(codes, factors, groups, seen, held)
    return Sap(float(np.mean(top_two_gap(accuracy))), accuracy)


def predictability(
    codes: np.ndarray,
    factors: np.ndarray,
    groups: list[np.ndarray],
    seen: np.ndarray,
    held: np.ndarray,
) -> np.ndarray:
    """Accuracy on rows `held` of machines fitted to rows `seen`, `[groups, F]`; see `sap`.

    A group is the units, by number, that one machine has.
    """
    from sklearn.svm import LinearSVC

    accuracy = np.empty((len(groups), factors.shape[1]))
    for i, units in enumerate(groups):
        for j, y in enumerate(factors.T):
            # Not dual: the same optimum, reached without chance as there are few units.
            machine = LinearSVC(C=0.01, class_weight="balanced", dual=False)
            machine.fit(codes[np.ix_(seen, units)], y[seen])
            accuracy[i, j] = np.mean(machine.predict(codes[np.ix_(held, units)]) == y[held])
    return accuracy


def split_sizes(count: int, *, train: int, test: int) -> tuple[int, int]:
    """How many examples to fit to and to test on: both smaller alike where there are not enough."""
    share = min(1.0, count / (train + test))
    return int(train * share), int(test * share)


def split(
    count: int, *, train: int, test: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Rows to fit to and other rows to test on; see `split_sizes`."""
    train, test = split_sizes(count, train=train, test=test)
    order = random.permutation(count)
    return order[:train], order[train : train + test]


def checked(
    codes: np.ndarray, factors: np.ndarray, *, least_units: int = 2, least_factors: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """The arrays as float64 and int64, when they can be measured.

    Raises:
      UserError: names what was found and what was expected.
    """
    codes, factors = np.asarray(codes, np.float64), np.asarray(factors)
    if codes.ndim != 2 or factors.ndim != 2 or len(codes) != len(factors):
        raise UserError(
            f"codes are {codes.shape} and factors {factors.shape}; expected [n, units] and [n, F]"
        )
    if codes.shape[1] < least_units or factors.shape[1] < least_factors:
        raise UserError(
            f"found {codes.shape[1]} units and {factors.shape[1]} factors; expected at least "
            f"{least_units} and {least_factors}"
        )
    if not np.isfinite(codes).all():
        raise UserError("codes are not all finite")
    if factors.dtype.kind not in "iu" or factors.min(initial=0) < 0:
        raise UserError(
            f"factors are {factors.dtype}; expected whole numbers from 0 up: use bin_factors"
        )
    constant = np.flatnonzero(np.ptp(factors, axis=0) == 0) if len(factors) else [0]
    if len(constant):
        raise UserError(f"factor {constant[0]} has the same value everywhere; leave it out")
    return codes, factors.astype(np.int64)
