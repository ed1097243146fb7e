"""Learned ISTA: a few proximal steps whose matrices, step lengths and thresholds are trained.

The papers' columns b, A, x are rows e, D, z here, as in `bottlenecks.sparse`, and matrices are
stored to be multiplied from the right: W_e and W are `[d, K]`; S `[K, K]` is transposed.

    LISTA     z+ = ST(e W_e + z S, theta_k)                Gregor & LeCun 2010
    LISTA-CP  z+ = ST(z + (e - z D^T) W_k, theta_k)        Chen et al. 2018, weight coupling
    TiLISTA   z+ = ST(z + gamma_k (e - z D^T) W, theta_k)  Liu et al. 2019, one W for all layers
    ALISTA    the same with W from D alone                 Liu et al. 2019, analytic weights

With p and p_max (in percent; 1.2 and 13 for 16 layers in the papers) the largest entries pass
unshrunk, "support selection" (Chen et al. 2018): LISTA-CPSS is LISTA-CP with it.

theta has a row per layer, `[T]` or `[T, K]` (a threshold per atom), and so sets the depth T. A
matrix with a leading axis T is each layer's own; without it all layers share it. A threshold below
0 acts as 0. Every `start_*` gives weights that equal T steps of `ista`.

Sources: Gregor & LeCun 2010, "Learning Fast Approximations of Sparse Coding"; Chen, Liu, Wang & Yin
2018, "Theoretical Linear Convergence of Unfolded ISTA and its Practical Weights and Thresholds",
https://arxiv.org/abs/1808.10038; Liu, Chen, Wang & Yin 2019, "ALISTA: Analytic Weights Are As Good
As Learned Weights in LISTA".
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from bottlenecks.dictionaries import (
    analytic_weights,
    check_dictionary,
    gram,
    spectral_norm_squared,
)
from bottlenecks.floating import check_floating
from bottlenecks.sparse import ista
from bottlenecks.sparse_codes import (
    SparseCode,
    as_sparse_code,
    check_signals,
    matmul,
    soft_threshold,
    spread,
    start_at,
)
from bottlenecks.support_selection import select_support


class ListaWeights(NamedTuple):
    """Weights of `lista`.

    Attributes:
      W_e: `[d, K]` or `[T, d, K]`, the filters.
      S: `[K, K]` or `[T, K, K]`, the lateral matrix.
      theta: `[T]` or `[T, K]`, the thresholds.
    """

    W_e: chex.Array
    S: chex.Array
    theta: chex.Array


class CoupledWeights(NamedTuple):
    """Weights of `lista_cp`.

    Attributes:
      W: `[d, K]` or `[T, d, K]`.
      theta: `[T]` or `[T, K]`, the thresholds.
    """

    W: chex.Array
    theta: chex.Array


class TiedWeights(NamedTuple):
    """Weights of `tilista`.

    Attributes:
      W: `[d, K]`, shared by the layers.
      gamma: `[T]`, the step lengths.
      theta: `[T]` or `[T, K]`, the thresholds.
    """

    W: chex.Array
    gamma: chex.Array
    theta: chex.Array


class StepWeights(NamedTuple):
    """Weights of `alista`: two numbers a layer.

    Attributes:
      gamma: `[T]`, the step lengths.
      theta: `[T]` or `[T, K]`, the thresholds.
    """

    gamma: chex.Array
    theta: chex.Array


def start_lista(
    dictionary: chex.Array, *, penalty: float, layers: int, tied: bool = True
) -> ListaWeights:
    """W_e = D / c, S = I - D^T D / c and theta = alpha / c: ISTA.

    Args:
      dictionary: floating `[d, K]`.
      penalty: alpha.
      layers: T.
      tied: one W_e and S for all layers, as in Gregor & LeCun 2010; else each layer its own.

    Returns:
      A `ListaWeights`, float32.

    Raises:
      ValueError: if the dictionary is not floating `[d, K]` or layers < 1.
    """
    D, c, theta = _start(dictionary, penalty, layers)
    weights = ListaWeights(W_e=D / c, S=jnp.eye(D.shape[1]) - gram(D.T) / c, theta=theta)
    if tied:
        return weights
    return weights._replace(W_e=_each(weights.W_e, layers), S=_each(weights.S, layers))


def start_lista_cp(dictionary: chex.Array, *, penalty: float, layers: int) -> CoupledWeights:
    """W_k = D / c and theta = alpha / c: ISTA. Otherwise as `start_lista`."""
    D, c, theta = _start(dictionary, penalty, layers)
    return CoupledWeights(W=_each(D / c, layers), theta=theta)


def start_tilista(dictionary: chex.Array, *, penalty: float, layers: int) -> TiedWeights:
    """W = D, gamma = 1 / c and theta = alpha / c: ISTA. Otherwise as `start_lista`."""
    D, c, theta = _start(dictionary, penalty, layers)
    return TiedWeights(W=D, gamma=jnp.ones_like(theta) / c, theta=theta)


def start_alista(dictionary: chex.Array, *, penalty: float, layers: int) -> StepWeights:
    """Gives gamma = 1 / c and theta = alpha / c: ISTA, were W = D. Otherwise as `start_lista`."""
    _, c, theta = _start(dictionary, penalty, layers)
    return StepWeights(gamma=jnp.ones_like(theta) / c, theta=theta)


def lista(
    signals: chex.Array,
    dictionary: chex.Array,
    weights: ListaWeights,
    *,
    p: float = 0.0,
    p_max: float = 0.0,
    start: chex.Array | None = None,
    keep_iterates: bool = False,
) -> SparseCode:
    """LISTA (Gregor & LeCun 2010): T layers z+ = ST(e W_e + z S, theta_k).

    Args:
      signals: floating `[..., d]`, e.
      dictionary: floating `[d, K]`, D; makes the latent z D^T.
      weights: see `start_lista`; its theta gives the depth.
      p: entries selected in layer k = 1 .. T in percent of K are min(p k, p_max); 0 for none.
      p_max: see p.
      start: `[..., K]`, z before the first layer; 0 by default.
      keep_iterates: return the code after each layer as well.

    Returns:
      A `SparseCode`.

    Raises:
      ValueError: if shapes do not fit, an array is not floating or p or p_max is not in 0 .. 100.
    """
    e, D = _float32(signals, dictionary)

    def layer(z: chex.Array, w: ListaWeights) -> jax.Array:
        return matmul(e, w.W_e) + matmul(z, w.S)

    d, K = D.shape
    shapes = dict(W_e=(d, K), S=(K, K))
    return _unroll(layer, signals, dictionary, weights, shapes, p, p_max, start, keep_iterates)


def lista_cp(
    signals: chex.Array,
    dictionary: chex.Array,
    weights: CoupledWeights,
    *,
    p: float = 0.0,
    p_max: float = 0.0,
    start: chex.Array | None = None,
    keep_iterates: bool = False,
) -> SparseCode:
    """LISTA-CP (Chen et al. 2018): T layers z+ = ST(z + (e - z D^T) W_k, theta_k).

    With p > 0 it is LISTA-CPSS. Arguments, result and errors as of `lista`.
    """
    e, D = _float32(signals, dictionary)

    def layer(z: chex.Array, w: CoupledWeights) -> jax.Array:
        return z + matmul(e - matmul(z, D.T), w.W)

    return _unroll(
        layer, signals, dictionary, weights, dict(W=D.shape), p, p_max, start, keep_iterates
    )


def tilista(
    signals: chex.Array,
    dictionary: chex.Array,
    weights: TiedWeights,
    *,
    p: float = 0.0,
    p_max: float = 0.0,
    start: chex.Array | None = None,
    keep_iterates: bool = False,
) -> SparseCode:
    """TiLISTA (Liu et al. 2019): T layers z+ = ST(z + gamma_k (e - z D^T) W, theta_k).

    Arguments, result and errors as of `lista`.
    """
    e, D = _float32(signals, dictionary)

    def layer(z: chex.Array, w: TiedWeights) -> jax.Array:
        return z + w.gamma * matmul(e - matmul(z, D.T), w.W)

    shapes = dict(W=D.shape, gamma=())
    return _unroll(layer, signals, dictionary, weights, shapes, p, p_max, start, keep_iterates)


def alista(
    signals: chex.Array,
    dictionary: chex.Array,
    weights: StepWeights,
    *,
    analytic: chex.Array | None = None,
    p: float = 0.0,
    p_max: float = 0.0,
    start: chex.Array | None = None,
    keep_iterates: bool = False,
) -> SparseCode:
    """ALISTA (Liu et al. 2019): TiLISTA with W from the dictionary; 2 T numbers are learned.

    Arguments, result and errors as of `lista`, and
      analytic: `[d, K]`, `analytic_weights(dictionary)`, by default computed anew: pass it in where
        the dictionary stays.
    """
    check_dictionary(dictionary)
    W = analytic_weights(dictionary) if analytic is None else analytic
    weights = TiedWeights(W=W, gamma=weights.gamma, theta=weights.theta)
    return tilista(
        signals, dictionary, weights, p=p, p_max=p_max, start=start, keep_iterates=keep_iterates
    )


def published_scvae(
    signals: chex.Array,
    dictionary: chex.Array,
    *,
    penalty: chex.Array | float,
    iterations: int,
    c: chex.Array | float | None = None,
    keep_iterates: bool = False,
) -> SparseCode:
    """The bottleneck of SC-VAE as released: ISTA on D, started where ISTA never is.

    With y = e D, S = I - D^T D / c and theta = alpha / c the released code runs z_0 = ST(y, theta),
    where ISTA's first step is ST(y / c, theta), then T times z = ST(z S + y / c, theta). Nothing in
    it is learned but D and c. The steps are taken here in residual form, which is equal.

    Source: Xiao et al. 2025, "SC-VAE: Sparse Coding-based Variational Autoencoder", Pattern
    Recognition 161, https://arxiv.org/abs/2303.16666, and its released code.

    Args:
      signals: floating `[..., d]`, e.
      dictionary: floating `[d, K]`, D, in the release `overcomplete_dct()` and trained.
      penalty: alpha, a number or `[]`; 3 or 2 or 0.5 in the release.
      iterations: T, 16 or 30 in the release: T + 1 thresholds in all.
      c: `[]`, in the release a parameter that starts at `spectral_norm_squared(dictionary)`, which
        is the default.
      keep_iterates: return z_1 .. z_T as well.

    Returns:
      A `SparseCode`.

    Raises:
      ValueError: as `ista`.
    """
    e, D = _float32(signals, dictionary)
    c = spectral_norm_squared(D) if c is None else jnp.asarray(c, jnp.float32)
    y = matmul(e, D)
    z_0 = soft_threshold(y, spread(penalty, y.shape, "penalty") / c)
    return ista(
        signals,
        dictionary,
        penalty=penalty,
        iterations=iterations,
        c=c,
        start=z_0,
        keep_iterates=keep_iterates,
    )


def _unroll(
    layer: Callable[[jax.Array, NamedTuple], jax.Array],
    signals: chex.Array,
    dictionary: chex.Array,
    weights: NamedTuple,
    shapes: dict[str, tuple[int, ...]],
    p: float,
    p_max: float,
    start: chex.Array | None,
    keep_iterates: bool,
) -> SparseCode:
    """Layers one after the other; `shapes` are those of the weights that layers may share."""
    e, D = _float32(signals, dictionary)
    K = D.shape[1]
    check_floating(**weights._asdict())
    weights = jax.tree.map(lambda w: w.astype(jnp.float32), weights)
    T = weights.theta.shape[0] if weights.theta.ndim else 0
    if weights.theta.shape not in ((T,), (T, K)) or T < 1:
        raise ValueError(
            f"theta is [T] or [T, K] with K = {K}, a row per layer; got {weights.theta.shape}."
        )
    own = {"theta": weights.theta}
    for name, shape in shapes.items():
        found = getattr(weights, name).shape
        if found == (T, *shape):
            own[name] = getattr(weights, name)
        elif found != shape:
            raise ValueError(
                f"{name} is {shape}, or {(T, *shape)} with a leading axis of layers like theta; "
                f"got {found}."
            )
    if not 0 <= p <= 100 or not 0 <= p_max <= 100:
        raise ValueError(f"p and p_max are percentages, 0 to 100, got p={p} and p_max={p_max}.")
    percent = np.minimum(p * np.arange(1, T + 1), p_max)
    selected = np.round((K - 1) * percent / 100).astype(np.int32)

    def step(z: chex.Array, own: tuple) -> tuple[chex.Array, chex.Array]:
        arrays, selected = own
        w = weights._replace(**arrays)
        theta = jnp.where(w.theta > 0, w.theta, 0)
        v = layer(z, w)
        z = select_support(v, theta, selected) if p and p_max else soft_threshold(v, theta)
        return z, (z if keep_iterates else None)

    like = matmul(e, D)
    for array in weights:  # the carry varies over the devices that any of these varies over
        like = like + array.ravel()[0]
    z = jnp.zeros_like(like) if start is None else start_at(start, like)
    z, iterates = jax.lax.scan(step, z, (own, selected))
    return as_sparse_code(signals, dictionary, z, iterates)


def _start(
    dictionary: chex.Array, penalty: float, layers: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """D, c and theta."""
    check_dictionary(dictionary)
    if layers < 1:
        raise ValueError(f"layers is the depth T, 1 or more, got {layers}.")
    D = dictionary.astype(jnp.float32)
    c = spectral_norm_squared(D)
    return D, c, jnp.full((layers,), penalty, jnp.float32) / c


def _each(array: chex.Array, layers: int) -> jax.Array:
    return jnp.tile(array[None], (layers, 1, 1))


def _float32(signals: chex.Array, dictionary: chex.Array) -> tuple[jax.Array, jax.Array]:
    check_signals(signals, dictionary)
    return signals.astype(jnp.float32), dictionary.astype(jnp.float32)
