"""The VQ bottleneck as a module: what it holds, when that moves, and where gradients go."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bottlenecks import quantization as vq
from models.vqvae import VectorQuantizer

KEYS = {"params": jax.random.key(0), "shared": jax.random.key(1)}


def features(*lead, width=6, seed=0):
    return np.random.default_rng(seed).normal(size=(*lead, width)).astype(np.float32)


def quantizer(**options):
    return VectorQuantizer(**{"codes": 8, "depth": 3, "start": "uniform", **options})


def start(module, x, **options):
    # Compiled whole: one operation after the other takes four times as long.
    return jax.jit(lambda x: module.init(KEYS, x, train=True, **options))(x)


def evaluate(module, variables, x):
    return jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, x)


def project(variables, x):
    """z_e, in float64."""
    dense = variables["params"]["project"]
    kernel, bias = (np.asarray(dense[n], np.float64) for n in ("kernel", "bias"))
    return np.asarray(x, np.float64) @ kernel + bias


def nearest(z_e, codebook):
    z_e, codebook = np.asarray(z_e, np.float64), np.asarray(codebook, np.float64)
    distance = ((z_e[..., None, :] - codebook) ** 2).sum(-1)
    return distance.argmin(-1), distance.min(-1)


def apply(module, variables, x, **options):
    options = {"train": True, "rngs": KEYS, "mutable": ["codebook"], **options}
    return jax.jit(lambda v, x: module.apply(v, x, **options))(variables, x)


def learned(module, variables, x, **options):
    output, new = apply(module, variables, x, **options)
    return output, new["codebook"]["state"]


def test_each_codebook_quantises_its_own_slice():
    module = quantizer(codebooks=2)
    x = features(4, 2, 5)
    variables = start(module, x)
    output = evaluate(module, variables, x)
    codebooks = variables["codebook"]["state"].codebook
    assert codebooks.shape == (2, 8, 3)
    z_e = project(variables, x)
    losses = []
    for i in range(2):
        index, distance = nearest(z_e[..., 3 * i : 3 * i + 3], codebooks[i])
        np.testing.assert_array_equal(output.code[..., i], index)
        np.testing.assert_array_equal(output.latent[..., 3 * i : 3 * i + 3], codebooks[i][index])
        losses.append(distance.mean((1, 2)))
    # Summed over the depth, averaged over positions and codebooks (Eq. 3).
    np.testing.assert_allclose(output.losses["commitment"], np.mean(losses, 0), rtol=1e-5)
    assert set(output.losses) == {"commitment"}
    assert output.code.dtype == jnp.int32
    assert (output.code[..., 0] != output.code[..., 1]).any()


@pytest.mark.parametrize("codebook_update", ["ema", "loss"])
@pytest.mark.parametrize("lead", [(4,), (4, 3, 2, 2)], ids=len)
def test_looking_codes_up_gives_the_latent(codebook_update, lead):
    module = quantizer(codebooks=2, codebook_update=codebook_update)
    x = features(*lead)
    variables = start(module, x)
    output = evaluate(module, variables, x)
    assert output.latent.shape == (*lead, 6)
    assert output.code.shape == (*lead, 2)
    assert all(loss.shape == (4,) for loss in output.losses.values())
    looked_up = module.apply(variables, output.code, method="look_up")
    np.testing.assert_array_equal(looked_up, output.latent)
    codebook = module.apply(variables, method="codebook")
    assert codebook.shape == (2, 8, 3)
    assert codebook.dtype == jnp.float32


def test_the_averages_move_in_training_and_only_there():
    module = quantizer(codebooks=2, decay=0.9, epsilon=0.0)
    x = features(64)
    variables = start(module, x)
    before = variables["codebook"]["state"]
    np.testing.assert_array_equal(before.step, [0, 0])
    _, kept = apply(module, variables, x, train=False)
    jax.tree.map(np.testing.assert_array_equal, kept["codebook"]["state"], before)
    frozen = apply(module, variables, x, mutable=False)
    assert set(frozen.metrics) == {"perplexity"}

    output, after = learned(module, variables, x)
    np.testing.assert_array_equal(after.step, [1, 1])
    # Quantised with the codewords from before the update.
    looked_up = module.apply(variables, output.code, method="look_up")
    np.testing.assert_array_equal(looked_up, output.latent)
    z_e = project(variables, x)
    for i in range(2):
        index, slice_ = np.asarray(output.code[:, i]), z_e[:, 3 * i : 3 * i + 3]
        chosen = np.eye(8)[index]  # [rows, codes]
        count = 0.9 * np.ones(8) + 0.1 * chosen.sum(0)  # Eq. 6, from N = 1
        total = 0.9 * np.asarray(before.codebook[i], np.float64) + 0.1 * chosen.T @ slice_  # Eq. 7
        np.testing.assert_allclose(after.count[i], count, rtol=1e-6)
        np.testing.assert_allclose(after.total[i], total, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(  # Eq. 8
            after.codebook[i], total / count[:, None], rtol=1e-4, atol=1e-5
        )


def test_codewords_that_are_parameters_do_not_move_by_themselves():
    module = quantizer(codebook_update="loss")
    x = features(32)
    variables = start(module, x)
    assert set(variables) == {"params"}
    output, new = apply(module, variables, x)
    assert new == {}
    assert set(output.losses) == {"codebook", "commitment"}
    np.testing.assert_allclose(output.losses["codebook"], output.losses["commitment"], rtol=1e-6)


# ---------------------------------------------------------------- where codebooks start


@pytest.mark.parametrize("codebook_update", ["ema", "loss"])
def test_a_uniform_start(codebook_update):
    module = quantizer(codes=512, depth=12, codebooks=2, codebook_update=codebook_update)
    codebook = module.apply(start(module, features(4)), method="codebook")
    limit = np.sqrt(3 / 12)  # a codeword's expected squared norm is then 1
    assert float(jnp.abs(codebook).max()) <= limit
    assert float(jnp.square(codebook).sum(-1).mean()) == pytest.approx(1, abs=0.03)
    assert (codebook[0] != codebook[1]).all()


@pytest.mark.parametrize("codebook_update", ["ema", "loss"])
def test_a_start_from_data(codebook_update):
    module = quantizer(start="data", codebooks=2, codebook_update=codebook_update)
    x = features(20)
    variables = start(module, x)
    codebook = module.apply(variables, method="codebook")
    z_e = project(variables, x)
    for i in range(2):
        row, distance = nearest(codebook[i], z_e[:, 3 * i : 3 * i + 3])
        assert distance.max() < 1e-10
        assert len(set(row)) == 8  # without replacement


@pytest.mark.parametrize("codebook_update", ["ema", "loss"])
def test_a_start_by_kmeans(codebook_update):
    module = quantizer(codes=3, start="kmeans", codebooks=2, codebook_update=codebook_update)
    random = np.random.default_rng(0)
    # Three far clusters of 30, 20 and 10. Lloyd's algorithm may put two centres into one of them.
    centres = 30 * random.normal(size=(3, 6))
    which = np.repeat([0, 1, 2], [30, 20, 10])
    x = (centres[which] + random.normal(size=(60, 6))).astype(np.float32)
    variables = start(module, x)
    codebook = module.apply(variables, method="codebook")
    z_e = project(variables, x)
    for i in range(2):
        slice_ = z_e[:, 3 * i : 3 * i + 3]
        index, _ = nearest(slice_, codebook[i])
        for k in range(3):
            mean = slice_[index == k].mean(0)
            np.testing.assert_allclose(codebook[i, k], mean, rtol=1e-4, atol=1e-3)
        if codebook_update == "ema":
            state = variables["codebook"]["state"]
            np.testing.assert_array_equal(state.count[i], np.bincount(index, minlength=3))
            np.testing.assert_allclose(
                state.total[i], state.count[i][:, None] * codebook[i], rtol=1e-6
            )


def test_more_codes_than_features_to_start_from():
    module = quantizer(codes=16, start="kmeans")
    x = features(5)
    state = start(module, x)["codebook"]["state"]
    assert jnp.isfinite(state.codebook).all()
    assert (state.count >= 1).all()  # also of the clusters that got no row


# ---------------------------------------------------------------- masks, devices, figures


def padded(x):
    mask = np.repeat([1.0, 0.0], [8, 4]).astype(np.float32)
    return np.where(mask[:, None, None] > 0, x, np.nan).astype(np.float32), mask


@pytest.mark.parametrize("kind", ["data", "kmeans"])
def test_padding_is_no_start(kind):
    x, mask = padded(features(12, 4))
    state = start(quantizer(start=kind), x, mask=mask)["codebook"]["state"]
    assert jnp.isfinite(state.codebook).all()
    assert float(state.count.sum()) == (8 if kind == "data" else 32)


def test_padding_teaches_nothing():
    module = quantizer(codebooks=2, revive_below=1.0)
    x, mask = padded(features(12, 4))
    variables = start(module, x[:8])
    without, expected = learned(module, variables, x[:8])
    output, state = learned(module, variables, x, mask=mask)
    np.testing.assert_allclose(state.count, expected.count, rtol=1e-6)
    # Which row of the batch a revived code becomes depends on the rows there are.
    kept = np.asarray(state.count) != 1
    np.testing.assert_allclose(state.codebook[kept], expected.codebook[kept], rtol=1e-5)
    assert 0 < kept.sum() < 16
    assert jnp.isfinite(state.codebook).all()
    np.testing.assert_array_equal(output.code[:8], without.code)
    np.testing.assert_allclose(output.losses["commitment"][:8], without.losses["commitment"])
    for name in ("perplexity", "revived"):
        np.testing.assert_allclose(output.metrics[name][:8], without.metrics[name], rtol=1e-6)


@pytest.mark.parametrize(
    "options", [{}, {"revive_below": 1.0}, {"codebook_update": "loss"}], ids=str
)
def test_devices_together_do_what_one_does_with_the_whole_batch(options):
    module = quantizer(codes=32, codebooks=2, **options)
    x = features(8, 4)
    variables = start(module, x)
    apart = quantizer(codes=32, codebooks=2, axis_name="batch", **options)

    def train(module):
        return lambda x: module.apply(variables, x, train=True, rngs=KEYS, mutable=["codebook"])

    whole, new = jax.jit(train(module))(x)
    parts, shared = jax.jit(jax.vmap(train(apart), axis_name="batch"))(x.reshape(4, 2, 4, 6))

    def same(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)

    jax.tree.map(lambda a, b: same(a, np.broadcast_to(b, a.shape)), shared, new)
    jax.tree.map(lambda a, b: same(a.reshape(b.shape), b), parts, whole)
    if "revive_below" in options:
        assert float(whole.metrics["revived"][0]) > 0


def test_perplexity_is_of_the_batch_and_a_mean_over_codebooks():
    module = quantizer(codebooks=2)
    x = features(32, 2)
    output, _ = learned(module, start(module, x), x)
    perplexities = []
    for i in range(2):
        p = np.bincount(np.ravel(output.code[..., i]), minlength=8) / 64
        perplexities.append(np.exp(-(p[p > 0] * np.log(p[p > 0])).sum()))
    assert perplexities[0] != perplexities[1]
    assert output.metrics["perplexity"].shape == (32,)
    np.testing.assert_allclose(output.metrics["perplexity"], np.mean(perplexities), rtol=1e-5)


def test_dead_codes_come_back_as_features_of_the_batch():
    module = quantizer(codes=4, revive_below=0.5, decay=0.1, epsilon=0.0)
    x = features(16)
    variables = start(module, x)
    state = variables["codebook"]["state"]
    far = state._replace(codebook=state.codebook.at[0, 2].set(1e3))
    output, new = learned(module, {**variables, "codebook": {"state": far}}, x)
    assert not (output.code == 2).any()
    revived = int(output.metrics["revived"][0])
    assert revived >= 1
    _, distance = nearest(new.codebook[0, 2], project(variables, x))
    assert distance < 1e-10
    assert float(new.count[0, 2]) == 1


# ---------------------------------------------------------------- gradients


def test_the_codebook_term_reaches_the_codebook_alone():
    module = quantizer(codebooks=2, codebook_update="loss")
    x = features(16)
    variables = start(module, x)

    def term(name):
        return lambda params, x: module.apply({"params": params}, x, train=True).losses[name].sum()

    of_params, of_x = jax.jit(jax.grad(term("codebook"), (0, 1)))(variables["params"], x)
    assert not of_x.any()
    assert not any(g.any() for g in jax.tree.leaves(of_params["project"]))
    z_e = project(variables, x)
    code = np.asarray(evaluate(module, variables, x).code)
    for i in range(2):
        # d/de of ||z_e - e||^2, averaged over the two codebooks.
        e = np.asarray(variables["params"]["codebook"][i], np.float64)
        chosen = np.eye(8)[code[:, i]]
        pulls = e * chosen.sum(0)[:, None] - chosen.T @ z_e[:, 3 * i : 3 * i + 3]
        np.testing.assert_allclose(of_params["codebook"][i], pulls, rtol=1e-4, atol=1e-5)

    of_params, of_x = jax.jit(jax.grad(term("commitment"), (0, 1)))(variables["params"], x)
    assert not of_params["codebook"].any()
    assert of_x.any()


@pytest.mark.parametrize("codebook_update", ["ema", "loss"])
def test_the_encoder_gets_the_gradient_of_the_decoders_input(codebook_update):
    module = quantizer(codebooks=2, codebook_update=codebook_update)
    x = features(5, 4)
    variables = start(module, x)

    def decode(latent):
        return jnp.sum(jnp.sin(3 * latent) * jnp.arange(1.0, 7.0))

    latent = evaluate(module, variables, x).latent
    at_decoder = jax.grad(decode)(latent)

    def whole(params, x):
        return decode(
            module.apply({**variables, "params": params}, x, train=True, rngs=KEYS).latent
        )

    of_params, at_encoder = jax.jit(jax.grad(whole, (0, 1)))(variables["params"], x)
    kernel = variables["params"]["project"]["kernel"]
    np.testing.assert_allclose(at_encoder, at_decoder @ kernel.T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        of_params["project"]["bias"], at_decoder.sum((0, 1)), rtol=1e-5, atol=1e-5
    )
    if codebook_update == "loss":
        assert not of_params["codebook"].any()


def test_training_pulls_no_gradient_through_the_averages():
    module = quantizer()
    x = features(16)
    variables = start(module, x)

    def moved(x):
        return learned(module, variables, x)[1].codebook.sum()

    assert not jax.grad(moved)(x).any()


# ---------------------------------------------------------------- bfloat16


def test_bfloat16_features_keep_float32_codes_and_averages():
    module = quantizer(codebooks=2, dtype=jnp.bfloat16)
    x = features(32, 4)
    variables = start(module, x)
    assert {a.dtype for a in jax.tree.leaves(variables["params"])} == {jnp.dtype("float32")}
    output, new = learned(module, variables, x)
    assert output.latent.dtype == jnp.bfloat16
    assert output.losses["commitment"].dtype == output.metrics["perplexity"].dtype == jnp.float32
    assert (new.codebook.dtype, new.count.dtype, new.step.dtype) == (
        jnp.float32,
        jnp.float32,
        jnp.int32,
    )
    # The codes are those of the projected features' exact values.
    exact = variables["params"]["project"]
    z_e = (
        x.astype(jnp.bfloat16) @ exact["kernel"].astype(jnp.bfloat16)
        + exact["bias"].astype(jnp.bfloat16)
    ).astype(jnp.float32)
    codebook = variables["codebook"]["state"].codebook
    for i in range(2):
        quantized = vq.quantize(z_e[..., 3 * i : 3 * i + 3], codebook[i])
        assert (output.code[..., i] == quantized.index).mean() > 0.99
    looked_up = module.apply(variables, output.code, method="look_up")
    np.testing.assert_array_equal(output.latent, looked_up.astype(jnp.bfloat16))
