"""Dictionaries for sparse coding: cosine atoms of image patches, and what one asks of a dictionary.

A dictionary is `[d, K]`: K atoms d_j as columns, so that a code z `[..., K]` stands for z D^T.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from bottlenecks.floating import check_floating


def dct_dictionary(side: int) -> jax.Array:
    """The orthonormal two-dimensional DCT-II (Ahmed, Natarajan & Rao 1974) of square patches.

    Pixel (a, b) of a patch is row side * a + b, and frequency (k, l) is column side * k + l:
    D = V x V (Kronecker) with V[a, k] = s_k cos(pi (2a + 1) k / (2 side)).

    Args:
      side: of the patch, 1 or more.

    Returns:
      float32 `[side^2, side^2]`, D D^T = I.

    Raises:
      ValueError: if side < 1.
    """
    if side < 1:
        raise ValueError(f"side is the side of a square patch, 1 or more, got {side}.")
    a, k = np.arange(side)[:, None], np.arange(side)
    V = np.cos(np.pi * (2 * a + 1) * k / (2 * side))
    V = V / np.linalg.norm(V, axis=0)
    return jnp.asarray(np.kron(V, V), jnp.float32)


def overcomplete_dct(*, side: int = 16, frequencies: int = 23, atoms: int = 512) -> jax.Array:
    """More cosine atoms than pixels: the dictionary that SC-VAE starts from.

    V_k[t] = cos(pi k t / frequencies), less its mean for k > 0, scaled to norm 1, and
    D[side * a + b, frequencies * k + l] = V_k[b] V_l[a]; columns from `atoms` on are left out. Only
    atom 0 has a mean. At the defaults the coherence is 0.8613 and ||D||_2^2 = 7.41724.

    Source: Xiao et al. 2025, "SC-VAE: Sparse Coding-based Variational Autoencoder", Pattern
    Recognition 161, https://arxiv.org/abs/2303.16666, as released (`init_dct(16, 23)`); after
    Aharon, Elad & Bruckstein 2006, "K-SVD".

    Args:
      side: of the patch, 2 or more.
      frequencies: per direction, 1 or more.
      atoms: columns kept, in 1 .. frequencies^2.

    Returns:
      float32 `[side^2, atoms]`, columns of norm 1.

    Raises:
      ValueError: if an argument is out of range.
    """
    if side < 2 or frequencies < 1:
        raise ValueError(
            f"side is 2 or more and frequencies 1 or more, got side={side}, "
            f"frequencies={frequencies}."
        )
    if not 1 <= atoms <= frequencies**2:
        raise ValueError(
            f"atoms is in 1 .. frequencies^2 = {frequencies**2}, got {atoms}; raise frequencies."
        )
    t, k = np.arange(side)[:, None], np.arange(frequencies)
    V = np.cos(np.pi * k * t / frequencies)
    V[:, 1:] -= V[:, 1:].mean(axis=0)
    V = V / np.linalg.norm(V, axis=0)
    D = np.einsum("bk,al->abkl", V, V).reshape(side**2, frequencies**2)
    return jnp.asarray(D[:, :atoms], jnp.float32)


def coherence(dictionary: chex.Array) -> chex.Array:
    """The mutual coherence max_{i != j} |d_i^T d_j| / (||d_i|| ||d_j||).

    Args:
      dictionary: floating `[d, K]`, K 2 or more; an atom that is 0 counts as orthogonal to all.

    Returns:
      float32 `[]`, from 0 (orthogonal atoms) to 1 (two that are parallel).

    Raises:
      ValueError: if the dictionary is not floating `[d, K]` with K 2 or more.
    """
    check_dictionary(dictionary)
    atoms = dictionary.shape[1]
    if atoms < 2:
        raise ValueError(f"Coherence compares atoms, 2 or more; got dictionary {dictionary.shape}.")
    D = dictionary.astype(jnp.float32)
    squared = jnp.sum(jnp.square(D), axis=0, keepdims=True)
    norm = jnp.sqrt(jnp.where(squared > 0, squared, 1))
    G = gram((D / norm).T)
    return jnp.max(jnp.where(jnp.eye(atoms, dtype=bool), 0, jnp.abs(G)))


def spectral_norm_squared(dictionary: chex.Array) -> chex.Array:
    """Gives c = ||D||_2^2, the largest eigenvalue of D^T D: steps of 1 / c never overshoot.

    From all eigenvalues of the smaller Gram matrix, so that it is good to float32 rounding (about
    1e-6 of c) whatever the spectrum; a power iteration would end below c where the two largest are
    close, and steps would then be too long. Compute it once for a dictionary that stays.

    Args:
      dictionary: floating `[d, K]`, D.

    Returns:
      float32 `[]`, differentiable (where the largest eigenvalue is simple).

    Raises:
      ValueError: if the dictionary is not floating `[d, K]`.
    """
    check_dictionary(dictionary)
    D = dictionary.astype(jnp.float32)
    return jnp.linalg.eigvalsh(gram(D if D.shape[0] <= D.shape[1] else D.T))[-1]


def analytic_weights(dictionary: chex.Array) -> chex.Array:
    """ALISTA's W: least ||W^T D||_F^2 with w_i^T d_i = 1 for every atom.

    The columns part, so that w_i = (D D^T)^-1 d_i / (d_i^T (D D^T)^-1 d_i), where the paper's code
    takes a thousand steps of projected gradient. Source: Liu, Chen, Wang & Yin 2019, "ALISTA:
    Analytic Weights Are As Good As Learned Weights in LISTA".

    Args:
      dictionary: floating `[d, K]` of rank d (so K >= d; of lower rank the result is not finite).

    Returns:
      float32 `[d, K]`; 0 for an atom that is 0.

    Raises:
      ValueError: if the dictionary is not floating `[d, K]` with K >= d.
    """
    check_dictionary(dictionary)
    d, K = dictionary.shape
    if d > K:
        raise ValueError(
            f"Analytic weights need at least as many atoms as dimensions, for D D^T is inverted; "
            f"got a dictionary {(d, K)}."
        )
    D = dictionary.astype(jnp.float32)
    solved = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(gram(D)), D)
    scale = jnp.sum(D * solved, axis=0, keepdims=True)
    return solved / jnp.where(scale == 0, 1, scale)


def gram(rows: chex.Array) -> jax.Array:
    """The inner products of the rows, `[n, m]` to `[n, n]`."""
    return jnp.matmul(rows, rows.T, precision=jax.lax.Precision.HIGHEST)


def check_dictionary(dictionary: chex.Array) -> None:
    """Raises ValueError unless the dictionary is floating `[d, K]`, d and K 1 or more."""
    if jnp.ndim(dictionary) != 2 or 0 in jnp.shape(dictionary):
        raise ValueError(
            f"The dictionary is [d, K] with d and K 1 or more, got {jnp.shape(dictionary)}."
        )
    check_floating(dictionary=dictionary)
