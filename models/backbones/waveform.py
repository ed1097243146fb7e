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

    Parameters are float32, features in `dtype`. They are normalised over the batch at last (Ioffe &
    Szegedy 2015), which is ours: without it they hardly differ at first, and few codes are used.

    Attributes:
      widths: channels of each strided convolution, ReLU after it.
      residual_layers: x + conv1(ReLU(conv3(ReLU(x)))), after them.
      axis_name: mapped axis over which the batch of a training step is spread.
      dtype: of the arithmetic.

    Raises:
      ValueError: the samples are no multiple of 2^n.
    """

    widths: tuple[int, ...] = (64, 64, 64, 128, 128, 128)
    residual_layers: int = 2
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Features of waveforms in about [-1, 1]; `train` normalises by this batch's statistics."""
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
        return nn.BatchNorm(
            use_running_average=not train,
            momentum=0.98,
            use_bias=False,
            use_scale=False,
            axis_name=self.axis_name,
            dtype=self.dtype,
            name="normalize",
        )(h)
