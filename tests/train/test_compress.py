"""Images to files of codes and back: nothing lost, nothing wrong passed off as right."""

import importlib
import struct
import sys
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import train
from train import entropy_coding, latents
from train.compress import compress, decibels, decompress, load_codec, picture, size_as_good
from train.compressed_files import OVERHEAD, Compressed, code_checksum, fingerprint, pack, unpack
from train.errors import UserError

constriction = pytest.importorskip("constriction")
GRID = (3, 4, 2)


@pytest.fixture(scope="module")
def table():
    random = np.random.default_rng(0)
    code = random.choice(5, (50, *GRID), p=[0.6, 0.2, 0.1, 0.1, 0.0])
    return code, entropy_coding.table_of(code, 5)


@pytest.fixture(scope="module")
def digits(vq_run):
    return picture(latents.images(train.load(vq_run), limit=3))


def test_the_table_counts_neighbours(table):
    code, counts = table
    assert counts.shape == (2, 2, 6, 5)
    for axis, j, before, here in ((0, 0, 1, 0), (1, 1, 0, 2), (0, 1, 5, 0), (1, 0, 5, 3)):
        wanted = 0
        for grid in code[..., j]:
            padded = np.pad(grid, ((1, 0), (1, 0)), constant_values=5)
            beside = padded[1:, :-1] if axis == 0 else padded[:-1, 1:]
            wanted += int(np.sum((beside == before) & (grid == here)))
        assert counts[axis, j, before, here] == wanted


def test_the_table_has_whole_probabilities_that_sum_to_one(table):
    seen = []

    def exchange(p):
        seen.append(p)
        return len(seen) % 5

    entropy_coding.table_walk(table[1], GRID)(exchange)
    assert len(seen) == np.prod(GRID)
    for p in seen:
        shares = p * entropy_coding.UNIT
        np.testing.assert_array_equal(shares, np.rint(shares))
        assert shares.sum() == entropy_coding.UNIT
        assert shares.min() >= 1


def test_codes_come_back_in_about_their_length(table):
    code, counts = table
    walk = entropy_coding.table_walk(counts, GRID)
    random = np.random.default_rng(1)
    strange = random.integers(0, 5, (5, *GRID))  # with the code that the table has not seen
    spare = []
    for grid in (*code[:20], *strange):
        payload, bits = entropy_coding.encode(walk, grid)
        np.testing.assert_array_equal(entropy_coding.decode(walk, payload), grid)
        spare.append(8 * len(payload) - bits)
    # Single ones may be shorter than their information, for the bytes' number says something too.
    assert max(spare) < 10
    assert -2 < np.mean(spare) < 6


def test_a_pixelcnn_walk_gives_the_models_own_probabilities(prior_run):
    prior = train.load(prior_run)
    net, variables = prior.model.net, {"params": prior.variables["params"]["net"]}
    code = np.random.default_rng(0).integers(0, 6, (4, 4, 2), np.int32)
    seen, rest = [], iter(code.ravel().tolist())

    def exchange(p):
        seen.append(p)
        return next(rest)

    walked = entropy_coding.pixelcnn_walk(net, variables, (4, 4, 2), 3)(exchange)
    np.testing.assert_array_equal(walked, code)
    logits = np.asarray(net.apply(variables, code[None], np.array([3])), np.float64)[0]
    wanted = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(np.stack(seen).reshape(wanted.shape), wanted, rtol=1e-4)


@pytest.mark.parametrize("prior", ["trained", "table"])
def test_an_image_comes_back_as_it_was_decoded(prior_run, vq_run, digits, prior):
    codec = load_codec(prior_run, prior=prior)
    run = train.load(vq_run)
    for image in digits:
        made, bits = compress(codec, image)
        assert (made.label is None) == (prior == "table")
        content = pack(made)
        assert len(content) == OVERHEAD + len(made.payload)
        read = unpack(content, "x.bnk")
        assert read == made
        code = entropy_coding.decode(codec.walk(read.label), read.payload)
        wanted = latents.encode(run, image[None])
        np.testing.assert_array_equal(code, wanted[0])
        again = decompress(codec, read, "x.bnk")
        np.testing.assert_array_equal(again, picture(latents.decode(run, wanted)[0]))
        assert 0 < bits < 40 * np.log2(6)
    if prior == "trained":
        nats = [
            -codec_log_prob(prior_run, code, label) for label in range(10)
        ]  # the class is that of the shortest
        assert int(np.argmin(nats)) == made.label
        assert bits == pytest.approx(min(nats) / np.log(2), rel=1e-4)


def codec_log_prob(prior_run, code, label):
    prior = train.load(prior_run)
    variables = {"params": prior.variables["params"]["net"]}
    log_p = prior.model.net.apply(
        variables, code[None], np.array([label], np.int32), method="log_prob"
    )
    return float(log_p[0])


