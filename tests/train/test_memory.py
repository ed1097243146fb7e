"""What a step needs in memory: by hand on small programs, and beside the compiler's figure."""

import types

import jax
import jax.numpy as jnp
import pytest

from configs import cvgan_imagenet256, vqvae_digits
from train import memory
from train.errors import UserError

KIB = 1024
X = jnp.zeros(256)  # a KiB


def most(function, *arguments, outputs=False):
    return memory.most_alive(jax.make_jaxpr(function)(*arguments).jaxpr, outputs=outputs)


def test_values_live_from_their_maker_to_their_last_reader():
    # a, b and c are alive while c is made, then b and c, d and c.
    def f(x):
        a = jnp.sin(x)
        b = jnp.cos(a)
        c = a + b
        d = jnp.exp(b)
        return jnp.sum(c * d)

    assert most(f, X) == 3 * KIB
    # Sum by sum nothing is kept, and the result is the caller's.
    assert most(lambda x: jnp.sin(jnp.sin(x)), X) == KIB
    assert most(lambda x: jnp.sin(jnp.sin(x)), X, outputs=True) == 2 * KIB
    assert most(lambda x: jnp.sum(jnp.concatenate([x, x])), X) == 2 * KIB


def test_what_is_inside_counts_once():
    inner = jax.jit(lambda x: jnp.tanh(jnp.cos(x) + jnp.sin(x)))

    # Inside, cos, sin and their sum; outside, one value waits.
    def f(x):
        kept = jnp.exp(x)
        return jnp.sum(kept * inner(x))

    assert most(f, X) == 4 * KIB

    def loop(x):
        return jax.lax.scan(lambda c, _: (jnp.sin(c) + jnp.cos(c), None), x, length=100)[0]

    assert most(loop, X, outputs=True) == 3 * KIB


def test_a_backward_pass_keeps_activations():
    def deep(x, layers):
        for _ in range(layers):
            x = jnp.sin(x)
        return jnp.sum(x)

    shallow, deeper = (most(jax.grad(lambda x: deep(x, n)), X) for n in (4, 12))  # noqa: B023
    assert deeper - shallow == 8 * KIB


def test_the_estimate_is_near_the_compilers():
    config = vqvae_digits.get_config()
    config.model.backbone.residual_layers = 1
    config.train.batch_size = 256  # activations outweigh parameters
    found, figures = memory.estimate(config), memory.compiled(config)
    assert found.parameters == found.gradients == 4 * sum(memory.parameters(config).values())
    assert found.optimiser == pytest.approx(2 * found.parameters, abs=16)
    assert found.batch == 256 * 8 * 8 * 4
    assert 0.5 < found.values / figures.temp_size_in_bytes < 2
    half = memory.estimate(config, devices=2)
    assert half.batch == found.batch / 2
    assert 0.4 < (half.values - half.gradients) / (found.values - found.gradients) < 0.6


def test_the_command_at_256x256(monkeypatch, capsys):
    config = cvgan_imagenet256.get_config()
    options = types.SimpleNamespace(config=config, devices=8, compile=False)
    monkeypatch.setattr(memory, "flags", types.SimpleNamespace(FLAGS=options))
    memory.main([])
    out = capsys.readouterr().out
    assert "1 x 256x256x3 on one of 8 devices" in out
    assert "29,298,176 parameters" in out
    assert "estimate of the traced step" in out
    options.devices = 3
    with pytest.raises(UserError, match="8, which cannot be shared out over 3 devices"):
        memory.main([])
