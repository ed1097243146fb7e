"""The encoder of waveforms (van den Oord et al. 2017, section 4.3).

Strided convolutions of window 4 and stride 2, six for 64 samples a latent, seven for 128. Widths,
and the residual layers after them, are ours: the paper names none.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class WaveformEncoder(nn.Module):
    """Waveforms `[batch, samples, 1]` to features `[batch, samples / 2^n, widths[-1]]`, n widths.

    Parameters are float32, features in `dtype`.

    Attributes:
      widths: channels of each strided convolution, ReLU after it.
      residual_layers: x + conv1(ReLU(conv3(ReLU(x)))), after them.
      dtype: of the arithmetic.

    Raises:
      ValueError: the samples are no multiple of 2^n.
    """

    widths: tuple[int, ...] = (64, 64, 64, 128, 128, 128)
    residual_layers: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Features of waveforms in about [-1, 1]; `train` changes nothing."""
        del train
        if x.ndim != 3 or x.shape[1] % 2 ** len(self.widths) or not x.shape[1]:
            raise ValueError(
                f"waveforms have the shape {x.shape}; expected [batch, samples, 1], the samples a "
                f"multiple of {2 ** len(self.widths)}"
            )
        h = x.astype(self.dtype)
        for i, width in enumerate(self.widths):
            h = nn.relu(nn.Conv(width, (4,), (2,), dtype=self.dtype, name=f"down_{i}")(h))
        for i in range(self.residual_layers):
            r = nn.Conv(h.shape[-1], (3,), dtype=self.dtype, name=f"residual_{i}_conv3")(nn.relu(h))
            h += nn.Dense(h.shape[-1], dtype=self.dtype, name=f"residual_{i}_conv1")(nn.relu(r))
        return h
