"""How discrete codes are used: perplexity, dead codes, bits."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bottlenecks import code_counts
from train.errors import UserError
from train.metrics.evaluator import Evaluator, example_mask


def codes_evaluator() -> Evaluator:
    """Counts how often each code is used over the whole split.

    The model's `code` is int32 `[batch, ..., codebooks]`, as `[batch, h, w, codebooks]`, with
    values below `model.bottleneck.codes` = K. Its `counts` are read with `counts(totals)`.

    Summary. With several codebooks these are means over the codebooks:
        perplexity: exp of the entropy in nats of a codebook's codes; K when all are used equally.
        used_codes, used_share, dead_codes: codes that occur at all, their share of K, the rest.
        bits_per_token: that entropy in bits, of one token of one codebook.
    and these are sums over all tokens of an example (its positions and codebooks):
        bits_per_image: sum of the tokens' marginal entropies, the length under an ideal code that
            knows one table of frequencies per codebook and nothing of a token's neighbours.
        nominal_bits_per_image: positions * codebooks * log2 K, the length without any table.

    Raises:
        UserError: (when traced) the model has no discrete codes.
    """

    def sums(
        model: Any, variables: Any, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> dict[str, jax.Array]:
        code = model.apply(variables, batch, train=False, rngs={"sample": key}).code
        if not jnp.issubdtype(code.dtype, jnp.integer):
            raise UserError(
                f'the evaluator "codes" needs integer codes, the model\'s are {code.dtype}; '
                "leave it out for a continuous bottleneck"
            )
        mask = example_mask(batch)
        tokens = code.reshape(code.shape[0], -1, code.shape[-1])
        weight = jnp.broadcast_to(mask[:, None], tokens.shape[:2])
        count = jax.vmap(
            lambda index: code_counts(index, model.bottleneck.codes, mask=weight),
            in_axes=2,
        )
        return {"counts": count(tokens), "count": mask.sum()}

    return Evaluator(sums, _summary)


def counts(totals: Mapping[str, np.ndarray]) -> np.ndarray:
    """Gives the uses of each code over the split, float64 `[codebooks, K]`, from the totals."""
    return np.asarray(totals["counts"], np.float64)


def entropy_bits(counts: np.ndarray) -> np.ndarray:
    """Gives the entropy of the distribution that the counts describe.

    Args:
        counts: `[..., K]`; at least one is positive.

    Returns:
        `[...]` bits.
    """
    p = counts / counts.sum(axis=-1, keepdims=True)
    return -(p * np.log2(np.where(p > 0, p, 1))).sum(axis=-1)


def _summary(totals: Mapping[str, np.ndarray]) -> dict[str, float]:
    examples = float(totals["count"])
    if examples <= 0:
        raise UserError(
            "nothing to evaluate: the evaluation split has no example; expected one or more"
        )
    uses = counts(totals)
    codebooks, codes = uses.shape
    positions = uses.sum() / (codebooks * examples)
    bits = entropy_bits(uses)
    used = (uses > 0).sum(axis=1)
    return {
        "perplexity": float(np.mean(2**bits)),
        "used_codes": float(used.mean()),
        "used_share": float(used.mean() / codes),
        "dead_codes": float(codes - used.mean()),
        "bits_per_token": float(bits.mean()),
        "bits_per_image": float(positions * bits.sum()),
        "nominal_bits_per_image": float(positions * codebooks * np.log2(codes)),
    }
