"""LPIPS: what a distance has to be, its networks against PyTorch's, and the weights it refuses."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from models import perceptual
from models.perceptual import FeatureDistance, features, lpips, lpips_from_weights, random_lpips

SIDE = {"vgg16": 16, "alexnet": 31}


def images(side=16, channels=3, seed=0, batch=3):
    return np.random.default_rng(seed).uniform(-1, 1, (batch, side, side, channels)).astype("f")


measure = jax.jit(lpips)


@pytest.fixture(scope="module")
def alexnet():
    """A distance of random features, drawn without compiling."""
    shapes = jax.eval_shape(lambda: random_lpips(jax.random.key(0), net="alexnet"))
    rng = np.random.default_rng(3)

    def draw(a):
        return (rng.normal(size=a.shape) / np.sqrt(a.size / a.shape[-1] / 2)).astype(a.dtype)

    convolutions = jax.tree.map(draw, shapes.convolutions)
    linear = tuple(np.full(w.shape, 1 / w.size, np.float32) for w in shapes.linear)
    return shapes.replace(convolutions=convolutions, linear=linear)


@pytest.fixture
def narrow(monkeypatch):
    """The networks' layers with few channels."""
    for name, net in perceptual.NETS.items():
        monkeypatch.setitem(perceptual.NETS, name, net._replace(widths=(4, 5, 6, 7, 8)))


def state_dict(net, seed=0):
    """Random arrays named and laid out as in PyTorch's `lpips`."""
    rng = np.random.default_rng(seed)
    arrays, before = {}, 3
    for k, (stage, width) in enumerate(
        zip(perceptual.NETS[net].stages, perceptual.NETS[net].widths, strict=True)
    ):
        for conv in stage:
            name, shape = f"net.slice{k + 1}.{conv.index}", (width, before, conv.size, conv.size)
            arrays[f"{name}.weight"] = rng.normal(size=shape) / np.sqrt(conv.size**2 * before / 2)
            arrays[f"{name}.bias"] = 0.1 * rng.normal(size=width)
            before = width
        arrays[f"lin{k}.model.1.weight"] = rng.uniform(size=(1, width, 1, 1))
    return {name: a.astype(np.float32) for name, a in arrays.items()} | {"scaling_layer.shift": 0}


def test_a_distance(alexnet):
    x, y = (images(31, seed=seed) for seed in (0, 1))
    distance = alexnet
    assert distance.name == "random_features_distance"
    found = measure(distance, x, y)
    assert found.shape == (3,)
    assert (found > 0).all()
    np.testing.assert_allclose(measure(distance, x, x), 0, atol=1e-10)
    np.testing.assert_allclose(measure(distance, y, x), found, rtol=1e-5)
    # Each image by itself, and of whatever type.
    np.testing.assert_allclose(measure(distance, x[:1], y[:1]), found[:1], rtol=1e-4)
    half = measure(distance, jnp.asarray(x, jnp.bfloat16), jnp.asarray(y, jnp.bfloat16))
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, found, rtol=0.1)


def test_grey_counts_as_three_equal_channels(alexnet):
    x, y = (images(31, channels=1, seed=seed) for seed in (0, 1))
    coloured = measure(alexnet, *(np.repeat(a, 3, axis=-1) for a in (x, y)))
    np.testing.assert_allclose(measure(alexnet, x, y), coloured, rtol=1e-5)


def test_the_sum_over_stages_by_hand(alexnet):
    x, y = (images(31, seed=seed) for seed in (0, 1))
    rng = np.random.default_rng(2)
    weights = [rng.uniform(size=w.shape).astype(np.float32) for w in alexnet.linear]
    distance = alexnet.replace(linear=tuple(weights))
    expected = np.zeros(3)
    see = jax.jit(features)
    for f, g, w in zip(see(distance, x), see(distance, y), weights, strict=True):
        f, g = np.float64(f), np.float64(g)
        for n in range(3):
            squares = []
            for place in np.ndindex(f.shape[1:3]):
                a, b = f[n][place], g[n][place]
                a, b = a / (np.sqrt((a**2).sum()) + 1e-10), b / (np.sqrt((b**2).sum()) + 1e-10)
                squares.append((w * (a - b) ** 2).sum())
            expected[n] += np.mean(squares)
    np.testing.assert_allclose(measure(distance, x, y), expected, rtol=1e-4)
    np.testing.assert_allclose(lpips(distance, x, y), expected, rtol=1e-4)  # not compiled


