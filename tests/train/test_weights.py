"""Other networks' weights: read from files, whole and never unpickled; else one line says why."""

import hashlib
import sys

import jax
import numpy as np
import pytest

from configs import base
from models import perceptual
from train import runs
from train.errors import UserError
from train.weights import load_lpips, load_vqgan, perceptual_term, read_weights

ARRAYS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, np.float16)}


@pytest.fixture
def npz(tmp_path):
    np.savez(tmp_path / "weights.npz", **ARRAYS)
    return tmp_path / "weights.npz"


def assert_arrays(found):
    assert set(found) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_npz_and_its_sha256(npz, caplog):
    digest = hashlib.sha256(npz.read_bytes()).hexdigest()
    with caplog.at_level("INFO", logger="train"):
        weights = read_weights(str(npz), sha256=digest.upper())
    assert weights.sha256 == digest
    assert digest in caplog.text
    assert_arrays(weights.arrays)
    with pytest.raises(UserError, match=f"has the SHA-256 {digest}, expected 00: it is another"):
        read_weights(str(npz), sha256="00")


def test_safetensors(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "weights.safetensors"
    numpy.save_file(ARRAYS, path)
    assert_arrays(read_weights(str(path)).arrays)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"is a damaged \.safetensors file"):
        read_weights(str(path))


