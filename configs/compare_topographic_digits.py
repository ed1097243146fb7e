r"""VAE, BubbleVAE and TVAE on transforming digits of scikit-learn, each beside its prior.

    python -m train.compare --config configs/compare_topographic_digits.py --workdir \
        runs/compare_topographic_digits

The rows of `topographic_vae_digits` with three seeds each, to their end, 6,000 steps.
"""

from ml_collections import ConfigDict

from configs import topographic_vae_digits
from configs.compare_topographic_mnist import FIGURES

CAPCORR = tuple(
    (f"CapCorr of {factor}{head}", f"capcorr_{factor}{name}", 3)
    for factor in ("hue", "scale", "rotation")
    for head, name in (("", ""), (", prior", "_prior"), (", one frame repeated", "_constant"))
)


def get_config() -> ConfigDict:
    config = ConfigDict({"name": "compare_topographic_digits", "seeds": (0, 1, 2)})
    config.figures = FIGURES + CAPCORR
    config.runs = ConfigDict(
        {row: topographic_vae_digits.get_config(row) for row in topographic_vae_digits.ROWS}
    )
    return config
