"""What reconstruction costs when the adversary starts: one that is too strong, and a weak one."""

import json

import numpy as np
import pytest

from configs import vqgan_digits
from train.loop import train_and_evaluate

START, WINDOW = 1000, 50


def jump(workdir, *, weight):
    """The training error in the adversary's first steps over that in as many before it."""
    config = vqgan_digits.get_config()
    config.adversary.weight = weight
    config.evaluation.every = 0
    config.log_every = WINDOW
    config.train.steps = START + WINDOW
    config.optimizer.schedule = "constant"
    train_and_evaluate(config, str(workdir))
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    error = {line["step"]: line["nmse"] for line in lines if line["split"] == "train"}
    assert np.isfinite(list(error.values())).all()
    return error[START + WINDOW] / error[START]


@pytest.mark.slow
def test_a_small_weight_keeps_the_reconstruction_where_the_authors_blows_it_up(tmp_path):
    # Without an adversary it falls by 4 % in these steps.
    assert jump(tmp_path / "authors", weight=0.8) > 1.3
    assert jump(tmp_path / "ours", weight=0.1) < 1.02
