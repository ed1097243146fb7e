"""Pure steps of an autoencoder and its adversary; no other file knows that there are two players.

Esser, Rombach & Ommer 2021, "Taming Transformers for High-Resolution Image Synthesis",
https://arxiv.org/abs/2012.09841, section 3.1. One pass forward and one backward through the
autoencoder serve everything. The discriminator sees the same reconstructions; the authors' code
decodes them again after the other player's update.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from models.adversarial import (
    ADVERSARIAL_LOSSES,
    AdversarialLoss,
    PatchDiscriminator,
    adaptive_weight,
    kernel_gradient,
    r1_penalty,
)
from models.likelihoods import to_unit
from models.perceptual import NAMES
from train import parallel
from train.errors import UserError
from train.state import TrainState, Window
from train.steps import RNGS, several, updated

# What is measured beside the figures of a step without an adversary.
FIGURES = (
    "adaptive_weight",
    "discriminator",
    "discriminator_gradient_norm",
    "generator",
    "logits_fake",
    "logits_real",
)


class AdversaryState(NamedTuple):
    """What changes of the discriminator.

    Attributes:
      params: learned.
      collections: running statistics.
      opt_state: of its optimiser.
    """

    params: Any
    collections: dict[str, Any]
    opt_state: Any


class AdversarialState(NamedTuple):
    """A `TrainState`, whose fields it has, and the adversary's."""

    step: jax.Array
    params: Any
    collections: dict[str, Any]
    opt_state: Any
    average: Any
    window: Window
    adversary: AdversaryState


class Adversary(NamedTuple):
    """What does not change of it.

    Attributes:
      discriminator: the module.
      loss: of both players.
      weight: of the adversary's pull, after lambda.
      start: steps done without it.
      gradient_penalty: weight of R1; 0: none.
    """

    discriminator: nn.Module
    loss: AdversarialLoss
    weight: float
    start: int
    gradient_penalty: float


def build_adversary(
    settings: Mapping[str, Any], *, axis_name: str | None = None
) -> Adversary | None:
    """What the section `adversary` of a config describes; None where it has no loss.

    Args:
      settings: see `configs/base.py`.
      axis_name: mapped axis over which the discriminator normalises; None outside.

    Raises:
      UserError: no such loss.
    """
    if not settings["loss"]:
        return None
    if settings["loss"] not in ADVERSARIAL_LOSSES:
        raise UserError(
            f"adversary.loss is {settings['loss']!r}; known: {', '.join(ADVERSARIAL_LOSSES)}, or "
            "'' for none"
        )
    return Adversary(
        PatchDiscriminator(settings["layers"], settings["width"], axis_name=axis_name),
        ADVERSARIAL_LOSSES[settings["loss"]],
        weight=settings["weight"],
        start=settings["start"],
        gradient_penalty=settings["gradient_penalty"],
    )


def add_adversary(
    state: TrainState,
    adversary: Adversary,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    batch: dict[str, jax.Array],
) -> AdversarialState:
    """The first state of a run with an adversary, from that of a run without."""
    key = jax.random.fold_in(key, 1)  # the key itself started the autoencoder
    variables = dict(adversary.discriminator.init(key, _judged(batch["image"]), train=True))
    params = variables.pop("params")
    return AdversarialState(
        **state._asdict(), adversary=AdversaryState(params, variables, optimizer.init(params))
    )


def patch_logits(discriminator: nn.Module, state: AdversaryState, images: jax.Array) -> jax.Array:
    """D(x) of images `[batch, height, width, channels]`, uint8 or in [0, 1].

    The images' own statistics normalise, as in training: judge real and generated ones apart. The
    running statistics are of both kinds together.

    Returns:
      float32 `[batch, rows, columns]`; above 0 where the patch looks real.
    """
    logits, _ = discriminator.apply(
        {"params": state.params, **state.collections},
        _judged(images),
        train=True,
        mutable=list(state.collections),
    )
    return logits


