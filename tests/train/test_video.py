"""Video continued in codes: runs of its prior, figures by horizon, and the paddle's detector."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from configs import base, priors
from train import loop, report, runs, steering, video
from train.continuation import Footage, continue_codes, load_prior
from train.data import InMemory, load_source
from train.data.codes import newest_checkpoint, write_split
from train.data.games import GAMES
from train.encode import write_codes
from train.errors import UserError
from train.metrics.paddles import PADDLES, paddle_of, paddle_places


def vq_config():
    """A VQ-VAE that trains in a moment, on the digits as if they were 40x40 frames."""
    config = base.get_config()
    config.name = "vq"
    config.model.image_shape = (40, 40, 1)
    config.model.backbone = base.convnet(widths=(2, 2, 2), last_width=None)
    config.model.backbone.residual_layers = 0
    config.model.bottleneck = base.ema_codebook(codes=6, depth=2)
    config.model.bottleneck.start = "data"
    config.loss_weights = base.mean_squared_weights(image_shape=(40, 40, 1), depth=2)
    config.data.source = "digits"
    config.data.crop = "resize"
    config.data.holdout = 0.2
    config.data.limit = 64
    config.train.steps = 2
    config.evaluation.evaluators = ("losses",)
    return config


def prior_config(source, actions=4):
    """A prior over video that trains in a moment."""
    config = base.get_config()
    config.name = "prior"
    sizes = {"layers": 1, "features": 4, "output_features": 4, "past_features": 4, "past_layers": 0}
    priors.set_video_prior(config, code_shape=(5, 5, 1), codes=6, actions=actions, past=2, **sizes)
    config.model.image_shape = (40, 40, 1)
    config.data.source = f"codes:{source}"
    config.optimizer.name = "sgd"  # Adam would divide by its own rounding
    config.optimizer.learning_rate = 0.01
    config.train.steps = 8
    config.train.batch_size = 8
    config.evaluation.every = 4
    config.log_every = 2
    config.checkpoint_every = 4
    return config


@pytest.fixture(scope="module")
def vq(tmp_path_factory):
    """The folder of a trained VQ-VAE, its codes dressed up as frames of two episodes."""
    workdir = tmp_path_factory.mktemp("vq") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.report, "finish", lambda *_: None)
        loop.train_and_evaluate(vq_config(), str(workdir))
    random = np.random.default_rng(0)
    for split, arrays in write_codes(str(workdir)).items():
        count = np.arange(len(arrays["code"]), dtype=np.int32)
        half = len(count) // 2
        frames = {
            "code": arrays["code"],
            "action": random.integers(4, size=len(count), dtype=np.int32),
            "episode": count // half,
            "frame": count % half,
        }
        write_split(str(workdir), split, frames, newest_checkpoint(str(workdir)))
    return str(workdir)


def test_a_prior_over_video_trains_and_resumes_bit_for_bit(vq, here, tmp_path, assert_same_run):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    here(prior_config(vq), straight)
    values = json.loads((straight / "evaluation.json").read_text())["values"]
    assert values["nats"] == pytest.approx(25 * np.log(2) * values["bits_per_code"], rel=1e-5)
    assert values["uniform/bits_per_code"] == pytest.approx(np.log2(6), rel=1e-5)

    class Killed(Exception):
        pass

    def killed(*_):
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "save_evaluation", killed)  # after the last step's checkpoint
        with pytest.raises(Killed):
            here(prior_config(vq), stopped)
    for path in (stopped / "checkpoints").glob("8"):
        path.rename(stopped / "lost")
    here(prior_config(vq), stopped)
    assert_same_run(stopped, straight)
    run = load_prior(str(straight))
    evaluation = {"step": 8, "values": values, "arrays": {}}
    drawn = report.draw(runs.folder(str(straight)), run.config, run.variables, evaluation)
    assert [path.name for path in drawn] == ["curves.png"]
    with pytest.raises(UserError, match="is a run of vq, no prior over video; give it one such as"):
        load_prior(vq)
    assert run.model.net.actions == 4


def test_what_does_not_fit_is_refused_before_training(vq, here, tmp_path):
    def refused(message, config):
        with pytest.raises(UserError, match=message):
            here(config, tmp_path / "refused")

    frames = prior_config(vq)
    frames.data.frames = 0
    refused("model.prior is 'video' and data.frames is 0; a prior over video has 2 frames", frames)
    refused("actions go from 0 to 3, but model.prior.actions is 3", prior_config(vq, actions=3))


def untrained(config, seed=0):
    """A run with the parameters it would start with."""
    model = runs.build_model(config)
    batch = runs.example_batch(config)
    # Noise for images, or all codewords would start alike.
    noise = np.random.default_rng(seed)
    batch = {
        name: noise.random(x.shape, np.float32) if name == "image" else np.zeros(x.shape, x.dtype)
        for name, x in batch.items()
    }
    return runs.Run(model, model.init(jax.random.key(seed), batch, train=False), config, 0)


def test_continuations_and_control(monkeypatch):
    monkeypatch.setattr(video, "UNSEEN", 2)
    monkeypatch.setattr(steering, "HELD", 2)
    config = vq_config()
    encoder = untrained(config)
    encoder.config.data.source = "game:pong"
    named = {
        "prior": untrained(prior_config("W")),
        "against": untrained(prior_config("W", actions=0)),
    }
    random = np.random.default_rng(0)
    n = 24
    ram = np.full((n, 128), 120, np.uint8)
    ram[:, GAMES["pong"].paddle] = np.linspace(40, 200, n)
    arrays = {
        "code": random.integers(6, size=(n, 5, 5, 1), dtype=np.int32),
        "action": random.integers(4, size=n, dtype=np.int32),
        "ram": ram,
        "episode": np.arange(n) // 12,
        "frame": np.arange(n) % 12,
    }
    image = random.integers(256, size=(n, 40, 40, 1), dtype=np.uint8)
    footage = Footage(InMemory({"image": image}), None, arrays)
    found, images = video.continuations(named, encoder, footage, windows=5, temperature=1.0)
    assert found["windows"] == 5
    assert found["seen"] == 2
    assert found["by_horizon"]["true codes"]["accuracy"] == [1, 1]
    assert found["by_horizon"]["last seen frame"]["changed_accuracy"] == [0, 0]
    assert all(image.shape == (5, 4, 40, 40, 1) for image in images.values())
    for name in ("prior, drawn", "prior, greedy", "against, drawn", "against, greedy"):
        assert len(found["by_horizon"][name]["psnr"]) == 2
        np.testing.assert_array_equal(images[name][:, :2], images["truth"][:, :2])
    assert "changed accuracy, frame" in video.table(found["by_horizon"])

    told = []

    def spied(run, past, action, **options):
        told.append(action)
        return continue_codes(run, past, action, **options)

    monkeypatch.setattr(steering, "continue_codes", spied)
    tested, moved = steering.control(named, encoder, footage, windows=5, temperature=1.0)
    assert tested["windows"] == 5
    assert len(moved) == 6
    # Without actions every sequence of them gives the same frames: a move is as one told at most.
    kept = [moved[f"against: {way}"] for way in tested["ways"]]
    np.testing.assert_array_equal(kept, [kept[0]] * 3)
    # Up, down and still, from the last seen frame on; before it, what was done.
    assert [np.unique(action[:, 1:]).tolist() for action in told] == 2 * [[2], [3], [0]]
    assert all(np.isin(action[:, 0], arrays["action"]).all() for action in told)
    for group in ("standing", "moving", "all"):
        of_group = [tested["against"][way][group] for way in tested["ways"]]
        assert len({one["count"] for one in of_group}) == 1
        if of_group[0]["count"]:
            assert sum(one["as_told"] for one in of_group) <= 1 + 1e-9
    assert "chance" in steering.table(tested, list(named))


def test_video_without_actions_is_continued_and_not_steered(monkeypatch, capsys, tmp_path):
    config = vq_config()
    config.model.image_shape = (64, 64, 1)
    config.data.source = "moving:digits/20"
    config.data.crop = "none"
    config.data.limit = 0
    encoder = untrained(config)
    prior = prior_config("W", actions=0)
    prior.model.code_shape = (8, 8, 1)
    source = load_source(config.data, "test")
    code = np.random.default_rng(0).integers(6, size=(len(source), 8, 8, 1), dtype=np.int32)
    count = np.arange(len(source))
    footage = Footage(source, None, {"code": code, "episode": count // 20, "frame": count % 20})
    given = {"workdir": str(tmp_path), "against": "", "samples": 3, "temperature": 1.0}
    monkeypatch.setattr(video.flags, "FLAGS", SimpleNamespace(**given))
    monkeypatch.setattr(video, "UNSEEN", 2)
    monkeypatch.setattr(video, "load_prior", lambda _: untrained(prior))
    monkeypatch.setattr(video, "held_out", lambda *_: footage)
    monkeypatch.setattr(video.runs, "load", lambda _: encoder)
    video.main([])
    printed = capsys.readouterr().out
    assert "control: not tested; moving:digits/20 is no game with a paddle to steer" in printed
    assert "prior, greedy" in printed
    found = json.loads((tmp_path / "video.json").read_text())
    assert "control" not in found
    assert found["windows"] == 3
    drawn = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert drawn == ["video.gif", "video.png"]
    images = footage.images(np.array([[0, 1], [20, 21]]))
    assert images.shape == (2, 2, 64, 64, 1)
    np.testing.assert_allclose(images[1, 0], source[20]["image"] / 255, rtol=1e-6)


def test_draws_of_windows_do_not_depend_on_how_many_there_are(monkeypatch):
    monkeypatch.setattr("train.continuation.BATCH", 2)
    run = untrained(prior_config("W"))
    random = np.random.default_rng(0)
    past = random.integers(6, size=(3, 2, 5, 5, 1), dtype=np.int32)
    action = random.integers(4, size=(3, 3), dtype=np.int32)
    options = {"frames": 2, "temperature": 1.0}
    found = continue_codes(run, past, action, **options)
    assert found.shape == (3, 2, 5, 5, 1)
    np.testing.assert_array_equal(continue_codes(run, past[:2], action[:2], **options), found[:2])


def test_figures_by_horizon():
    true = np.zeros((2, 2, 1, 1, 1))
    image = np.array([0.1, 0.2, 0.3, 0.2]).reshape(2, 2, 1, 1, 1)
    true_code = np.array([[[1, 1], [1, 2], [3, 2]], [[5, 5], [5, 5], [5, 6]]])[..., None, None]
    code = np.array([[[1, 1], [3, 1]], [[5, 5], [4, 6]]])[..., None, None]
    found = video.by_horizon(image, true, code, true_code)
    np.testing.assert_allclose(found["psnr"], -10 * np.log10([0.05, 0.04]))
    assert found["accuracy"] == [3 / 4, 2 / 4]
    np.testing.assert_allclose(found["changed_accuracy"], [0, 2 / 3])


def frames_with_paddle(name, places, ball=None):
    """Frames 40x40 with a paddle of 16 pixels, as the play field's 160x160 are reduced to them."""
    paddle = PADDLES[name]
    field = np.full((len(places), 160, 160), 0.34)
    for image, place in zip(field, places, strict=True):
        middle = place - paddle.offset
        if paddle.axis == 0:
            image[round(middle - 8) : round(middle + 8), 140:144] = 0.57
        else:
            image[155:159, round(middle - 8) : round(middle + 8)] = 0.57
        if ball is not None:
            image[ball[0] : ball[0] + 4, ball[1] : ball[1] + 2] = 0.92
    return field.reshape(-1, 40, 4, 40, 4).mean(axis=(2, 4))[..., None]


