"""Sparse codes of 256-dimensional tokens to one accuracy, against scikit-learn.

Accuracy is the relative excess of the objective 1/2 ||x - z D'||^2 + penalty ||z||_1, summed over
the tokens, above its minimum (coordinate descent in float64 to a tolerance of 1e-12). Every solver
runs with the cheapest setting that comes within 1e-4 of the minimum.
"""

import functools
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from medians import compare, report
from skimage import color, data
from sklearn.decomposition import sparse_encode
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Lasso

import bottlenecks as bn

EXCESS = 1e-4
SWEEPS = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)
TOLERANCES = (5e-2, 2e-2, 1e-2, 5e-3, 2e-3, 1e-3, 5e-4, 2e-4, 1e-4)
STEPS = (10, 15, 20, 25, 30, 40, 50, 60, 80, 100, 150, 200, 300)
TOKENS = 1024


def synthetic(rng: np.random.Generator, dictionary: np.ndarray) -> np.ndarray:
    """Tokens made of 5 % of the atoms, amplitude 3 N(0, 1), noise 0.1."""
    d, K = dictionary.shape
    code = np.where(rng.random((TOKENS, K)) < 0.05, 3 * rng.normal(size=(TOKENS, K)), 0)
    return code @ dictionary.T + 0.1 * rng.normal(size=(TOKENS, d))


def patches(rng: np.random.Generator) -> np.ndarray:
    """16x16 patches of photographs without their mean, of standard deviation 1 together."""
    photos = [color.rgb2gray(photo) for photo in (data.astronaut(), data.chelsea(), data.coffee())]
    rows = []
    for i in range(TOKENS):
        photo = photos[i % len(photos)]
        top, left = (rng.integers(0, n - 15) for n in photo.shape)
        rows.append(photo[top : top + 16, left : left + 16].ravel())
    rows = np.asarray(rows)
    rows -= rows.mean(axis=1, keepdims=True)
    return rows / rows.std()


def objective(x: np.ndarray, dictionary: np.ndarray, code: np.ndarray, penalty: float) -> float:
    """In float64, summed over the tokens."""
    code = np.asarray(code, np.float64)
    return float(0.5 * np.sum((x - code @ dictionary.T) ** 2) + penalty * np.sum(np.abs(code)))


def minimum(x: np.ndarray, dictionary: np.ndarray, penalty: float) -> float:
    """By scikit-learn's coordinate descent; its Lasso divides the squared error by the rows."""
    lasso = Lasso(alpha=penalty / len(dictionary), fit_intercept=False, tol=1e-12, max_iter=100_000)
    return objective(x, dictionary, lasso.fit(dictionary, x.T).coef_, penalty)


def cheapest(
    run: Callable[..., np.ndarray], settings: tuple[float, ...], excess: Callable[..., float]
) -> tuple[float, float]:
    """The first of the settings, cheapest first, that is accurate enough, and how accurate."""
    for setting in settings:
        found = excess(run(setting))
        if found <= EXCESS:
            return setting, found
    raise RuntimeError(f"none of the settings {settings} came within {EXCESS} of the minimum")


def measure(name: str, x: np.ndarray, penalty: float, rounds: int) -> None:
    """One data set at one penalty."""
    dictionary = bn.overcomplete_dct()
    D = np.asarray(dictionary, np.float64)
    best = minimum(x, D, penalty)
    tokens = jnp.asarray(x, jnp.float32)

    def excess(code: np.ndarray) -> float:
        return objective(x, D, code, penalty) / best - 1

    def peer(sweeps: int) -> np.ndarray:
        return sparse_encode(x, D.T, algorithm="lasso_cd", alpha=penalty, max_iter=sweeps)

    @functools.partial(jax.jit, static_argnums=1)
    def scan(tokens: jax.Array, steps: int) -> jax.Array:
        return bn.fista(tokens, dictionary, penalty=penalty, iterations=steps).code

    @functools.partial(jax.jit, static_argnums=1)
    def ours(tokens: jax.Array, tolerance: float) -> jax.Array:
        return bn.sparse_code(tokens, dictionary, penalty=penalty, tolerance=tolerance).code

    sweeps, peer_at = cheapest(peer, SWEEPS, excess)
    steps, scan_at = cheapest(lambda n: scan(tokens, n), STEPS, excess)
    tolerance, ours_at = cheapest(lambda gap: ours(tokens, gap), TOLERANCES, excess)
    seconds = compare(
        {
            "sparse_code": lambda: jax.block_until_ready(ours(tokens, tolerance)),
            f"fista, {steps} steps": lambda: jax.block_until_ready(scan(tokens, steps)),
            "scikit-learn, 1000 sweeps": lambda: peer(1000),
            f"scikit-learn, {sweeps} sweeps": lambda: peer(sweeps),
        },
        rounds=rounds,
    )
    report(f"{len(x)} {name}, penalty {penalty}", seconds, ours="sparse_code")
    print(
        f"  relative excess: sparse_code {ours_at:.1e} (tolerance {tolerance}), "
        f"fista {scan_at:.1e}, scikit-learn {excess(peer(1000)):.1e} and {peer_at:.1e}"
    )


def main(rounds: int) -> None:
    """Prints the table."""
    # Stopped early on purpose, to see how few sweeps suffice.
    warnings.simplefilter("ignore", ConvergenceWarning)
    rng = np.random.default_rng(0)
    D = np.asarray(bn.overcomplete_dct(), np.float64)
    for name, x in (("synthetic tokens", synthetic(rng, D)), ("patches", patches(rng))):
        for penalty in (0.5, 3.0):
            measure(name, x, penalty, rounds)


if __name__ == "__main__":
    main(5)
