"""Seven bottlenecks on crops of photographs: one backbone, one data set, as many steps.

    python -m train.compare --config configs/compare_photos.py --workdir runs/compare_photos

The run of `vqvae_photos` with 512 codes, and the same with each of the other bottlenecks, as
`compare_digits` says, for 2,000 steps with three seeds each. At each of 8x8 positions the decoder
reads 32 numbers, of "fsq" 3 of 8 levels each: 512 codes as well. "vae" is the run of `vae_photos`,
"sparse" that of `scvae_photos`. 2 CPU cores shared with other work: 63 minutes for "vae", "vq" and
"sparse".
"""

from ml_collections import ConfigDict

from configs import base, vqvae_photos
from configs.compare_digits import seven


def get_config() -> ConfigDict:
    config = ConfigDict({"name": "compare_photos", "seeds": (0, 1, 2)})
    vq = vqvae_photos.get_config()
    vq.model.bottleneck.codes = 512
    vq.train.steps = 2000
    config.runs = seven(
        vq,
        variance=0.001,
        levels=(8, 8, 8),
        sparse=base.sparse_coder(depth=32, atoms=64, penalty=0.3),
        capsules=base.capsules(primaries=16, pose=8, outputs=16, depth=2),
        torus=(4, 8),
        partitions=(8, 8, 8, 8),
    )
    config.runs.vae.name, config.runs.sparse.name = "vae_photos", "scvae_photos"
    return config
