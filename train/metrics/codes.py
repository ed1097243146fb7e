"""How discrete codes are used: perplexity, dead codes, bits."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bottlenecks import code_counts
from train.errors import UserError
from train.metrics.evaluator import Evaluator, example_mask, masked_sums, mean_floats


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


def independent_codes(counts: np.ndarray) -> dict[str, Evaluator]:
    """Measures what a prior's "losses" do, for codes drawn independently of one another.

    "uniform" gives every code 1 / K; "unigram" its frequency in another split, each count raised
    by 1/2 so that a code not met there has one (Krichevsky & Trofimov 1981). Their `sums` need no
    model.

    Args:
        counts: whole numbers `[codebooks, K]`, uses in the training split.
    """
    codes = counts.shape[1]
    smooth = counts + 0.5
    frequencies = smooth / smooth.sum(axis=1, keepdims=True)
    tables = {"uniform": np.full(counts.shape, 1 / codes), "unigram": frequencies}
    return {name: _independent(-np.log(table)) for name, table in tables.items()}


def _independent(nats: np.ndarray) -> Evaluator:
    """The length of codes, by one table `[codebooks, K]` of nats."""
    table = np.asarray(nats, np.float32)

    def sums(
        model: Any, variables: Any, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> dict[str, jax.Array]:
        del model, variables, key
        code = batch["code"]
        each = jnp.asarray(table)[jnp.arange(len(table)), code]
        total = each.sum(axis=tuple(range(1, code.ndim)))
        per_code = total / (math.prod(code.shape[1:]) * math.log(2))
        return masked_sums({"nats": total, "bits_per_code": per_code}, example_mask(batch))

    return Evaluator(sums, mean_floats)


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
