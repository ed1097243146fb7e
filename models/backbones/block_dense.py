"""Small nets side by side, one for each part of a latent: no part sees another."""

import itertools
import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from bottlenecks.partition import block_diagonal
from models.backbones.mlp import ACTIVATIONS

BLOCK_ACTIVATIONS = {"linear": lambda x: x, **ACTIVATIONS}


class BlockDense(nn.Module):
    """One dense layer per part, h_k A_k + b_k, as one product of padded kernels.

    Takes floating `[..., sum partitions]`, gives `[..., sum outputs]` in the same dtype. "kernel"
    is float32 `[K, dmax, dmax_out]` and "bias" `[K, dmax_out]`; their padding starts at 0 and has
    no gradient. A_k starts as any dense layer of its own size does.

    Attributes:
      partitions: sizes d_k of the parts of the input.
      outputs: sizes o_k of the parts of the output.
      frozen: kernel and bias are in the collection "frozen", which no optimiser sees, and start as
        PyTorch's: uniform within +-1/sqrt(d_k).
    """

    partitions: tuple[int, ...]
    outputs: tuple[int, ...]
    frozen: bool = False

    @nn.compact
    def __call__(self, h: chex.Array) -> chex.Array:
        """The layer of every part."""
        if self.frozen:
            kernel = self.variable("frozen", "kernel", self._uniform_kernel).value
            bias = self.variable("frozen", "bias", self._uniform_bias).value
        else:
            kernel = self.param("kernel", self._kernel)
            shape = (len(self.outputs), max(self.outputs))
            bias = self.param("bias", nn.initializers.zeros_init(), shape, jnp.float32)
        sizes = {"partitions": self.partitions, "outputs": self.outputs}
        return block_diagonal(h, kernel, bias, **sizes)

    def _kernel(self, key: chex.PRNGKey) -> jax.Array:
        return self._blocks(key, lambda key, d, o: nn.initializers.lecun_normal()(key, (d, o)))

    def _uniform_kernel(self) -> jax.Array:
        return self._blocks(self.make_rng("params"), _uniform)

    def _uniform_bias(self) -> jax.Array:
        # Of each block one row is used.
        blocks = self._blocks(self.make_rng("params"), _uniform)
        return blocks[:, 0]

    def _blocks(self, key: chex.PRNGKey, draw: nn.initializers.Initializer) -> jax.Array:
        """`[K, dmax, dmax_out]` with `draw(key, d_k, o_k)` in the corner of block k, 0 outside."""
        room = max(self.partitions), max(self.outputs)
        blocks = []
        for k, (d, o) in enumerate(zip(self.partitions, self.outputs, strict=True)):
            block = draw(jax.random.fold_in(key, k), d, o)
            blocks.append(jnp.pad(block, ((0, room[0] - d), (0, room[1] - o))))
        return jnp.stack(blocks)


def _uniform(key: chex.PRNGKey, d: int, o: int) -> jax.Array:
    bound = 1 / math.sqrt(d)
    return jax.random.uniform(key, (d, o), jnp.float32, -bound, bound)


class BlockMLP(nn.Module):
    """Dense layers per part, with an activation between them and none at the end.

    Takes floating `[..., sum layers[0]]`, gives `[..., sum layers[-1]]` in the same dtype.

    Attributes:
      layers: sizes of the parts, K of them, at the input and after each layer.
      activation: "linear", "tanh" or "relu".
      frozen: see `BlockDense`.
    """

    layers: tuple[tuple[int, ...], ...]
    activation: str = "linear"
    frozen: bool = False

    @nn.compact
    def __call__(self, h: chex.Array) -> chex.Array:
        """The net of every part."""
        activation = BLOCK_ACTIVATIONS[self.activation]
        for i, (before, after) in enumerate(itertools.pairwise(self.layers)):
            h = activation(h) if i else h
            h = BlockDense(before, after, self.frozen, name=f"layer_{i}")(h)
        return h