def torch_distance(torch, net, arrays, x, y):
    """Torchvision's layers by their numbers in `features`, and the head of LPIPS, evaluating."""
    layers = torch.nn.functional
    conv = {"vgg16": (1, 1), "alexnet": {0: (4, 2), 3: (1, 2)}}[net]
    taps = {"vgg16": (3, 8, 15, 22, 29), "alexnet": (1, 4, 7, 9, 11)}[net]
    pools = {"vgg16": {4: 2, 9: 2, 16: 2, 23: 2}, "alexnet": {2: 3, 5: 3}}[net]
    given = {int(name.split(".")[2]): name for name in arrays if name.endswith(".bias")}
    shift = torch.tensor([-0.030, -0.088, -0.188]).reshape(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).reshape(1, 3, 1, 1)

    def seen(x):
        h, found = (torch.tensor(x).permute(0, 3, 1, 2) - shift) / scale, []
        for index in range(taps[-1] + 1):
            if index in given:
                weight, bias = (
                    torch.tensor(arrays[given[index].replace("bias", kind)])
                    for kind in ("weight", "bias")
                )
                stride, padding = conv if net == "vgg16" else conv.get(index, (1, 1))
                h = layers.conv2d(h, weight, bias, stride=stride, padding=padding)
            elif index in pools:
                h = layers.max_pool2d(h, pools[index], stride=2)
            else:
                h = layers.relu(h)
            if index in taps:
                found.append(h)
        return found

    total = 0
    for k, (f, g) in enumerate(zip(seen(x), seen(y), strict=True)):
        f, g = (a / (torch.sqrt((a**2).sum(1, keepdim=True)) + 1e-10) for a in (f, g))
        head = torch.tensor(arrays[f"lin{k}.model.1.weight"])
        total = total + layers.conv2d((f - g) ** 2, head).mean((2, 3))[:, 0]
    return total.numpy()


@pytest.mark.parametrize("net", SIDE)
def test_agrees_with_pytorch_on_the_same_weights(net, narrow):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch = pytest.importorskip("torch")
    arrays = state_dict(net)
    x, y = (images(SIDE[net] + 9, seed=seed) for seed in (0, 1))
    distance = lpips_from_weights(arrays, net=net)
    assert distance.name == f"lpips_{net}"
    found = measure(distance, x, y)
    np.testing.assert_allclose(found, torch_distance(torch, net, arrays, x, y), rtol=1e-4)


def test_features_that_are_all_0_have_a_gradient(alexnet):
    distance = alexnet
    dead = tuple(
        tuple((kernel, bias - 100) for kernel, bias in stage) for stage in distance.convolutions
    )
    x = images(31)
    gradient = jax.jit(jax.value_and_grad(lambda x, y, d: lpips(d, x, y).sum()))
    for given in (distance, distance.replace(convolutions=dead)):
        value, slope = gradient(x, -x, given)
        assert np.isfinite(value)
        assert np.isfinite(slope).all()
    assert float(value) == 0
    # And at two equal images, where a distance has its minimum.
    slope = gradient(x, x, distance)[1]
    np.testing.assert_allclose(slope, 0, atol=1e-6)


def test_widths_and_layers_of_the_networks():
    sizes = {}
    for net in SIDE:
        arrays = {name: np.shape(a) for name, a in state_dict(net).items()}
        sizes[net] = sum(np.prod(shape) for name, shape in arrays.items() if "slice" in name)
    # torchvision's `features` of both networks.
    assert sizes == {"vgg16": 14_714_688, "alexnet": 2_469_696}


