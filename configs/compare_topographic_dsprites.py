r"""The rows of the Topographic VAE's table on dSprites, each beside its prior.

    python -m train.compare --config configs/compare_topographic_dsprites.py --workdir \
        runs/compare_topographic_dsprites

The runs are those of `topographic_vae_dsprites` with three seeds each, for 300 steps, a
twentieth of one of the paper's 100 epochs. Those are work for a GPU:
`--config configs/compare_topographic_dsprites.py:632800`. Measured on 500 held-out sequences of the
images of TFDS; `--config configs/compare_topographic_dsprites.py:300,sequences:PATH` reads a file.
"""

from ml_collections import ConfigDict

from configs import topographic_vae_dsprites
from configs.compare_topographic_mnist import FIGURES, comparison

CAPCORR = tuple(
    (f"CapCorr of {factor}{head}", f"capcorr_{factor}{name}", 3)
    for factor in ("x", "y", "orientation", "scale")
    for head, name in (("", ""), (", prior", "_prior"))
)


def get_config(steps_and_source: str = "300") -> ConfigDict:
    steps, _, source = steps_and_source.partition(",")
    rows = {row: topographic_vae_dsprites.get_config(row) for row in topographic_vae_dsprites.ROWS}
    for row in rows.values():
        row.data.source = source or row.data.source
    return comparison("compare_topographic_dsprites", rows, FIGURES + CAPCORR, int(steps))
