"""Whether a bottleneck keeps noise out: `python -m train.denoise --workdir W`.

Encodes test images with Gaussian noise added and compares what is decoded with the clean images.
Nothing is trained for it. Sources do not say how the SC-VAE's authors measured this; their loader
makes noise of standard deviation 50 on the scale of 255, which is among the levels here.
"""

import json
from collections.abc import Sequence

import numpy as np
from absl import flags

from models.likelihoods import to_unit
from train import cli, latents, parallel, pictures, runs
from train.metrics.image import peak_signal_to_noise
from train.writers import write_whole

IMAGES = 512
SHOWN = 8
LEVELS = (0, 10, 25, 50)  # standard deviations of the noise on the scale of 255
BLURS = (0.5, 0.75, 1.0, 1.5, 2.0)  # standard deviations of the baseline's window, pixels


def noisy(images: np.ndarray, *, level: float, seed: int = 0) -> np.ndarray:
    """Images with Gaussian noise, clipped to [0, 1]; float32.

    Args:
      images: uint8, or floating in [0, 1].
      level: standard deviation of the noise on the scale of 255.
      seed: of the noise.
    """
    unit = np.asarray(to_unit(images))
    noise = np.random.default_rng(seed).standard_normal(unit.shape, np.float32)
    return np.clip(unit + level / 255 * noise, 0, 1).astype(np.float32)


def denoising(
    run: runs.Run, images: np.ndarray, *, levels: Sequence[float], seed: int = 0
) -> list[dict[str, float]]:
    """PSNR against the clean images of noisy ones, of what is decoded, and of a blur.

    Args:
      run: a trained run of any system; its code is decoded as it is, a VAE's as its mean.
      images: clean, `[n, height, width, channels]`.
      levels: of the noise, as in `noisy`.
      seed: of the noise.

    Returns:
      For each level "level", "noisy" and "decoded", and "blurred": the best of Gaussian windows
      (`BLURS`), chosen on these images, so that it flatters the baseline. Decibels, means.
    """
    from scipy.ndimage import gaussian_filter

    clean = np.asarray(to_unit(images))

    def psnr(made: np.ndarray) -> float:
        return float(np.mean(peak_signal_to_noise(made, clean)))

    found = []
    for level in levels:
        spoiled = noisy(images, level=level, seed=seed)
        blurs = [gaussian_filter(spoiled, (0, sigma, sigma, 0)) for sigma in BLURS]
        found.append(
            {
                "level": level,
                "noisy": psnr(spoiled),
                "decoded": psnr(latents.decode(run, latents.encode(run, spoiled))),
                "blurred": max(map(psnr, blurs)),
            }
        )
    return found


def main(_: list[str]) -> None:
    """Prints the table, and draws noisy images above what is decoded of them."""
    run = runs.load(flags.FLAGS.workdir)
    if not parallel.is_first_process():
        return
    path = runs.folder(flags.FLAGS.workdir)
    images = latents.images(run, limit=IMAGES)
    found = denoising(run, images, levels=LEVELS)
    write_whole(path / "denoising.json", json.dumps(found, indent=2) + "\n")
    rows = {"clean": np.asarray(to_unit(images[:SHOWN]))}
    for level in LEVELS[1:]:
        rows[f"noise {level}"] = noisy(images, level=level)[:SHOWN]
        rows[f"decoded {level}"] = latents.decode(run, latents.encode(run, rows[f"noise {level}"]))
    drawn = path / "pictures" / "denoising.png"
    pictures.rows(rows, drawn, title=f"{run.config.name}: noise on the scale of 255, and decoded")
    print("PSNR in dB against the clean image")
    print(f"{'noise':>6}  {'noisy':>7}  {'decoded':>7}  {'best blur':>9}")
    for row in found:
        values = f"{row['noisy']:>7.2f}  {row['decoded']:>7.2f}  {row['blurred']:>9.2f}"
        print(f"{row['level']:>6}  {values}")
    print("\npictures:", drawn, sep="\n  ")


if __name__ == "__main__":
    cli.define_workdir("folder of a trained run")
    cli.run(main)
