"""VAE, VQ-VAE and SC-VAE on crops of photographs: one backbone, one data set, as many steps.

    python -m train.compare --config configs/compare_photos.py --workdir runs/compare_photos

The runs are those of `vae_photos`, `vqvae_photos` (with 512 codes) and `scvae_photos`, for 2,000
steps with three seeds each. 2 CPU cores shared with other work: 63 minutes in all.
"""

from ml_collections import ConfigDict

from configs import scvae_photos, vae_photos, vqvae_photos


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.name = "compare_photos"
    config.seeds = (0, 1, 2)
    vq = vqvae_photos.get_config()
    vq.model.bottleneck.codes = 512
    config.runs = ConfigDict(
        {"vae": vae_photos.get_config(), "vq": vq, "sparse": scvae_photos.get_config()}
    )
    for run in config.runs.values():
        run.train.steps = 2000
    return config