def make_train_step(
    adversary: Adversary,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    key: jax.Array,
    weights: Mapping[str, float],
    schedule: optax.Schedule,
    average_decay: float = 0.0,
    log_every: int = 1,
) -> Callable[[AdversarialState, dict[str, jax.Array]], tuple[AdversarialState, Window]]:
    """One device's part of some training steps: `(state, batch [steps, rows, ...])`.

    The autoencoder minimises its weighted losses + weight * lambda * g, g the generator's loss, and
    lambda from g's gradient and that of reconstruction and perceptual loss, over all devices. Both
    players use `optimizer`, each with its own state. Before `adversary.start` lambda counts as 0,
    and nothing of the discriminator moves: neither parameters nor statistics, nor its optimiser's
    count, without which Adam would not correct its first steps.

    Raises:
      UserError: the decoder does not say which its last kernel is.
    """
    if not hasattr(model.decoder, "last_kernel"):
        raise UserError(
            f"an adversary is balanced at the decoder's last kernel, which "
            f"{type(model.decoder).__name__} does not name; use the backbone convnet or vqgan"
        )
    last_kernel = ("decoder", *model.decoder.last_kernel)

    def judge(params: Any, collections: dict, images: jax.Array) -> tuple[jax.Array, dict]:
        logits, new = adversary.discriminator.apply(
            {"params": params, **collections}, images, train=True, mutable=list(collections)
        )
        return logits, dict(new)

    def discriminator_loss(
        params: Any, collections: dict, real: jax.Array, fake: jax.Array
    ) -> tuple[jax.Array, tuple[dict, dict[str, jax.Array]]]:
        of_real, new = judge(params, collections, real)
        of_fake, new = judge(params, new, fake)
        loss = jnp.mean(adversary.loss.discriminator(of_real, of_fake))
        if adversary.gradient_penalty:
            penalty = r1_penalty(lambda x: judge(params, collections, x)[0], real)
            loss = loss + adversary.gradient_penalty * jnp.mean(penalty)
        return loss, (new, {"logits_real": jnp.mean(of_real), "logits_fake": jnp.mean(of_fake)})

    def one_step(
        state: AdversarialState, batch: dict[str, jax.Array]
    ) -> tuple[AdversarialState, None]:
        step_key = jax.random.fold_in(jax.random.fold_in(key, state.step), 0)
        keys = {name: jax.random.fold_in(step_key, i) for i, name in enumerate(RNGS)}
        other = state.adversary
        on = state.step >= adversary.start

        def network(params: Any) -> tuple[tuple[dict, jax.Array], tuple[dict, dict]]:
            (losses, output), new = model.apply(
                {"params": params, **state.collections},
                batch,
                train=True,
                method="losses",
                rngs=keys,
                mutable=list(state.collections),
            )
            losses, metrics = jax.tree.map(jnp.mean, (losses, dict(output.metrics)))
            return (losses, _judged(output.reconstruction)), (dict(new), metrics)

        (losses, fake), pullback, (collections, metrics) = jax.vjp(
            network, state.params, has_aux=True
        )

        # ------------------------------------------------ the autoencoder
        def generator_loss(fake: jax.Array) -> jax.Array:
            logits, _ = judge(other.params, other.collections, fake)
            return jnp.mean(adversary.loss.generator(logits))

        def cotangent(weights: Mapping[str, float], slope: jax.Array) -> tuple[dict, jax.Array]:
            return {n: jnp.full_like(x, weights.get(n, 0.0)) for n, x in losses.items()}, slope

        g, slope = jax.value_and_grad(generator_loss)(fake)
        nll = {name: weights[name] for name in weights if name in ("reconstruction", *NAMES)}
        kernels = [
            kernel_gradient(pullback, c, last_kernel)
            for c in (cotangent(nll, jnp.zeros_like(slope)), cotangent({}, slope))
        ]
        balance = adversary.weight * adaptive_weight(*jax.lax.pmean(kernels, parallel.AXIS))
        balance = jnp.where(on, balance, 0.0)
        (gradients,) = pullback(cotangent(weights, balance * slope))
        loss = sum(weights[name] * losses[name] for name in losses) + balance * g

        # ------------------------------------------------ the discriminator
        (d, (statistics, seen)), d_gradients = jax.value_and_grad(discriminator_loss, has_aux=True)(
            other.params, other.collections, _judged(batch["image"]), jax.lax.stop_gradient(fake)
        )

        # Local losses are differentiated, and then averaged: not the other way round.
        means = {**losses, **metrics, **seen, "loss": loss, "generator": g, "discriminator": d}
        gradients, d_gradients, means = jax.lax.pmean(
            (gradients, d_gradients, means), parallel.AXIS
        )
        updates, opt_state = optimizer.update(d_gradients, other.opt_state, other.params)
        moved = AdversaryState(optax.apply_updates(other.params, updates), statistics, opt_state)
        moved = jax.tree.map(lambda new, old: jnp.where(on, new, old), moved, other)
        means |= {
            "adaptive_weight": balance,
            "discriminator_gradient_norm": optax.tree.norm(d_gradients),
        }
        state = updated(
            state,
            optimizer,
            gradients,
            means,
            schedule=schedule,
            average_decay=average_decay,
            log_every=log_every,
        )
        return state._replace(collections=collections, adversary=moved), None

    return several(one_step)


def _judged(images: jax.Array) -> jax.Array:
    """Images `[batch, (time,) height, width, channels]` as the discriminator takes them."""
    return 2 * to_unit(images).reshape(-1, *images.shape[-3:]) - 1