def break_one(arrays, change):
    arrays = dict(arrays)
    name = "net.slice3.12.weight"
    if change == "absent":
        del arrays[name]
    elif change == "shape":
        arrays[name] = arrays[name].transpose(2, 3, 1, 0)
    else:
        arrays[name] = np.full_like(arrays[name], np.nan)
    return arrays


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "absent",
            r"vgg16 lack 'net\.slice3\.12\.weight', \[6, 6, 3, 3\]; the first found are net",
        ),
        ("shape", r"'net\.slice3\.12\.weight' is \[3, 3, 6, 6\], expected \[6, 6, 3, 3\]"),
        ("nan", r"'net\.slice3\.12\.weight' is not finite"),
    ],
)
def test_weights_that_do_not_fit(change, message, narrow):
    with pytest.raises(ValueError, match=message):
        lpips_from_weights(break_one(state_dict("vgg16"), change), net="vgg16")


def test_weights_of_another_network(narrow):
    with pytest.raises(ValueError, match=r"no network is called 'vgg'; there are vgg16, alexnet"):
        lpips_from_weights({}, net="vgg")
    with pytest.raises(ValueError, match=r"lack 'net\.slice1\.0\.weight'.*found are none"):
        lpips_from_weights({}, net="vgg16")
    with pytest.raises(ValueError, match=r"'net\.slice1\.0\.weight' is \[4, 3, 11, 11\]"):
        lpips_from_weights(state_dict("alexnet"), net="vgg16")


@pytest.mark.parametrize(
    ("net", "x", "y", "message"),
    [
        ("vgg16", (1, 16, 16, 3), (1, 16, 16, 1), "one shape"),
        ("vgg16", (1, 16, 16, 2), None, r"1 or 3\], got \(1, 16, 16, 2\)"),
        ("vgg16", (1, 16, 15, 3), None, "16x15 are too small for vgg16; it takes 16x16 or more"),
        ("alexnet", (1, 30, 40, 3), None, "30x40 are too small for alexnet; it takes 31x31"),
    ],
    ids=str,
)
def test_images_that_do_not_fit(net, x, y, message):
    distance = jax.eval_shape(lambda: random_lpips(jax.random.key(0), net=net))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lpips, distance, jnp.zeros(x), jnp.zeros(y or x))
    assert isinstance(distance, FeatureDistance)


def test_a_term_of_an_autoencoder(monkeypatch):
    tiny = perceptual.Net(((perceptual.Conv(0),),), widths=(4,), pool=2, pooled=())
    monkeypatch.setitem(perceptual.NETS, "tiny", tiny)
    distance = random_lpips(jax.random.key(0), net="tiny", widths=(4,))
    settings = {
        "image_shape": (8, 8, 1),
        "backbone": {"name": "mlp", "widths": (4,)},
        "bottleneck": {"name": "sparse", "depth": 4, "atoms": 8, "penalty": 0.1, "iterations": 2},
        "likelihood": {"name": "gaussian"},
        "data_variance": 0.1,
        "dtype": "float32",
        "remat": False,
    }
    term = perceptual.perceptual_term(distance)
    model = models.build(settings, perceptual=term)
    assert hash(model) == hash(models.build(settings, perceptual=term))
    image = (images(8, channels=1, batch=4) + 1) / 2
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), {"image": image}, train=True))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda a: np.float32(0.3 * rng.normal(size=a.shape)), shapes)
    apply = jax.jit(lambda x: model.apply(variables, {"image": x}, train=True))
    output = apply(image)
    assert set(variables) == {"params"}  # and no weight of the distance
    found = output.losses["random_features_distance"]
    expected = measure(distance, 2 * image - 1, 2 * output.reconstruction - 1)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    # Of sequences, the mean of the frames.
    frames = apply(image.reshape(2, 2, 8, 8, 1))
    again = 2 * frames.reconstruction.reshape(image.shape) - 1
    expected = measure(distance, 2 * image - 1, again).reshape(2, 2).mean(1)
    np.testing.assert_allclose(frames.losses["random_features_distance"], expected, rtol=1e-4)
    without = models.build(settings)
    plain = jax.eval_shape(lambda: without.apply(variables, {"image": image}, train=True))
    assert "random_features_distance" not in plain.losses