def test_safetensors_without_the_extra(tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(UserError, match=r"need the extra: pip install 'bottlenecks\[weights\]'"):
        read_weights(str(path))


def test_files_that_are_none(tmp_path, npz):
    with pytest.raises(UserError, match=r"absent\.npz \(No such file.*nothing is downloaded: put"):
        read_weights(str(tmp_path / "absent.npz"))
    with pytest.raises(UserError, match=r"\.npz or \.safetensors files; .*vgg\.pth is neither"):
        read_weights(str(tmp_path / "vgg.pth"))
    npz.write_bytes(npz.read_bytes()[:50])
    with pytest.raises(UserError, match=r"weights\.npz is no \.npz of plain arrays"):
        read_weights(str(npz))
    for content in (b"", b"neither"):
        npz.write_bytes(content)
        with pytest.raises(UserError, match=r"is no \.npz of plain arrays"):
            read_weights(str(npz))


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


def test_nothing_is_unpickled(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, a=np.array([Bomb()], dtype=object))
    with pytest.raises(UserError, match=r"no \.npz of plain arrays .*allow_pickle=False"):
        read_weights(str(path))
    # A pickle, or a single array, by the name of an archive.
    with path.open("wb") as file:
        np.save(file, np.array([Bomb()], dtype=object))
    with pytest.raises(UserError, match=r"no \.npz of plain arrays"):
        read_weights(str(path))
    with path.open("wb") as file:
        np.save(file, np.ones(2))
    with pytest.raises(UserError, match=r"no \.npz of plain arrays"):
        read_weights(str(path))


def test_lpips_from_a_file(tmp_path, monkeypatch):
    net = perceptual.NETS["alexnet"]._replace(widths=(2, 3, 2, 3, 2))
    monkeypatch.setitem(perceptual.NETS, "alexnet", net)
    rng = np.random.default_rng(0)
    arrays, before = {}, 3
    for k, ((conv,), width) in enumerate(zip(net.stages, net.widths, strict=True)):
        name = f"net.slice{k + 1}.{conv.index}"
        arrays[f"{name}.weight"] = rng.normal(size=(width, before, conv.size, conv.size))
        arrays[f"{name}.bias"] = rng.normal(size=width)
        arrays[f"lin{k}.model.1.weight"] = rng.uniform(size=(1, width, 1, 1))
        before = width
    path = tmp_path / "lpips.npz"
    np.savez(path, **arrays)
    distance = load_lpips(str(path), net="alexnet")
    assert distance.name == "lpips_alexnet"
    for (kernel, bias), conv in zip((s[0] for s in distance.convolutions), net.stages, strict=True):
        assert kernel.shape[:2] == (conv[0].size,) * 2
        assert bias.dtype == np.float32
    missing = r"lpips\.npz does not hold LPIPS: weights of LPIPS with vgg16"
    with pytest.raises(UserError, match=missing):
        load_lpips(str(path))


def test_a_loss_term_is_named_for_what_it_is(monkeypatch):
    assert perceptual_term("", "") is None
    tiny = perceptual.Net(tuple(((perceptual.Conv(0),),) * 5), (4, 8, 8, 8, 8), 2, ())
    monkeypatch.setitem(perceptual.NETS, "tiny", tiny)
    term = perceptual_term("tiny", "")
    assert term.name == "random_features_distance"
    assert term is perceptual_term("tiny", "")  # so that models with it are equal
    with pytest.raises(UserError, match="net is 'vgg'; known: vgg16, alexnet, tiny, or '' for"):
        perceptual_term("vgg", "")
    with pytest.raises(UserError, match=r"no weights can be read from nowhere\.npz"):
        perceptual_term("vgg16", "nowhere.npz")
    with pytest.raises(UserError, match=r"file is 'x\.npz', but model\.perceptual\.net names no"):
        perceptual_term("", "x.npz")


def test_the_weight_of_the_looks_is_beside_those_of_the_other_terms(tiny):
    weights = tiny.loss_weights.to_dict()
    assert runs.loss_weights(tiny) == weights
    tiny.model.perceptual.update({"net": "vgg16", "weight": 0.3})
    assert runs.loss_weights(tiny) == {**weights, "random_features_distance": 0.3}
    tiny.loss_weights.random_features_distance = 1.0
    with pytest.raises(UserError, match=r"whose weight is model\.perceptual\.weight, 0\.3; leave"):
        runs.loss_weights(tiny)


def test_a_vqgan_of_the_authors(tmp_path, tiny):
    tiny.model.image_shape = (8, 8, 3)
    tiny.model.backbone = {
        **{"name": "vqgan", "ch": 2, "ch_mult": (1,), "num_res_blocks": 1, "groups": 1},
        **{"attn_resolutions": (), "z_channels": 4, "post_quant_conv": True},
    }
    tiny.model.bottleneck = base.ema_codebook(codes=8, depth=4)
    tiny.model.bottleneck.update({"codebook_update": "loss", "revive_below": 0.0})
    model = runs.build_model(tiny)
    arrays = released_arrays()
    other = arrays | {"encoder.conv_in.weight": np.zeros((2, 1, 3, 3))}
    np.savez(tmp_path / "other.npz", **other)
    with pytest.raises(
        UserError, match=r"other\.npz does not hold this VQGAN: .* is \[2, 1, 3, 3\]"
    ):
        load_vqgan(str(tmp_path / "other.npz"), model)
    np.savez(tmp_path / "vqgan.npz", **arrays)
    variables = load_vqgan(str(tmp_path / "vqgan.npz"), model)
    image = {"image": jax.ShapeDtypeStruct((1, 8, 8, 3), np.float32)}
    output = jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, image)
    assert output.reconstruction.shape == (1, 8, 8, 3)
    found = variables["params"]["bottleneck"]["project"]["kernel"]
    np.testing.assert_array_equal(found, arrays["quant_conv.weight"][:, :, 0, 0].T)


def released_arrays():
    """A VQGAN of one level and one block in it (the decoder: two), by the release's names."""
    rng = np.random.default_rng(0)
    shapes = {"quantize.embedding.weight": (8, 4)}

    def layer(name, *shape):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    def block(name):
        for i in (1, 2):
            layer(f"{name}.norm{i}", 2)
            layer(f"{name}.conv{i}", 2, 2, 3, 3)

    for part, level, before, after in (("encoder", "down", 3, 4), ("decoder", "up", 4, 3)):
        layer(f"{part}.conv_in", 2, before, 3, 3)
        for j in range(1 if level == "down" else 2):
            block(f"{part}.{level}.0.block.{j}")
        for i in (1, 2):
            block(f"{part}.mid.block_{i}")
        layer(f"{part}.mid.attn_1.norm", 2)
        for name in ("q", "k", "v", "proj_out"):
            layer(f"{part}.mid.attn_1.{name}", 2, 2, 1, 1)
        layer(f"{part}.norm_out", 2)
        layer(f"{part}.conv_out", after, 2, 3, 3)
    for name in ("quant_conv", "post_quant_conv"):
        layer(name, 4, 4, 1, 1)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
