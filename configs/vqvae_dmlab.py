"""VQ-VAE on frames of DeepMind Lab as in van den Oord et al. 2017, sections 4.2 and 4.4.

    python -m train --config configs/vqvae_dmlab.py --workdir gs://BUCKET/vqvae_dmlab

Meant for GPUs or a TPU slice; not run by us, and the paper gives pictures and no figure to expect.

84x84x3 to 21x21x1 codes of K=512. The network is that of the authors' notebook (128 units, 2
residual layers of 32, depth 64). The paper does not say which levels its frames are of; these are
what RL Unplugged recorded of agents in training (Gulcehre et al. 2021), 72x96x3 and scaled whole to
84x84x3, so that they are a little narrow. Prepare the set with TFDS first (see the README; this one
also wants apache-beam). Of its episodes, of 1,351 frames each, the first 420 are used, which stay
in memory as they are stored: some ten kilobytes a frame.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "vqvae_dmlab"
    config.model.image_shape = (84, 84, 3)
    config.model.backbone = base.convnet(widths=(64, 128), last_width=128)
    config.model.bottleneck = base.ema_codebook(codes=512, depth=64)
    config.loss_weights = base.mean_squared_weights(image_shape=(84, 84, 3), depth=64)
    config.data.source = "tfds:rlu_dmlab_explore_object_rewards_few/training_0"
    config.data.train = "train[:400]"
    config.data.test = "train[400:420]"
    config.optimizer.learning_rate = 3e-4
    config.train.steps = 250_000
    config.train.batch_size = 128
    config.evaluation.evaluators = ("losses", "image", "codes")
    config.evaluation.every = 25_000
    config.log_every = 500
    config.checkpoint_every = 5000
    return config
