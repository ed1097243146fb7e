"""`python -m train --config configs/X.py --workdir W [--config.field=value ...]`."""

from absl import flags

from train import cli
from train.loop import train_and_evaluate


def main(_: list[str]) -> None:
    """Trains the experiment, or goes on with it."""
    train_and_evaluate(flags.FLAGS.config, flags.FLAGS.workdir)


if __name__ == "__main__":
    cli.define_config()
    cli.define_workdir("folder of the run: made if it is not there, resumed if it is")
    cli.run(main)
