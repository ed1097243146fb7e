"""The same VQ-VAE in a plain JAX loop written by hand; started by `training.py`.

What a careful user would write without our trainer: one jitted step with donation, optax's Adam,
the codebook's moving averages spelled out, all batches in the device's memory beforehand. Layers,
quantiser and k-means start are the library's, so the arithmetic is the same; codes that die are
left dead, and nothing but the error is measured.
"""

import functools
import itertools
import os
import sys
from typing import NamedTuple

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from turns import Turns

from bottlenecks import quantization as vq
from models.backbones.convnet import ConvDecoder, ConvEncoder

BATCH, CODES, DEPTH, DECAY, EPSILON = 32, 512, 64, 0.99, 1e-5

# Donation makes the step slower on CPU: XLA copies the parameters there.
DONATE = () if jax.default_backend() == "cpu" else (0,)

encoder, project, decoder = ConvEncoder(), nn.Dense(DEPTH), ConvDecoder((32, 32, 3))
adam = optax.adam(3e-4)


class State(NamedTuple):
    params: dict
    adam: optax.OptState
    codebook: jax.Array
    count: jax.Array
    total: jax.Array


def centred(image):
    return image.astype(jnp.float32) / 255 - 0.5


def features(params, image):
    return project.apply(params["project"], encoder.apply(params["encoder"], image, train=True))


@jax.jit
def start(key, image):
    keys = jax.random.split(key, 4)
    x = centred(image)
    params = {"encoder": encoder.init(keys[0], x, train=True)}
    hidden = encoder.apply(params["encoder"], x, train=True)
    params["project"] = project.init(keys[1], hidden)
    z = project.apply(params["project"], hidden)
    params["decoder"] = decoder.init(keys[2], z, train=True)
    codebook, count = vq.kmeans(keys[3], z.reshape(-1, DEPTH), CODES)
    count = jnp.maximum(count, 1)
    return State(params, adam.init(params), codebook, count, codebook * count[:, None])


def loss(params, codebook, image, variance):
    x = centred(image)
    z = features(params, x)
    quantized = vq.quantize(z, codebook)
    y = decoder.apply(params["decoder"], quantized.latent, train=True)
    error = jnp.mean((y - x) ** 2) / variance
    commitment = jnp.mean(quantized.commitment_loss) / DEPTH
    return error + 0.25 * commitment, (error, z, quantized.index)


@functools.partial(jax.jit, donate_argnums=DONATE)
def step(state, image, variance):
    gradient = jax.grad(loss, has_aux=True)
    g, (error, z, index) = gradient(state.params, state.codebook, image, variance)
    updates, adam_state = adam.update(g, state.adam)
    params = optax.apply_updates(state.params, updates)
    z, index = z.reshape(-1, DEPTH), index.reshape(-1)
    n = jax.ops.segment_sum(jnp.ones(index.shape), index, CODES)
    count = DECAY * state.count + (1 - DECAY) * n
    total = DECAY * state.total + (1 - DECAY) * jax.ops.segment_sum(z, index, CODES)
    everything = jnp.sum(count)
    smoothed = (count + EPSILON) / (everything + CODES * EPSILON) * everything
    return State(params, adam_state, total / smoothed[:, None], count, total), error


def main(images: str) -> None:
    turns = Turns()
    image = np.load(images)
    variance = float(np.var(image[:4096] / 255))
    batches = [
        jax.device_put(image[i : i + BATCH]) for i in range(0, len(image) - BATCH + 1, BATCH)
    ]
    del image
    state = start(jax.random.key(0), batches[0])
    jax.block_until_ready(state)
    endless = itertools.cycle(batches)

    def one_step():
        nonlocal state
        state, error = step(state, next(endless), variance)
        return error

    turns.serve(one_step, device=jax.devices()[0].device_kind)


if __name__ == "__main__":
    main(*sys.argv[1:])
