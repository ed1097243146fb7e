"""Trains learned ISTA networks for sparse recovery and prints their error layer by layer.

    python benchmarks/learned_ista.py --data FOLDER --steps 2000

The problem of Chen et al. 2018 and Liu et al. 2019: e = x D^T without noise, D 250 x 500 with unit
columns, a tenth of x's entries drawn from N(0, 1) and the others 0. FOLDER holds their D.mat and
xtest_n500_p10.npy (VITA-Group/ALISTA); without it D and the test signals are drawn from the seed.

They train layer by layer, in some fifty stages. Here all layers are trained at once, on fresh
signals and on the logarithm of the last layer's error alone: at -70 dB it has gradients as large as
at -10 dB. The errors of the layers before it are therefore not the least they could be.
"""

import argparse
import functools
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.io

from bottlenecks.dictionaries import analytic_weights
from bottlenecks.learned_ista import (
    CoupledWeights,
    ListaWeights,
    StepWeights,
    alista,
    lista,
    lista_cp,
)
from bottlenecks.sparse import fista

SUPPORT = dict(p=1.2, p_max=13.0)
SUPPORT_SHARE = 0.1
STEPS_PER_CALL = 20


def problem(folder: Path | None, seed: int) -> tuple[jax.Array, jax.Array]:
    """The dictionary `[250, 500]` and the test codes `[1000, 500]`."""
    if folder:
        D = scipy.io.loadmat(folder / "D.mat")["D"]
        x = np.load(folder / "xtest_n500_p10.npy").T
        return jnp.asarray(D, jnp.float32), jnp.asarray(x, jnp.float32)
    key_d, key_x = jax.random.split(jax.random.key(seed + 1000))
    D = jax.random.normal(key_d, (250, 500))
    return D / jnp.linalg.norm(D, axis=0), draw(key_x, 1000, 500)


def draw(key: jax.Array, count: int, atoms: int) -> jax.Array:
    key_support, key_size = jax.random.split(key)
    support = jax.random.bernoulli(key_support, SUPPORT_SHARE, (count, atoms))
    return support * jax.random.normal(key_size, (count, atoms))


def networks(D: jax.Array, layers: int) -> dict[str, tuple]:
    """For each network what is trained first, and the function from it and signals to codes.

    All start as ALISTA does: with the analytic W, step lengths gamma = 1 and thresholds that fall
    from 0.4 to 0.01. Thresholds are trained as logarithms. W_k is trained as gamma_k V_k (in LISTA,
    S_k as I - gamma_k U_k): the step lengths of good networks differ from layer to layer by a
    factor of four, far for a matrix that moves by its entries.
    """
    W = analytic_weights(D)
    eye = jnp.eye(D.shape[1])
    scalars = {
        "gamma": jnp.ones(layers),
        "log_theta": jnp.log(jnp.geomspace(0.4, 0.01, layers)),
    }
    V = jnp.tile(W, (layers, 1, 1))
    U = jnp.tile(jnp.matmul(D.T, W, precision="highest"), (layers, 1, 1))

    def run_alista(w, e, **options):
        weights = StepWeights(w["gamma"], jnp.exp(w["log_theta"]))
        return alista(e, D, weights, analytic=W, **options)

    def run_cp(w, e, **options):
        gamma = w["gamma"][:, None, None]
        return lista_cp(e, D, CoupledWeights(gamma * w["V"], jnp.exp(w["log_theta"])), **options)

    def run_lista(w, e, **options):
        gamma = w["gamma"][:, None, None]
        weights = ListaWeights(gamma * w["V"], eye - gamma * w["U"], jnp.exp(w["log_theta"]))
        return lista(e, D, weights, **options)

    return {
        "ALISTA": (scalars, functools.partial(run_alista, **SUPPORT)),
        "LISTA-CPSS": (scalars | {"V": V}, functools.partial(run_cp, **SUPPORT)),
        "LISTA-CP": (scalars | {"V": V}, run_cp),
        "LISTA": (scalars | {"V": V, "U": U}, run_lista),
    }


def decibel(ratio: jax.Array) -> jax.Array:
    return 10 * jnp.log10(ratio)


def train(run, weights, D, *, steps, batch, rate, matrix_rate, seed):
    """Adam with cosine decay on the log of the last layer's error."""
    rates = {name: matrix_rate if w.ndim > 1 else rate for name, w in weights.items()}
    optimizer = optax.multi_transform(
        {name: optax.adam(optax.cosine_decay_schedule(r, steps)) for name, r in rates.items()},
        {name: name for name in weights},
    )

    def log_error(weights, x):
        z = run(weights, x @ D.T).code
        return jnp.log(jnp.sum((z - x) ** 2) / jnp.sum(x**2))

    @jax.jit
    def some_steps(carry, first):
        def step(carry, i):
            weights, state = carry
            x = draw(jax.random.fold_in(jax.random.key(seed), i), batch, D.shape[1])
            loss, gradient = jax.value_and_grad(log_error)(weights, x)
            update, state = optimizer.update(gradient, state)
            return (optax.apply_updates(weights, update), state), loss

        return jax.lax.scan(step, carry, first + jnp.arange(STEPS_PER_CALL))

    carry = weights, optimizer.init(weights)
    begin = time.perf_counter()
    for i in range(0, steps, STEPS_PER_CALL):
        carry, loss = some_steps(carry, i)
        done = i + STEPS_PER_CALL
        if done % 500 == 0:
            error = float(decibel(jnp.exp(jnp.mean(loss))))
            seconds = time.perf_counter() - begin
            print(f"    step {done:5d}  {error:6.1f} dB in training  {seconds:5.0f} s", flush=True)
    return carry[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--networks", default="ALISTA,LISTA-CPSS,LISTA-CP,LISTA")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--rate", type=float, default=0.03)
    parser.add_argument("--matrix-rate", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    D, x = problem(options.data, options.seed)
    e = jnp.matmul(x, D.T, precision="highest")

    def curve(iterates):
        return decibel(jnp.sum((iterates - x) ** 2, axis=(1, 2)) / jnp.sum(x**2))

    def show(name, curve):
        print(f"{name:<12}" + "".join(f"{error:7.1f}" for error in np.asarray(curve)), flush=True)

    print(vars(options))
    show("layer", jnp.arange(1, options.layers + 1))
    for penalty in (0.2, 0.1, 0.05):
        codes = fista(e, D, penalty=penalty, iterations=options.layers, keep_iterates=True)
        show(f"FISTA {penalty}", curve(codes.iterates))
    all_networks = networks(D, options.layers)
    names = ("steps", "batch", "rate", "matrix_rate", "seed")
    training = {name: getattr(options, name) for name in names}
    for name in options.networks.split(","):
        start, run = all_networks[name]
        weights = train(run, start, D, **training)
        show(name, curve(run(weights, e, keep_iterates=True).iterates))


if __name__ == "__main__":
    main()
