"""What the units of capsules share, in NumPy: W, correlations of t^2, classes that units tell.

Source: "Topographic VAEs learn Equivariant Capsules" (Keller & Welling 2021,
https://arxiv.org/abs/2109.01394), its Figure 3 and what its release logs. Capsules t are
`[n, S, C, D]`, S frames and C capsules of D places, or `[n, C, D]`, units of one torus.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

THRESHOLD = 0.85  # of d', from where on a unit tells a class, as released


def weights(bottleneck: Any, frames: int) -> np.ndarray:
    """W of one capsule, or of the torus, from the energies of one u at a time.

    Args:
      bottleneck: `TopographicCapsules` with a W.
      frames: of a sequence; 0: single images on a torus.

    Returns:
      `[rows, D, rows, D]`: how often u^2 at the last two is in v at the first two. Rows are frames,
      or the capsules of a torus.
    """
    rows, D = frames or bottleneck.capsules, bottleneck.places
    u = np.eye(rows * D, dtype=np.float32).reshape(-1, rows, D)
    # Capsules do not mix: one of them shows all of W.
    v = bottleneck.energy(jnp.asarray(u[:, :, None] if frames else u))
    return np.moveaxis(np.asarray(v).reshape(rows, D, rows, D), (0, 1), (2, 3))


def taps(w: np.ndarray) -> np.ndarray:
    """Where the energy of a unit in the middle comes from.

    Args:
      w: `[rows, D, rows, D]`, as `weights` gives it.

    Returns:
      int `[taps, 2]`: rows and places away from the unit.
    """
    middle = tuple((size - 1) // 2 for size in w.shape[:2])
    return np.argwhere(w[middle] > 0) - middle


def correlation(x: np.ndarray) -> np.ndarray:
    """Pearson's correlations of the columns of `[n, units]`: `[units, units]`.

    0 on the diagonal, as the release has it, and for columns that are constant.
    """
    x = np.asarray(x, np.float64)
    away = x - x.mean(axis=0)
    length = np.linalg.norm(away, axis=0)
    varied = length > 1e-9 * np.linalg.norm(x, axis=0)
    away = np.where(varied, away, 0) / np.where(varied, length, 1)
    found = away.T @ away
    np.fill_diagonal(found, 0)
    return found


def covariance_of_units(t: np.ndarray) -> np.ndarray:
    """Correlations of t^2 between the units of a frame, over examples and frames: `[C D, C D]`.

    Under the prior t^2 has no variance where W has fewer than five taps: a few large values decide.
    """
    return correlation(np.square(t, dtype=np.float64).reshape(-1, t.shape[-2] * t.shape[-1]))


def covariance_over_time(t: np.ndarray) -> np.ndarray:
    """Correlations of t^2 between frames and places of a capsule, the mean over capsules.

    Args:
      t: `[n, S, C, D]`.

    Returns:
      `[S D, S D]`.
    """
    each = np.moveaxis(np.square(t, dtype=np.float64), 2, 0)
    return np.mean([correlation(capsule.reshape(len(t), -1)) for capsule in each], axis=0)


def by_offset(matrix: np.ndarray, rows: int, places: int) -> np.ndarray:
    """The mean of a matrix `[rows places, rows places]` by how far its two units are apart.

    Returns:
      `[rows, places]`: at (a, e) the mean over units (l, i) of the entry for (l, i) and
      (l + a, i + e), both going round.
    """
    matrix = matrix.reshape(rows, places, rows, places)
    here, there = np.indices((rows, places)), np.empty((rows, places))
    for a, e in np.ndindex(rows, places):
        there[a, e] = matrix[(*here, (here[0] + a) % rows, (here[1] + e) % places)].mean()
    return there


def selectivity(t: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The d' of each unit for each class: (m_c - m_rest) / sqrt((v_c + v_rest) / 2).

    Args:
      t: `[n, units]`.
      label: int `[n]`, at least two values.

    Returns:
      `[classes, units]`, the classes in the order of their labels; 0 where nothing varies.
    """
    found = []
    for c in np.unique(label):
        mine, rest = (np.asarray(t[label == c], np.float64), np.asarray(t[label != c], np.float64))
        spread = np.sqrt((mine.var(axis=0) + rest.var(axis=0)) / 2)
        found.append((mine.mean(axis=0) - rest.mean(axis=0)) / np.where(spread > 0, spread, np.inf))
    return np.array(found)


def told_classes(d: np.ndarray) -> np.ndarray:
    """The class of largest d' of each unit, -1 where that is below `THRESHOLD`.

    Of several that reach it, the release takes the last one. `d` is `[classes, units]`.
    """
    return np.where(d.max(axis=0) >= THRESHOLD, d.argmax(axis=0), -1)


def agreement(told: np.ndarray) -> float:
    """Share of neighbours on a torus that tell the same class, of those that both tell one.

    Args:
      told: int `[C, D]`, -1 where a unit tells none.

    Returns:
      NaN where no two neighbours tell one.
    """
    beside = np.stack([np.roll(told, -1, axis=axis) for axis in (0, 1)])
    pairs = (told >= 0) & (beside >= 0)
    return float((told == beside)[pairs].mean()) if pairs.any() else float("nan")
