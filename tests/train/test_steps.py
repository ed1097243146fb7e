"""A training step: the same on any number of devices, each option doing what it says."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from configs import base, vae_digits, vqvae_digits
from train import parallel, runs, steps
from train.data import Batches, load_source, make_transform
from train.errors import UserError
from train.state import empty_window, evaluation_variables


@pytest.fixture
def config():
    config = vqvae_digits.get_config()
    config.model.data_variance = 0.14
    # Small, because most of the time of these tests is compilation.
    config.model.backbone = ConfigDict({"name": "mlp", "widths": (16,), "activation": "tanh"})
    config.model.bottleneck.codebooks = 4
    config.model.bottleneck.codes = 16
    config.model.bottleneck.start = "uniform"  # k-means takes longer to compile than to run
    config.train.steps = 100
    return config


def digits(rows=32, seed=0):
    from sklearn.datasets import load_digits

    images = load_digits().images[..., None].astype(np.float32) / 16
    return {"image": images[np.random.default_rng(seed).permutation(len(images))[:rows]]}


def start(config, rows=32):
    names = list(runs.abstract_state(config).window.sums)
    optimizer = steps.make_optimizer(config.optimizer, config.train.steps)
    create = jax.jit(runs.make_state(config, runs.build_model(config), optimizer, names))
    return create(jax.random.key(0), digits(rows))


def step_function(config, *, key=None, **options):
    model = runs.build_model(config, axis_name=parallel.AXIS)
    return steps.make_train_step(
        model,
        steps.make_optimizer(config.optimizer, config.train.steps),
        key=jax.random.key(1) if key is None else key,
        weights=config.loss_weights.to_dict(),
        schedule=steps.learning_rate(config.optimizer, config.train.steps),
        **options,
    )


def on_devices(function, state, batch, devices):
    """`batch` is [steps, rows, ...]; rows are shared out in order."""
    split = jax.tree.map(
        lambda x: np.moveaxis(x.reshape(x.shape[0], devices, -1, *x.shape[2:]), 1, 0), batch
    )
    run = jax.pmap(
        function,
        axis_name=parallel.AXIS,
        in_axes=(None, 0),
        out_axes=None,
        devices=jax.local_devices()[:devices],
    )
    return jax.block_until_ready(run(state, split))


def stacked(*batches):
    return jax.tree.map(lambda *x: np.stack(x), *batches)


def assert_close(a, b, tolerance=2e-5):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), a, b
    )


def gradients_seen(config, state, devices, batch):
    """With plain SGD of rate 1 and no momentum the parameters move by minus the gradient."""
    config.optimizer.name = "sgd"
    config.optimizer.momentum = 0.0
    config.optimizer.learning_rate = 1.0
    config.optimizer.schedule = "constant"
    optimizer = steps.make_optimizer(config.optimizer, config.train.steps)
    state = state._replace(opt_state=optimizer.init(state.params))
    new, window = on_devices(step_function(config), state, stacked(batch), devices)
    return jax.tree.map(jnp.subtract, state.params, new.params), new.collections, window


@pytest.mark.parametrize("name", ["vq", "vq-loss", "vae"])
def test_four_devices_train_as_one(config, name):
    if name == "vae":
        config.model.bottleneck = vae_digits.get_config().model.bottleneck
        config.loss_weights = {"reconstruction": 1.0, "kl": 1.0}
    if name == "vq-loss":
        config.model.bottleneck.codebook_update = "loss"
        config.model.bottleneck.revive_below = 0.0
        config.loss_weights = {"reconstruction": 1.0, "codebook": 1.0, "commitment": 0.25}
    if name == "vq":
        # As many codes as this batch has different tokens, so that some are revived at once.
        config.model.bottleneck.codes = 256
        config.model.bottleneck.revive_below = 1.0
    state = start(config)
    batch = digits(seed=1)
    one = gradients_seen(config, state, 1, batch)
    four = gradients_seen(config, state, 4, batch)
    # Gradients of sums over 32 x 64 pixels in another order: float32 rounding.
    assert_close(one, four, 2e-4)
    assert float(optax.tree.norm(one[0])) > 1e-3
    if name == "vq":
        assert float(four[2].last["revived"]) > 0


def test_a_run_of_sequences_goes_on_bit_for_bit_and_on_one_device(
    config, here, final_state, assert_same_run, tmp_path
):
    config.model.image_shape = (8, 8, 3)
    base.set_topographic(config, frames=4, capsules=2, places=4, kernel="shifting", window=3)
    config.data.source = "sequences:digits"
    config.data.transformations = ("rotation", "hue")
    config.optimizer.name = "sgd"  # Adam would divide by its own rounding
    config.optimizer.learning_rate = 1e-3
    config.train.steps, config.train.batch_size = 6, 8
    config.checkpoint_every, config.log_every = 4, 1
    config.evaluation.every, config.evaluation.evaluators = 0, ()
    straight, run = tmp_path / "straight", tmp_path / "run"
    here(config, straight)
    # As a kill leaves it: lines of steps 5 and 6 are there, the last checkpoint is of step 4.
    shutil.copytree(straight, run)
    shutil.rmtree(run / "checkpoints/6")
    (run / "evaluation.json").unlink()
    cut = final_state(run)
    assert int(cut.step) == 4
    here(config, run)
    assert_same_run(run, straight)

    source, transform = load_source(config.data, "train"), make_transform(config.data, "train")
    batches = Batches(source, batch_size=8, seed=config.seed, transform=transform)
    # The key of a run's steps, whatever the devices.
    function = step_function(config, key=jax.random.fold_in(jax.random.key(config.seed), 1))
    one, _ = on_devices(function, cut, stacked(batches[4], batches[5]), 1)
    found = final_state(straight)
    assert_close(one.params, found.params)
    moved = jax.tree.map(lambda x, y: float(np.abs(x - y).max()), found.params, cut.params)
    assert min(jax.tree.leaves(moved)) > 1e-5, moved


def test_several_steps_in_a_call_are_those_steps_one_by_one(config):
    first, second = digits(seed=1), digits(seed=2)
    state = start(config)
    function = step_function(config, log_every=4)
    together, window = on_devices(function, state, stacked(first, second), 2)
    for batch in (first, second):
        state, alone = on_devices(function, state, stacked(batch), 2)
    assert int(together.step) == 2
    assert_close((together, window), (state, alone), 1e-6)


def test_accumulated_parts_give_the_gradient_of_the_whole(config):
    config.model.bottleneck.codebook_update = "loss"
    config.model.bottleneck.revive_below = 0.0
    config.loss_weights = {"reconstruction": 1.0, "codebook": 1.0, "commitment": 0.25}
    state, batch = start(config), stacked(digits(seed=1))
    whole, _ = on_devices(step_function(config), state, batch, 1)
    parts, window = on_devices(step_function(config, accumulate=4), state, batch, 1)
    # Adam's first update is the sign of the gradient; compare what it remembers of the gradient.
    assert_close(whole.opt_state[0].mu, parts.opt_state[0].mu, 1e-3)
    assert set(window.sums) == set(empty_window(list(window.sums)).sums)


def test_clipping_bounds_the_update_but_not_the_figure(config):
    config.optimizer.clip_norm = 1e-3
    seen, _, window = gradients_seen(config, start(config), 1, digits(seed=1))
    assert float(optax.tree.norm(seen)) == pytest.approx(1e-3, rel=1e-4)
    assert float(window.last["gradient_norm"]) > 1e-2


def test_weight_decay_shrinks_kernels_alone(config):
    config.optimizer.weight_decay = 0.1
    config.optimizer.learning_rate = 1e-2
    config.optimizer.schedule = "constant"
    optimizer = steps.make_optimizer(config.optimizer, 100)
    params = {"layer": {"kernel": jnp.ones(3), "bias": jnp.ones(3)}, "codebook": jnp.ones(3)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    np.testing.assert_allclose(updates["layer"]["kernel"], -1e-3, rtol=1e-6)
    assert not updates["layer"]["bias"].any()
    assert not updates["codebook"].any()


def test_warm_up_and_cosine():
    settings = {"learning_rate": 2.0, "warmup_steps": 10, "schedule": "cosine"}
    rate = steps.learning_rate(settings, 110)
    np.testing.assert_allclose(
        [rate(0), rate(5), rate(10), rate(60), rate(110)], [0, 1, 2, 1, 0], atol=1e-6
    )
    constant = steps.learning_rate({**settings, "schedule": "constant"}, 110)
    assert float(constant(5)) == pytest.approx(1)
    assert float(constant(100)) == pytest.approx(2)
    with pytest.raises(UserError, match="warmup_steps is 10, but the run has only 5"):
        steps.learning_rate(settings, 5)
    with pytest.raises(UserError, match="'step'; known: constant, cosine"):
        steps.learning_rate({**settings, "schedule": "step"}, 5)


def test_the_average_follows_the_parameters(config):
    config.train.average_decay = 0.5
    state = start(config)
    assert_close(evaluation_variables(state)["params"], state.params, 0)
    function = step_function(config, average_decay=0.5)
    before = state
    for seed in range(20):
        before = state
        state, _ = on_devices(function, state, stacked(digits(seed=seed)), 1)
    # From step 10 on (20 / 30 > 0.5) the decay is the config's.
    expected = jax.tree.map(lambda a, p: 0.5 * a + 0.5 * p, before.average, state.params)
    assert_close(state.average, expected, 1e-6)
    assert evaluation_variables(state)["params"] is state.average


def with_convnet(config):
    config.model.backbone = ConfigDict(
        {"name": "convnet", "widths": (8,), "last_width": 8, "residual_layers": 1}
    )
    return config


def test_bfloat16_computes_with_float32_parameters(config):
    config = with_convnet(config)
    exact, _ = on_devices(step_function(config), start(config), stacked(digits(seed=1)), 1)
    config.model.dtype = "bfloat16"
    state = start(config)
    new, window = on_devices(step_function(config), state, stacked(digits(seed=1)), 1)
    assert {x.dtype for x in jax.tree.leaves(new.params)} == {jnp.dtype("float32")}
    assert {x.dtype for x in jax.tree.leaves(new.collections)} <= {
        jnp.dtype("float32"),
        jnp.dtype("int32"),
    }
    loss, close = (float(w.window.last["loss"]) for w in (new, exact))
    assert loss != close
    assert loss == pytest.approx(close, rel=0.05)
    assert int(window.broken) == -1


def test_rematerialisation_changes_no_gradient(config):
    config = with_convnet(config)
    state, batch = start(config), digits(seed=1)
    plain = gradients_seen(config, state, 1, batch)
    config.model.remat = True
    assert_close(plain, gradients_seen(config, state, 1, batch), 1e-5)


def test_a_loss_that_is_not_finite_is_noted_with_its_step(config):
    state = start(config)
    function = step_function(config, log_every=1)
    bad = digits(seed=1)
    bad["image"][3, 2, 2] = np.nan
    for batch in (digits(seed=1), bad, digits(seed=2)):
        state, window = on_devices(function, state, stacked(batch), 2)
    assert int(window.broken) == 2


def test_the_window_sums_since_the_last_logged_line(config):
    state, losses = start(config), []
    function = step_function(config, log_every=3)
    for seed in range(5):
        state, window = on_devices(function, state, stacked(digits(seed=seed)), 1)
        losses.append(float(window.last["loss"]))
    assert int(window.steps) == 2
    assert float(window.sums["loss"]) == pytest.approx(sum(losses[3:]), rel=1e-6)


def test_a_missing_loss_weight_is_named(config):
    config.loss_weights = {"reconstruction": 1.0}
    with pytest.raises(UserError, match="terms are commitment, reconstruction"):
        runs.abstract_state(config)
