"""VQ-VAE of speech on VCTK (van den Oord et al. 2017, section 4.3): 109 speakers, 64 x fewer codes.

    python -m train --config configs/vqvae_vctk.py --workdir runs/vqvae_vctk

Put the recordings of VCTK in `vctk/wav48_silence_trimmed` (a folder for each speaker), or name
another folder: `--config.data.source=audio:PATH`. Version 0.92 has 110 speakers, the paper's 109;
one in fifty recordings is held out. 16 kHz; six convolutions, K=512, as the paper says; the
WaveNet's and the encoder's sizes, and all of the training, it leaves open, and they are ours.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "vqvae_vctk"
    base.set_speech(
        config, samples=7680, sample_rate=16_000, speakers=110, codes=512, widths=(256,) * 6
    )
    config.data.source = "audio:vctk/wav48_silence_trimmed"
    config.data.holdout = 0.02
    config.optimizer.learning_rate = 4e-4
    config.train.steps = 500_000
    config.train.batch_size = 32
    config.train.average_decay = 0.9999
    config.evaluation.batch_size = 32
    config.evaluation.every = 25_000
    config.log_every = 500
    config.checkpoint_every = 5000
    return config
