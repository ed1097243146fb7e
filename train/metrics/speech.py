"""What is measured of speech: spectra, what classifiers of real speech hear, what codes say.

All on NumPy arrays of recordings; a recording is amplitudes `[samples]` in [-1, 1].
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

WINDOWS = (64, 128, 256, 512, 1024)
FLOOR = -40.0  # dB below a recording's own root mean square, where spectra are cut off


def spectral_distance(
    original: np.ndarray, other: np.ndarray, *, windows: Sequence[int] = WINDOWS
) -> float:
    """Mean absolute difference of two recordings' spectra, in dB, averaged over window lengths.

    The multi-scale distance of Engel, Hantrakul, Gu & Roberts 2020 ("DDSP", section 4), its
    logarithmic part: Hann windows that overlap by three quarters. Both are measured in units of the
    original's root mean square, and levels below `FLOOR` count as that: silence is so finitely far.

    Args:
      original: `[samples]`.
      other: `[samples]`.
      windows: lengths in samples.

    Raises:
      ValueError: the recordings differ in length, or the original is silent.
    """
    if original.shape != other.shape or original.ndim != 1:
        raise ValueError(f"recordings are {original.shape} and {other.shape}; expected one length")
    scale = np.sqrt(np.mean(np.square(original, dtype=np.float64)))
    if not scale > 0:
        raise ValueError("the original is silent; there is nothing to be near to")
    distances = []
    for window in windows:
        a, b = (_decibels(x / scale, window) for x in (original, other))
        distances.append(np.abs(a - b).mean())
    return float(np.mean(distances))


def _decibels(x: np.ndarray, window: int) -> np.ndarray:
    """Magnitudes `[frames, frequencies]`, white noise of variance 1 at about 0 dB, from `FLOOR`."""
    hann = np.hanning(window + 1)[:-1]
    x = np.pad(x, (window // 2, window))
    frames = np.lib.stride_tricks.sliding_window_view(x, window)[:: window // 4]
    power = np.square(np.abs(np.fft.rfft(frames * hann))) / np.square(hann).sum()
    return 10 * np.log10(np.maximum(power, 10 ** (FLOOR / 10)))


def coarse_copy(x: np.ndarray, *, bits: int, samples: int, depth: int) -> np.ndarray:
    """A recording at `bits` bits for every `samples` samples, without a model.

    Resampled so that each sample left has `depth` bits, these quantised evenly between plus and
    minus the largest amplitude left (which is told for nothing), and resampled back.

    Args:
      x: `[samples of the recording]`.
      bits: for every `samples` samples.
      samples: see `bits`.
      depth: bits of a sample, at least 1.
    """
    from scipy.signal import resample_poly

    low = resample_poly(x, bits, samples * depth)
    peak = max(np.abs(low).max(), 1e-9)
    step = 2 * peak / 2**depth
    middle = np.clip(np.floor(low / step), -(2 ** (depth - 1)), 2 ** (depth - 1) - 1) + 0.5
    high = resample_poly(middle * step, samples * depth, bits)
    return np.pad(high, (0, max(0, len(x) - len(high))))[: len(x)]


def mfcc(x: np.ndarray, rate: int, *, coefficients: int = 13, filters: int = 26) -> np.ndarray:
    """Mel-frequency cepstral coefficients `[frames, coefficients]`.

    Davis & Mermelstein 1980: Hamming windows of 25 ms every 10 ms, pre-emphasis 0.97, the logarithm
    of the energies in triangles evenly spaced in mel, their DCT-II.

    Args:
      x: `[samples]`; less than a window is filled up with zeros.
      rate: samples a second.
      coefficients: how many are kept, the first being the loudness.
      filters: triangles from 0 to rate / 2.
    """
    from scipy.fft import dct

    window, hop = round(0.025 * rate), round(0.01 * rate)
    size = 1 << (window - 1).bit_length()
    x = np.append(x[:1], x[1:] - 0.97 * x[:-1])
    x = np.pad(x, (0, max(0, window - len(x))))
    frames = np.lib.stride_tricks.sliding_window_view(x, window)[::hop] * np.hamming(window)
    power = np.square(np.abs(np.fft.rfft(frames, size))) / size
    mel = np.linspace(0, 2595 * np.log10(1 + rate / 2 / 700), filters + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    frequency = np.fft.rfftfreq(size, 1 / rate)
    rising = (frequency - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequency) / (edges[2:] - edges[1:-1])[:, None]
    energies = power @ np.maximum(np.minimum(rising, falling), 0).T
    # A floor far below speech, so that digital silence has a logarithm.
    return dct(np.log(energies + 1e-10), norm="ortho")[:, :coefficients]


def speaker_features(x: np.ndarray, rate: int) -> np.ndarray:
    """Mean and deviation of 19 coefficients over a recording, without loudness: `[38]`."""
    c = _loud_frames(mfcc(x, rate, coefficients=20))[:, 1:]
    return np.concatenate([c.mean(axis=0), c.std(axis=0)])


def word_features(x: np.ndarray, rate: int, *, frames: int = 20) -> np.ndarray:
    """13 coefficients at evenly spaced times of a recording, less their mean: `[frames * 13]`."""
    c = _loud_frames(mfcc(x, rate))
    c = c - c.mean(axis=0)
    at = np.linspace(0, len(c) - 1, frames)
    return np.stack([np.interp(at, np.arange(len(c)), column) for column in c.T], axis=1).ravel()


def _loud_frames(c: np.ndarray) -> np.ndarray:
    """The frames from the first to the last whose loudness is not far below the largest."""
    loud = np.flatnonzero(c[:, 0] > c[:, 0].max() - 30)
    return c[loud[0] : loud[-1] + 1]


def listener(features: np.ndarray, classes: np.ndarray) -> Any:
    """A classifier of real speech: a support vector machine on standardised features.

    Args:
      features: `[n, features]`.
      classes: int `[n]`.

    Returns:
      What has `predict(features) -> classes`.
    """
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    return make_pipeline(StandardScaler(), SVC(C=10.0)).fit(features, classes)


class Mapping(NamedTuple):
    """How much codes alone say of a class (van den Oord et al. 2017, section 4.3).

    Attributes:
      accuracy: share of held-out n-grams whose class is the likeliest of their n-gram.
      chance: the same, if every n-gram is given the likeliest class of all.
      recordings: share of held-out recordings whose class is the likeliest of all its n-grams, as
        if these were independent.
    """

    accuracy: float
    chance: float
    recordings: float


def map_codes(
    codes: Sequence[np.ndarray],
    classes: np.ndarray,
    held_out: Sequence[np.ndarray],
    held_out_classes: np.ndarray,
    *,
    length: int = 1,
) -> Mapping:
    """Maps each n-gram of codes to its likeliest class, and counts how often that is right.

    Args:
      codes: of each training recording, int `[time]`, at least `length`.
      classes: int `[n]`, of each training recording.
      held_out: like `codes`.
      held_out_classes: like `classes`.
      length: n; one not met in training is given the likeliest class of all.
    """
    number = int(classes.max()) + 1
    counts: dict[tuple[int, ...], np.ndarray] = {}
    total = np.zeros(number)
    for code, label in zip(codes, classes, strict=True):
        for gram in _grams(code, length):
            counts.setdefault(gram, np.zeros(number))[label] += 1
            total[label] += 1
    prior = total / total.sum()
    right = chance = tokens = recordings = 0
    for code, label in zip(held_out, held_out_classes, strict=True):
        score = np.log(prior)
        for gram in _grams(code, length):
            found = counts.get(gram)
            best = prior.argmax() if found is None else found.argmax()
            right += best == label
            chance += prior.argmax() == label
            tokens += 1
            if found is not None:
                # One count, spread as the classes are, so that none is impossible.
                score = score + np.log((found + prior) / (found.sum() + 1) / prior)
        recordings += score.argmax() == label
    return Mapping(right / tokens, chance / tokens, recordings / len(held_out))


def _grams(code: np.ndarray, length: int) -> list[tuple[int, ...]]:
    return [tuple(map(int, code[i : i + length])) for i in range(len(code) - length + 1)]
