"""SC-VAE on faces (FFHQ) at 256x256, as released, in its four sizes of a latent.

    python -m train --config configs/scvae_ffhq256.py --workdir runs/scvae_ffhq256

reads the images in the folder `FFHQ`; `--config.data.source=folder:PATH` names another.

Meant for GPUs or a TPU slice; not run by us, and the authors' figures are not known to us.

That of `scvae_imagenet256`, with 16x16 positions, or `configs/scvae_ffhq256.py:32`,
`configs/scvae_ffhq256.py:4` and `configs/scvae_ffhq256.py:1`; 16x16 and 1x1 take 30 steps
instead of 16. FFHQ is the user's own copy: a folder of its 70,000 images, of which a seventh is
held out as in the release (by lots, where the release has a list). Training images are random crops
of images scaled to 256 pixels, without the release's change of scale.
"""

from ml_collections import ConfigDict

from configs.scvae_imagenet256 import released


def get_config(latent: str = "16") -> ConfigDict:
    config = released(latent, "scvae_ffhq256")
    if latent in ("16", "1"):
        config.model.bottleneck.iterations = 30
    config.data.source = "folder:FFHQ"
    config.data.holdout = 1 / 7
    config.train.steps = 75_000  # 10 epochs of 60,000 images
    return config
