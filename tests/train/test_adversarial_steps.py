"""Two players in one step: who moves when, by which gradients, on any number of devices."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from models import perceptual
from models.adversarial import PatchDiscriminator, hinge_discriminator_loss
from train import parallel, runs, steps
from train.checks import check
from train.errors import UserError


@pytest.fixture
def config(tiny):
    tiny.model.data_variance = 0.14
    tiny.model.backbone = {"name": "convnet", "widths": (4,), "last_width": 6, "residual_layers": 0}
    tiny.model.bottleneck.codebooks = 1
    tiny.model.bottleneck.revive_below = 0.0
    tiny.model.bottleneck.start = "uniform"
    tiny.adversary.loss = "hinge"
    tiny.adversary.layers = 1
    tiny.adversary.width = 3
    return tiny


def digits(rows=16, seed=0):
    images = load_digits().images[..., None].astype(np.float32) / 16
    return {"image": images[np.random.default_rng(seed).permutation(len(images))[:rows]]}


def plain_sgd(config):
    """Parameters then move by minus their gradient."""
    config.optimizer.name = "sgd"
    config.optimizer.momentum = 0.0
    config.optimizer.learning_rate = 1.0
    config.optimizer.schedule = "constant"


def start(config):
    """A state of the run's shapes, drawn without compiling what makes its first."""
    rng = np.random.default_rng(0)
    state = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), runs.abstract_state(config))

    def draw(tree, low, high):
        return jax.tree.map(
            lambda a: (
                rng.uniform(low, high, a.shape).astype(a.dtype) if a.dtype == np.float32 else a
            ),
            tree,
        )

    state = state._replace(
        params=draw(state.params, -0.3, 0.3), collections=draw(state.collections, 0.5, 1.5)
    )
    if not config.adversary.loss:
        return state
    params = draw(state.adversary.params, -0.3, 0.3)
    statistics = draw(state.adversary.collections, 0.5, 1.5)
    return state._replace(adversary=state.adversary._replace(params=params, collections=statistics))


def stepper(config, devices=1):
    """`(state, batch) -> (state, window)`, one step on some devices."""
    optimizer = steps.make_optimizer(config.optimizer, config.train.steps)
    function = runs.make_train_step(
        config, runs.build_model(config, axis_name=parallel.AXIS), optimizer
    )
    run = jax.pmap(
        function,
        axis_name=parallel.AXIS,
        in_axes=(None, 0),
        out_axes=None,
        devices=jax.local_devices()[:devices],
    )

    def step(state, batch):
        split = jax.tree.map(lambda x: x.reshape(devices, 1, -1, *x.shape[1:]), batch)
        return jax.device_get(run(state, split))

    return step


def test_before_its_start_there_is_no_adversary(config):
    config.adversary.start = 2
    config.adversary.loss = "non_saturating"  # with a hinge the last bias need not move
    state = start(config)
    batches = [digits(seed=seed) for seed in (1, 2)]
    step, after = stepper(config), state
    for batch in batches:
        after, window = step(after, batch)
    # Not one bit of it has moved, the count of its optimiser included.
    chex.assert_trees_all_equal(after.adversary, state.adversary)
    assert float(window.last["adaptive_weight"]) == 0
    assert float(window.last["discriminator_gradient_norm"]) > 0

    without = config.copy_and_resolve_references()
    without.adversary.loss = ""
    plain = runs.abstract_state(without)
    assert not hasattr(plain, "adversary")
    fields = {name: getattr(state, name) for name in plain._fields}
    fields["window"] = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), plain.window)
    step_alone, alone = stepper(without), type(plain)(**fields)
    for batch in batches:
        alone, seen = step_alone(alone, batch)
    chex.assert_trees_all_close(after.params, alone.params, rtol=1e-5, atol=1e-7)
    chex.assert_trees_all_close(after.collections, alone.collections, rtol=1e-5, atol=1e-7)
    assert float(window.last["loss"]) == pytest.approx(float(seen.last["loss"]), rel=1e-5)

    later, window = step(after, digits(seed=3))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), later.adversary, after.adversary)
    assert all(jax.tree.leaves(moved)), moved
    assert int(later.adversary.opt_state[0].count) == 1
    assert int(later.opt_state[0].count) == 3
    assert float(window.last["adaptive_weight"]) > 0