def test_wrong_files_are_refused(prior_run, vq_run, digits):
    codec = load_codec(vq_run, prior="table")
    made, _ = compress(codec, digits[0])
    content = pack(made)

    def refused(message, changed):
        with pytest.raises(UserError, match=message):
            decompress(codec, unpack(changed, "x.bnk"), "x.bnk")

    refused("x.bnk was not written by train.compress", b"")
    refused("not written by train.compress", b"\x89PNG\r\n\x1a\n" + content)
    refused("is of version 2 of the format; this is version 1", content[:4] + b"\2" + content[5:])
    for size in (5, 20, len(content) - 1):
        refused("is cut short", content[:size])
    for place in range(5, len(content)):
        changed = bytearray(content)
        changed[place] ^= 1
        with pytest.raises(UserError, match=r"damaged|cut short"):
            unpack(bytes(changed), "x.bnk")
    refused("damaged", content + b"\0")
    other = made._replace(fingerprint=b"12345678")
    refused("compressed with another model than this workdir's", pack(other))
    wrong = made._replace(checksum=made.checksum ^ 1)
    refused("the codes are not those that were .* compress with --prior=table", pack(wrong))
    with pytest.raises(UserError, match="holds no prior: train one over its codes, or use --prior"):
        load_codec(vq_run, prior="trained")
    # The same codes with the checksums made to fit, as one might who means harm.
    payload = bytes(x ^ 255 for x in made.payload)
    refused("the codes are not those that were compressed", pack(made._replace(payload=payload)))


def test_the_header_is_what_it_says():
    made = Compressed("table", None, b"abcdefgh", 7, b"xyz")
    start = b"\x89BNK\x01\x01\xff\xffabcdefgh" + struct.pack("<II", 7, 3) + b"xyz"
    assert pack(made) == start + struct.pack("<I", zlib.crc32(start))


def test_fingerprints_tell_models_apart():
    tree = {"a": np.arange(4.0), "b": np.zeros((2, 2), np.int32)}
    seen = {
        fingerprint(tree),
        fingerprint({**tree, "a": np.arange(4.0) + 1e-9}),
        fingerprint({**tree, "b": np.zeros((4,), np.int32)}),
        fingerprint({"a": tree["a"], "c": tree["b"]}),
    }
    assert len(seen) == 4
    assert fingerprint(dict(reversed(tree.items()))) == fingerprint(tree)
    code = np.array([[1, 2]], np.uint8)
    assert code_checksum(code) == code_checksum(code.astype(np.int64))


def test_the_smallest_file_that_is_as_good():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    ramp = np.linspace(0, 255, 32).astype(np.uint8)
    ramp = np.broadcast_to(ramp[:, None, None], image.shape)
    small, large = (size_as_good(ramp, psnr, "JPEG") for psnr in (20, 40))
    assert small < large
    assert size_as_good(image, 60, "JPEG") is None  # noise
    assert decibels(image, image) == 80


def test_without_the_extra_it_is_named(monkeypatch, table):
    monkeypatch.setitem(sys.modules, "constriction", None)
    walk = entropy_coding.table_walk(table[1], GRID)
    with pytest.raises(UserError, match=r"pip install 'bottlenecks\[compress\]'"):
        entropy_coding.encode(walk, table[0][0])


def test_the_commands(prior_run, digits, tmp_path, monkeypatch, capsys):
    # The package's attributes are these modules; the function is imported above.
    compressing = importlib.import_module("train.compress")
    decompressing = importlib.import_module("train.decompress")
    files = []
    for number, image in enumerate(digits):
        files.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(image[..., 0]).save(files[-1])
    options = {"workdir": prior_run, "out": str(tmp_path / "out"), "prior": "table"}
    for module in (compressing, decompressing):
        given = SimpleNamespace(FLAGS=SimpleNamespace(**options))
        monkeypatch.setattr(module, "flags", given)
    compressing.main(["train.compress", *files])
    assert "mean" in capsys.readouterr().out
    packed = sorted(map(str, (tmp_path / "out").glob("*.bnk")))
    decompressing.main(["train.decompress", *packed])
    codec = load_codec(prior_run, prior="table")
    for number, image in enumerate(digits):
        with Image.open(tmp_path / "out" / f"{number}.png") as opened:
            again = np.asarray(opened)[..., None]
        np.testing.assert_array_equal(again, decompress(codec, compress(codec, image)[0], ""))

    Image.fromarray(np.zeros((9, 8), np.uint8)).save(tmp_path / "large.png")
    for arguments, message in (
        ([], "no image is named"),
        ([tmp_path / "large.png"], r"image of 9 x 8; the model's are 8 x 8"),
        ([tmp_path / "none.png"], "none.png: not a readable image"),
        ([files[0], files[0]], "several images are called 0"),
    ):
        with pytest.raises(UserError, match=message):
            compressing.main(["train.compress", *map(str, arguments)])
    with pytest.raises(UserError, match="no file is named"):
        decompressing.main(["train.decompress"])
    with pytest.raises(UserError, match=r"none.bnk cannot be read"):
        decompressing.main(["train.decompress", str(tmp_path / "none.bnk")])