@pytest.mark.parametrize("name", ["pong", "breakout"])
def test_the_paddle_is_found_and_a_ball_beside_it_hardly_matters(name):
    paddle = PADDLES[name]
    places = np.array([60, 85.0, 131, 150]) if name == "pong" else np.array([70.0, 101, 130, 162])
    found = paddle_places(frames_with_paddle(name, places), paddle)
    np.testing.assert_allclose(found, places, atol=1)
    ball = (100, 141) if paddle.axis == 0 else (155, 100)
    beside = paddle_places(frames_with_paddle(name, places, ball=ball), paddle)
    np.testing.assert_allclose(beside, places, atol=4)
    assert np.isnan(paddle_places(np.full((1, 40, 40, 1), 0.3), paddle)[0])


@pytest.mark.parametrize("name", ["pong", "breakout"])
def test_the_paddle_is_where_the_ram_says(name):
    pytest.importorskip("ale_py")
    from train.data.games import play

    played = play(name, 300, shape=(40, 40, 1), seed=(5,))
    error = paddle_places(played["image"] / 255, PADDLES[name])
    error -= played["ram"][:, GAMES[name].paddle]
    assert np.abs(np.nanmedian(error)) < 2
    assert np.mean(np.abs(error) < steering.MOVED) > 0.97


def test_moves_as_told():
    move = np.array([-20.0, -3, 0, 9, np.nan])
    assert steering.as_told(move, -1).tolist() == [True, False, False, False, False]
    assert steering.as_told(move, 0).tolist() == [False, True, True, False, False]
    assert steering.as_told(move, 1).tolist() == [False, False, False, True, False]
    with pytest.raises(UserError, match="source is 'digits'; a paddle is known of game:pong"):
        paddle_of("digits")
    assert paddle_of("game:pong/500").ways == ("up", "down")
