"""Pictures of sound, as PNG files."""

import os
from collections.abc import Mapping

import numpy as np

from train.pictures import draw_panels, save_figure


def spectrograms(
    recordings: Mapping[str, np.ndarray],
    path: str | os.PathLike[str],
    *,
    rate: int,
    columns: int = 1,
    title: str = "",
) -> None:
    """Draws recordings by time and frequency, in dB below the loudest of each.

    Args:
        recordings: amplitudes `[samples]`, by the name above each.
        path: of the PNG file.
        rate: samples a second.
        columns: panels beside each other.
        title: above the picture.
    """
    figure, axes = draw_panels(len(recordings), columns=columns, size=(4.2, 2.2))
    for (name, x), axis in zip(recordings.items(), np.ravel(axes), strict=False):
        window = 1 << round(0.03 * rate).bit_length() - 1
        x = np.pad(x.astype(np.float64), (window // 2, window))
        frames = np.lib.stride_tricks.sliding_window_view(x, window)[:: window // 8]
        power = np.square(np.abs(np.fft.rfft(frames * np.hanning(window), axis=1))).T
        decibels = 10 * np.log10(np.maximum(power, 1e-12) / max(power.max(), 1e-12))
        extent = (0, (len(x) - 1.5 * window) / rate, 0, rate / 2000)
        axis.imshow(decibels, origin="lower", aspect="auto", vmin=-60, cmap="magma", extent=extent)
        axis.set_title(name, fontsize=8)
        axis.set_ylabel("kHz", fontsize=7)
        axis.tick_params(labelsize=7)
    if title:
        figure.suptitle(title, fontsize=9)
    save_figure(figure, path)
