"""How fast votes are routed, beside the same equations in PyTorch.

Dynamic and EM routing, three iterations, differentiated through all of them: the two sizes are the
capsule layer of Sabour et al. 2017 on MNIST and one capsule layer at each of 8 x 256 positions.
Before anything is timed both programs' outputs and gradients must agree.
"""

import jax
import jax.numpy as jnp
import numpy as np
from medians import compare, report

from bottlenecks.routing import dynamic_routing, em_routing

SIZES = {"digit capsules": (32, 1152, 10, 16), "a layer per position": (8 * 256, 16, 32, 16)}
ITERATIONS = 3


def ours_dynamic(votes, activation):
    return dynamic_routing(votes, iterations=ITERATIONS).latent


def ours_em(votes, activation):
    routed = em_routing(votes, activation, 0.0, 0.0, iterations=ITERATIONS)
    return routed.latent * routed.activation[..., None]


def torch_dynamic(torch, votes, activation):
    b = torch.zeros(votes.shape[:-1])
    for iteration in range(ITERATIONS):
        c = torch.softmax(b, dim=-1)
        s = (c.unsqueeze(-1) * votes).sum(dim=-3)
        square = (s * s).sum(dim=-1, keepdim=True)
        v = s * torch.sqrt(square) / (1 + square)
        if iteration < ITERATIONS - 1:
            b = b + (votes * v.unsqueeze(-3)).sum(dim=-1)
    return v


def torch_em(torch, votes, activation):
    r = torch.full(votes.shape[:-1], 1 / votes.shape[-2])
    for iteration in range(ITERATIONS):
        inverse_temperature = 0.01 * (1 - 0.95 ** (iteration + 1))
        w = (r * activation.unsqueeze(-1)).unsqueeze(-1)
        total = w.sum(dim=-3, keepdim=True)
        mu = (w * votes).sum(dim=-3, keepdim=True) / total
        square = (votes - mu) ** 2
        variance = (w * square).sum(dim=-3, keepdim=True) / total + 1e-6
        cost = (0.5 * torch.log(variance) * total).sum(dim=-1)
        logit = -inverse_temperature * cost
        if iteration < ITERATIONS - 1:
            log_p = -0.5 * (square / variance + torch.log(variance)).sum(dim=-1)
            r = torch.softmax(torch.nn.functional.logsigmoid(logit) + log_p, dim=-1)
    return mu.squeeze(-3) * torch.sigmoid(logit).squeeze(-2).unsqueeze(-1)


def in_jax(route, *arrays):
    votes, activation, weight = map(jnp.asarray, arrays)

    @jax.jit
    def step(votes, activation, weight):
        def loss(votes):
            latent = route(votes, activation)
            return jnp.sum(weight * latent), latent

        gradient, latent = jax.grad(loss, has_aux=True)(votes)
        return latent, gradient

    return lambda: jax.block_until_ready(step(votes, activation, weight))


def in_torch(torch, route, *arrays):
    votes, activation, weight = map(torch.from_numpy, arrays)

    def step():
        leaf = votes.detach().requires_grad_()
        latent = route(torch, leaf, activation)
        (weight * latent).sum().backward()
        return latent.detach(), leaf.grad

    return step


def main(rounds: int) -> None:
    try:
        import torch
    except ImportError:
        print("routing: left out, for torch is not installed (pip install 'bottlenecks[bench]')")
        return
    rng = np.random.default_rng(0)
    for size, (batch, inputs, outputs, depth) in SIZES.items():
        arrays = (
            np.float32(0.3 * rng.normal(size=(batch, inputs, outputs, depth))),
            np.float32(rng.uniform(0.1, 1, size=(batch, inputs))),
            np.float32(rng.normal(size=(batch, outputs, depth))),
        )
        for name, ours, theirs in (
            ("dynamic routing", ours_dynamic, torch_dynamic),
            ("EM routing", ours_em, torch_em),
        ):
            programs = {"ours": in_jax(ours, *arrays), "pytorch": in_torch(torch, theirs, *arrays)}
            check_equal(programs)
            shape = f"{batch} x {inputs} votes for {outputs} of {depth}"
            report(
                f"{name}, {size} ({shape}), forward and backward",
                compare(programs, rounds=rounds),
                ours="ours",
            )


def check_equal(programs):
    for one, other in zip(*(program() for program in programs.values()), strict=True):
        one, other = np.asarray(one), np.asarray(other)
        scale = np.max(np.abs(other))
        if not np.allclose(one, other, rtol=1e-3, atol=1e-5 * scale):
            worst = np.max(np.abs(one - other)) / scale
            raise SystemExit(f"The programs disagree: by {worst:.1e} of the largest number.")
