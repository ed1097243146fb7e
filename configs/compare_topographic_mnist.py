r"""The rows of the Topographic VAE's table on transforming MNIST, each beside its prior.

    python -m train.compare --config configs/compare_topographic_mnist.py --workdir \
        runs/compare_topographic_mnist

The runs are those of `topographic_vae_mnist` with three seeds each, for 300 steps, a
twentieth of one of the paper's 100 epochs. Those are work for a GPU:
`--config configs/compare_topographic_mnist.py:600000`. Measured on 500 test digits.
"""

from ml_collections import ConfigDict

from configs import base, topographic_vae_mnist

FIGURES = (
    ("log p(x) a frame as released", "log_px_released", 1),
    ("the same less ln 10", "log_px_frame", 1),
    ("bound of sequences, a frame", "log_px_sequence_per_frame", 1),
    ("E_eq", "equivariance_error", 0),
    ("of its prior", "equivariance_error_prior", 0),
    ("of shuffled frames", "equivariance_error_shuffled", 0),
    ("of one frame repeated", "equivariance_error_constant", 0),
    ("NMSE", "nmse", 3),
    ("mu", "mu", 2),
)


def get_config(steps: str = "300") -> ConfigDict:
    rows = {row: topographic_vae_mnist.get_config(row) for row in base.TOPOGRAPHIES}
    return comparison("compare_topographic_mnist", rows, FIGURES, int(steps))


def comparison(
    name: str, rows: dict[str, ConfigDict], figures: tuple[tuple[str, str, int], ...], steps: int
) -> ConfigDict:
    """Each row with three seeds and as many steps."""
    config = ConfigDict({"name": name, "seeds": (0, 1, 2), "figures": figures, "runs": rows})
    for run in config.runs.values():
        run.train.steps = steps
        run.data.test = "test[:500]"
        run.evaluation.every = 0
        run.evaluation.final_evaluators = ("sequence_likelihood",)
        run.evaluation.importance_samples = 10
        run.log_every = 10
        run.checkpoint_every = max(300, steps // 20)
    return config
