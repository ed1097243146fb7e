"""Prior over video of DeepMind Lab, in codes of its frames: given 6 frames and the actions in them.

    python -m train --config configs/video_dmlab.py --workdir runs/video_dmlab
    python -m train --config configs/video_dmlab.py:no_actions --workdir runs/video_dmlab_alone
    python -m train.video --workdir runs/video_dmlab --against runs/video_dmlab_alone

Meant for GPUs or a TPU slice; not run by us. As in van den Oord et al. 2017, section 4.4, which
draws the 10 frames after 6, and finds a model without actions about as good, but gives no figure
and does not describe the prior: the sizes are ours. The past is seen 11 codes to each side.
"""

from ml_collections import ConfigDict

from configs import base, priors

VARIANTS = ("actions", "no_actions")


def get_config(variant: str = "actions") -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"video_dmlab has no variant {variant!r}; known: {', '.join(VARIANTS)}")
    config = base.get_config()
    config.name = "video_dmlab"
    config.model.image_shape = (84, 84, 3)
    priors.set_video_prior(
        config,
        code_shape=(21, 21, 1),
        codes=512,
        actions=15 if variant == "actions" else 0,
        past=6,
        layers=15,
        features=256,
        kernel=5,
        output_features=1024,
        past_embedding=64,
        past_features=512,
        past_layers=10,
    )
    config.model.dtype = "bfloat16"
    config.data.source = "codes:runs/vqvae_dmlab"
    config.optimizer.learning_rate = 3e-4
    config.optimizer.schedule = "cosine"
    config.train.steps = 250_000
    config.train.batch_size = 64
    config.train.average_decay = 0.9999
    config.evaluation.every = 25_000
    config.log_every = 500
    config.checkpoint_every = 5000
    return config