def test_both_gradients_are_those_of_two_separate_losses(config, monkeypatch):
    plain_sgd(config)
    net = perceptual.Net(tuple((perceptual.Conv(i),) for i in range(5)), (4, 8, 8, 8, 8), 2, ())
    monkeypatch.setitem(perceptual.NETS, "tiny", net)
    config.model.perceptual.net = "tiny"
    config.model.perceptual.weight = 0.5
    config.adversary.weight = 0.5
    config.adversary.gradient_penalty = 0.1
    state, batch = start(config), digits(seed=1)
    after, window = stepper(config)(state, batch)
    model = runs.build_model(config)
    judge = PatchDiscriminator(1, 3)
    real = 2 * batch["image"] - 1

    def logits(params, images):
        return judge.apply(
            {"params": params, **state.adversary.collections},
            images,
            train=True,
            mutable=["batch_stats"],
        )[0]

    @jax.jit
    def losses(params):
        (terms, output), _ = model.apply(
            {"params": params, **state.collections},
            batch,
            train=True,
            method="losses",
            mutable=["codebook"],
        )
        terms = {name: value.mean() for name, value in terms.items()}
        return terms, 2 * output.reconstruction - 1

    def nll(params):
        terms, _ = losses(params)
        looks = 0.5 * terms["random_features_distance"]
        return config.loss_weights.reconstruction * terms["reconstruction"] + looks

    def commitment(params):
        return config.loss_weights.commitment * losses(params)[0]["commitment"]

    def g(params):
        return -jnp.mean(logits(state.adversary.params, losses(params)[1]))

    @jax.jit
    def expected(params):
        parts = [jax.grad(f)(params) for f in (nll, commitment, g)]
        of_nll, of_g = (p["decoder"]["output"]["kernel"] for p in (parts[0], parts[2]))
        weight = 0.5 * jnp.linalg.norm(of_nll) / (jnp.linalg.norm(of_g) + 1e-4)
        return jax.tree.map(lambda a, b, c: a + b + weight * c, *parts), weight

    gradients, weight = jax.device_get(expected(state.params))
    found = jax.tree.map(np.subtract, state.params, after.params)
    assert float(window.last["adaptive_weight"]) == pytest.approx(float(weight), rel=1e-4)
    chex.assert_trees_all_close(found, gradients, rtol=1e-3, atol=1e-5)

    fake = losses(state.params)[1]

    def discriminator(params):
        slope = jax.grad(lambda x: logits(params, x).mean((1, 2)).sum())(real)
        penalty = 0.5 * (slope**2).sum((1, 2, 3)).mean()
        judged = hinge_discriminator_loss(logits(params, real), logits(params, fake))
        return judged.mean() + 0.1 * penalty

    value, gradients = jax.jit(jax.value_and_grad(discriminator))(state.adversary.params)
    found = jax.tree.map(np.subtract, state.adversary.params, after.adversary.params)
    chex.assert_trees_all_close(found, gradients, rtol=1e-3, atol=1e-5)
    assert float(window.last["discriminator"]) == pytest.approx(float(value), rel=1e-4)


def test_four_devices_train_as_one(config):
    plain_sgd(config)
    config.adversary.loss = "non_saturating"
    state, batch = start(config), digits(seed=1)
    one, four = (stepper(config, devices)(state, batch) for devices in (1, 4))
    chex.assert_trees_all_close(one, four, rtol=2e-4, atol=2e-4)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), one[0].adversary, state.adversary)
    assert all(jax.tree.leaves(moved))


def test_a_run_resumes_bit_for_bit_and_starts_from_one_without(
    config, here, monkeypatch, assert_same_run, tmp_path
):
    config.adversary.start = 6
    config.train.steps_per_call = 2
    config.log_every = config.checkpoint_every = 4
    config.evaluation.every = 0
    config.evaluation.evaluators = ("losses",)
    straight = here(config.copy_and_resolve_references(), tmp_path / "straight")
    assert int(straight.adversary.opt_state[0].count) == 6
    # Stopped before its adversary has come, and after.
    for stop in (4, 8):
        run = config.copy_and_resolve_references()
        with monkeypatch.context() as patch:
            seen = []

            def requested(self, seen=seen):
                seen.append(0)
                return len(seen) == 2

            patch.setattr("train.interrupts.Interrupts.requested", requested)
            assert int(here(run, tmp_path / "run").step) == stop
    here(config.copy_and_resolve_references(), tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "straight")
    line = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-2])
    assert {"adaptive_weight", "discriminator", "generator", "logits_real"} <= set(line)
    loaded = runs.load(str(tmp_path / "run"))
    jax.tree.map(np.testing.assert_array_equal, loaded.variables["params"], straight.params)

    # Another, with an adversary of another size, from this one's autoencoder.
    config.adversary.width = 5
    config.adversary.start = 0
    config.init_from = str(tmp_path / "run")
    config.train.steps = config.train.steps_per_call = 1
    assert int(here(config, tmp_path / "next").step) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adversary.loss": "wasserstein"}, "loss is 'wasserstein'; known: hinge, non_saturating"),
        ({"adversary.layers": 2}, r"2 layers .* at least 12x12, got \(2, 8, 8, 1\)"),
        ({"train.accumulate": 2}, "accumulate is 2, but an adversary sees whole batches"),
        ({"adversary.weight": -1.0}, r"adversary\.weight is -1\.0; it must be .*at least 0"),
        ({"model.backbone": {"name": "mlp"}}, "MLPDecoder does not name; use the backbone convnet"),
    ],
    ids=str,
)
def test_runs_that_cannot_be(config, change, message):
    for name, value in change.items():
        *path, last = name.split(".")
        section = config
        for part in path:
            section = section[part]
        section[last] = value
    with pytest.raises(UserError, match=message):
        prepare(config)


def prepare(config):
    """What a run does before its first step."""
    check(config)
    runs.abstract_state(config)
    optimizer = steps.make_optimizer(config.optimizer, config.train.steps)
    runs.make_train_step(config, runs.build_model(config), optimizer)
