"""Codes as bytes: a range coder under a prior that is asked for one code after another.

The coder is that of `constriction` (Bamler 2022, "Understanding Entropy Coding With Asymmetric
Numeral Systems", https://arxiv.org/abs/2201.01741), extra `compress`. A prior here is a function
`walk(exchange)`: it goes over the positions in its order, hands `exchange` the probabilities of the
next code, float64 `[K]`, and is handed that code. Encoder and decoder so run the same arithmetic.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from train.errors import UserError

Exchange = Callable[[np.ndarray], int]
Walk = Callable[[Exchange], np.ndarray]
WORD = 4  # bytes of a word of the coder
_CHUNK = 4096  # examples counted at once
UNIT = 2**24  # of which the table prior's probabilities are whole multiples


def encode(walk: Walk, code: np.ndarray) -> tuple[bytes, float]:
    """The bytes of codes, and their length under the prior in bits, -log2 p(code).

    Args:
      walk: the prior.
      code: whole numbers `[*grid, codebooks]`.

    Raises:
      UserError: the extra `compress` is not installed.
    """
    coder, categorical = _coder()
    encoder = coder.RangeEncoder()
    rest = iter(np.asarray(code).ravel().tolist())
    seen: list[np.ndarray] = []
    bits = 0.0

    def exchange(probabilities: np.ndarray) -> int:
        nonlocal bits
        one = next(rest)
        seen.append(probabilities)
        bits -= float(np.log2(max(probabilities[one], 1 / UNIT)))
        encoder.encode(one, categorical(probabilities))
        return one

    walk(exchange)
    whole = encoder.get_compressed().astype(">u4").tobytes()
    wanted = np.asarray(code).ravel().tolist()
    return _shortest(whole, lambda payload: _decode_all(payload, seen) == wanted), bits


def decode(walk: Walk, payload: bytes) -> np.ndarray:
    """The codes that `encode` made `payload` of, int32; others where the prior is another.

    Raises:
      UserError: the extra `compress` is not installed.
      ValueError: no codes have these bytes.
    """
    coder, categorical = _coder()
    decoder = coder.RangeDecoder(_words(payload))
    try:
        return walk(lambda probabilities: int(decoder.decode(categorical(probabilities))))
    except AssertionError as error:  # constriction's
        raise ValueError(f"no codes have these bytes under this prior ({error})") from error


def pixelcnn_walk(
    net: nn.Module, variables: Any, shape: tuple[int, int, int], label: int | None
) -> Walk:
    """A gated PixelCNN as a prior, a column of every layer for each position.

    Its probabilities are floating-point numbers: they are the same again on the same kind of device
    with the same versions, and anywhere else a code may come out wrong.

    Args:
      net: a `GatedPixelCNN`.
      variables: its own, {"params": ...}.
      shape: (height, width, codebooks) of the codes.
      label: their class; None without classes.
    """
    height, width, codebooks = shape
    labels = None if label is None else jnp.full((1,), label, jnp.int32)
    features, reach = net.features, net.kernel // 2
    apply = partial(_apply, net, variables)

    def walk(exchange: Exchange) -> np.ndarray:
        code = np.zeros(shape, np.int32)
        zeros = jnp.zeros((1, features), net.dtype)
        above = (jnp.zeros((1, reach, width, features), net.dtype),) * net.layers
        v = jnp.zeros((1, 1, width, features), net.dtype)
        for row in range(height):
            above, from_vertical = apply("next_row", above, v, labels, None)
            left, h = (jnp.zeros((1, reach, features), net.dtype),) * net.layers, zeros
            for column in range(width):
                here = tuple(a[:, 0, column] for a in from_vertical)
                left, u = apply("next_column", left, h, here)
                for j in range(codebooks):
                    if j:
                        u = apply("condition", u, code[row, column, j - 1 : j], j=j - 1)
                    logits = np.asarray(apply("codebook_logits", u, j=j)[0], np.float64)
                    p = np.exp(logits - logits.max())
                    code[row, column, j] = exchange(p / p.sum())
                h = apply("embed", code[row, column][None])
            v = apply("embed", code[row][None])[:, None]
        return code

    return walk


@partial(jax.jit, static_argnums=(0, 2), static_argnames="j")
def _apply(net: nn.Module, variables: Any, method: str, *args: Any, **static: int) -> Any:
    return net.apply(variables, *args, **static, method=method)


def table_of(code: np.ndarray, codes: int) -> np.ndarray:
    """Counts of each code beside the code left of it and the one above, int64.

    `[2, codebooks, codes + 1, codes]`: first of the left, then of the upper; the last of its
    codes + 1 stands for the border.

    Args:
      code: whole numbers `[examples, height, width, codebooks]`, of the training split.
      codes: K.
    """
    table = np.zeros((2, code.shape[-1], codes + 1, codes), np.int64)
    for start in range(0, len(code), _CHUNK):
        here = code[start : start + _CHUNK].astype(np.int64)
        left, above = np.full_like(here, codes), np.full_like(here, codes)
        left[:, :, 1:], above[:, 1:] = here[:, :, :-1], here[:, :-1]
        for axis, before in enumerate((left, above)):
            for j, counts in enumerate(table[axis]):
                pairs = (before[..., j] * codes + here[..., j]).ravel()
                counts += np.bincount(pairs, minlength=counts.size).reshape(counts.shape)
    return table


def table_walk(table: np.ndarray, shape: tuple[int, int, int]) -> Walk:
    """Counts as a prior: whole numbers alone, so that it decodes exactly on any machine.

    A code's weight is UNIT times its counts after the left and the upper code, plus UNIT of its
    frequency without them for each of the K codes.

    Args:
      table: as `table_of` makes it.
      shape: (height, width, codebooks) of the codes.
    """
    height, width, codebooks = shape
    codes = table.shape[-1]
    alone = 2 * table[0].sum(axis=1) + 1  # [codebooks, K]
    alone = alone * UNIT // alone.sum(axis=1, keepdims=True)

    def walk(exchange: Exchange) -> np.ndarray:
        code = np.zeros(shape, np.int32)
        for row in range(height):
            for column in range(width):
                for j in range(codebooks):
                    left = code[row, column - 1, j] if column else codes
                    above = code[row - 1, column, j] if row else codes
                    counts = table[0, j, left] + table[1, j, above]
                    weights = counts * UNIT + alone[j] * codes
                    code[row, column, j] = exchange(_whole_shares(weights))
        return code

    return walk


def _whole_shares(weights: np.ndarray) -> np.ndarray:
    """Whole numbers above 0 in proportion to whole weights, over UNIT, their sum: exact floats."""
    shift = max(int(weights.max()).bit_length() - 36, 0)  # keeps the products below 2^63
    weights = weights >> shift
    shares = 1 + weights * (UNIT - len(weights)) // weights.sum()
    shares[np.argmax(shares)] += UNIT - shares.sum()
    return shares / UNIT


def _shortest(whole: bytes, decodes: Callable[[bytes], bool]) -> bytes:
    """The fewest bytes, followed by zeros, that still decode: words are too coarse for a grid."""
    best = whole
    for size in range(len(whole) - 1, -1, -1):
        cut = int.from_bytes(whole[:size], "big")
        tries = [n.to_bytes(size, "big") for n in (cut, cut + 1) if n < 256**size]
        found = next((payload for payload in tries if decodes(payload)), None)
        if found is None:
            break
        best = found
    return best


def _decode_all(payload: bytes, probabilities: list[np.ndarray]) -> list[int]:
    coder, categorical = _coder()
    decoder = coder.RangeDecoder(_words(payload))
    try:
        return [int(decoder.decode(categorical(p))) for p in probabilities]
    except AssertionError:  # constriction's, where no codes have these bytes
        return []


def _words(payload: bytes) -> np.ndarray:
    return np.frombuffer(payload + bytes(-len(payload) % WORD), ">u4").astype(np.uint32)


def _coder() -> tuple[Any, Callable[[np.ndarray], Any]]:
    """Constriction's range coder, and a distribution from probabilities float64 `[K]`."""
    try:
        from constriction import stream
    except ModuleNotFoundError as error:
        raise UserError(
            "compression needs the extra: pip install 'bottlenecks[compress]'"
        ) from error
    return stream.queue, partial(stream.model.Categorical, perfect=False)
