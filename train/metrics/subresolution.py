"""What a decoder of fewer pixels cannot reach: the floor under its mean squared error."""

from collections.abc import Mapping
from typing import Any

import jax

from bottlenecks.partition import block_mean_floor
from models.likelihoods import to_unit
from train.errors import UserError
from train.metrics.evaluator import Evaluator, example_mask, masked_sums, mean_floats


def subresolution_evaluator() -> Evaluator:
    """Measures the error that no latent could avoid, because the decoder copies its pixels.

    Summary: `mse_floor`, the mean over the examples of `block_mean_floor`, in squared units of
    [0, 1] per sub-pixel, to stand beside the `mse` of the evaluator "image"; 0 at full resolution.

    Raises:
        UserError: (when traced) the decoder has no subresolution, or does not copy pixels.
    """

    def sums(
        model: Any, variables: Any, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> dict[str, jax.Array]:
        del variables, key
        decoder = model.decoder
        if getattr(decoder, "upsample", None) != "nearest":
            raise UserError(
                'the evaluator "subresolution" needs a decoder that copies pixels, as backbone '
                f"'partition' with upsample='nearest' does; found {type(decoder).__name__}"
            )
        floor = block_mean_floor(to_unit(batch[model.key]), decoder.subresolution)
        return masked_sums({"mse_floor": floor}, example_mask(batch))

    return Evaluator(sums, mean_floats)
