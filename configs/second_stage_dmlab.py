"""Second stage on the codes of DM-Lab's frames, at the scale of van den Oord et al. 2017, 4.2.

    python -m train --config configs/vqvae_dmlab.py --workdir runs/vqvae_dmlab
    python -m train --config configs/second_stage_dmlab.py --workdir runs/second_stage_dmlab
    python -m train.second_stage --workdir runs/second_stage_dmlab

The paper's are the codes, 21x21x1 of K=512, the three latents of K=512 and a PixelCNN for decoder,
which is given them at every position alike; with 20 layers of kernel 5 every position sees the
edges. Its sizes the paper does not give: here they are those of `pixelcnn_imagenet128`. Meant for
GPUs or a TPU slice; not run by us.
"""

from ml_collections import ConfigDict

from configs import base, priors


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "second_stage_dmlab"
    config.model.image_shape = (84, 84, 3)
    priors.set_second_stage(
        config,
        code_shape=(21, 21, 1),
        codes=512,
        widths=(256, 256),
        embedding=64,
        layers=20,
        features=384,
        kernel=5,
        output_features=1024,
        map_features=0,
    )
    config.model.backbone.residual_width = 256
    config.model.dtype = "bfloat16"
    config.data.source = "codes:runs/vqvae_dmlab"
    config.optimizer.learning_rate = 3e-4
    config.optimizer.schedule = "cosine"
    config.train.steps = 250_000
    config.train.batch_size = 128
    config.train.average_decay = 0.9999
    config.evaluation.every = 25_000
    config.log_every = 500
    config.checkpoint_every = 5000
    return config
