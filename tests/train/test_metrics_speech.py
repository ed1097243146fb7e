"""Spectral distance, the coarse copy, cepstra, and what codes say of a class."""

import numpy as np
import pytest

from train.metrics import speech

RATE = 8000


def noise(seed=0, samples=4000):
    return np.random.default_rng(seed).normal(size=samples) * 0.1


def test_spectral_distance():
    x = noise()
    assert speech.spectral_distance(x, x) == 0
    # White noise of variance 1 lies at about -2.5 dB on average, silence at the floor.
    assert 35 < speech.spectral_distance(x, np.zeros_like(x)) < 40
    # Twice as loud is 6 dB, whatever the recording's loudness.
    for scale in (1, 1e-3):
        found = speech.spectral_distance(scale * x, 2 * scale * x)
        np.testing.assert_allclose(found, 20 * np.log10(2), rtol=0.01)
    other = speech.spectral_distance(x, noise(1))
    assert 5 < other < 10  # of two Rayleigh variables
    with pytest.raises(ValueError, match="expected one length"):
        speech.spectral_distance(x, x[1:])
    with pytest.raises(ValueError, match="the original is silent"):
        speech.spectral_distance(0 * x, x)


def test_a_coarse_copy_has_the_bits_it_is_said_to_have():
    t = np.arange(4096) / RATE
    x = 0.5 * np.sin(2 * np.pi * 50 * t)
    for depth, error in ((1, 0.5), (4, 0.05), (8, 0.6)):
        copy = speech.coarse_copy(x, bits=16, samples=64, depth=depth)
        assert copy.shape == x.shape
        inside = slice(600, -600)
        worst = np.sqrt(np.mean((copy - x)[inside] ** 2))
        assert worst < error
    # 8 bits a sample leave 2 samples of 64: 250 Hz, whose half is above the tone's 50.
    assert np.corrcoef(copy[inside], x[inside])[0, 1] > 0.95
    # 1 bit for 64 samples: two values, a sample for 64.
    low = speech.coarse_copy(noise(), bits=1, samples=64, depth=1)
    assert np.abs(np.fft.rfft(low))[200:].max() < 0.2 * np.abs(np.fft.rfft(low)).max()


def mfcc_by_loops(x, rate, coefficients, filters):
    """Every sum written out."""
    window, hop, size = round(0.025 * rate), round(0.01 * rate), 256
    y = [x[0]] + [x[i] - 0.97 * x[i - 1] for i in range(1, len(x))]
    rows = []
    for start in range(0, len(y) - window + 1, hop):
        frame = np.zeros(size)
        for n in range(window):
            frame[n] = y[start + n] * (0.54 - 0.46 * np.cos(2 * np.pi * n / (window - 1)))
        power = np.abs(np.fft.rfft(frame)) ** 2 / size
        top = 2595 * np.log10(1 + rate / 1400)
        hz = [700 * (10 ** (top * i / (filters + 1) / 2595) - 1) for i in range(filters + 2)]
        energies = []
        for m in range(1, filters + 1):
            total = 0.0
            for k, p in enumerate(power):
                f = k * rate / size
                if hz[m - 1] < f <= hz[m]:
                    total += p * (f - hz[m - 1]) / (hz[m] - hz[m - 1])
                elif hz[m] < f < hz[m + 1]:
                    total += p * (hz[m + 1] - f) / (hz[m + 1] - hz[m])
            energies.append(np.log(total + 1e-10))
        c = []
        for k in range(coefficients):
            scale = np.sqrt((1 if k == 0 else 2) / filters)
            angles = np.pi * k * (2 * np.arange(filters) + 1) / (2 * filters)
            c.append(scale * np.sum(np.array(energies) * np.cos(angles)))
        rows.append(c)
    return np.array(rows)


def test_cepstra_against_loops():
    x = noise(samples=600)
    found = speech.mfcc(x, RATE)
    np.testing.assert_allclose(found, mfcc_by_loops(x, RATE, 13, 26), rtol=1e-6, atol=1e-6)
    assert np.all(np.isfinite(speech.mfcc(np.zeros(50), RATE)))


def test_features_do_not_hear_loudness():
    x = noise()
    for features, size in ((speech.speaker_features, 38), (speech.word_features, 260)):
        found = features(x, RATE)
        assert found.shape == (size,)
        np.testing.assert_allclose(features(3 * x, RATE), found, atol=0.01)


def test_a_listener_tells_high_from_low():
    rng = np.random.default_rng(0)
    low = [np.convolve(rng.normal(size=2000), np.ones(8) / 8, "same") for _ in range(12)]
    high = [np.diff(rng.normal(size=2001)) for _ in range(12)]
    features = np.stack([speech.speaker_features(x, RATE) for x in low + high])
    label = np.repeat([0, 1], 12)
    heard = speech.listener(features[::2], label[::2]).predict(features[1::2])
    np.testing.assert_array_equal(heard, label[1::2])


def test_codes_mapped_to_classes():
    codes = [np.array([0, 0, 1]), np.array([1, 1, 2, 2])]
    classes = np.array([0, 1])
    held_out = [np.array([0, 1, 3]), np.array([2, 2])]
    found = speech.map_codes(codes, classes, held_out, classes)
    # Code 0 is class 0; 1 is class 1 (two of three); 3 is unknown, so the likelier class, 1.
    assert found.accuracy == 3 / 5
    assert found.chance == 2 / 5
    assert found.recordings == 1
    pairs = speech.map_codes(codes, classes, held_out, classes, length=2)
    # Pairs: (0, 1) is class 0; (1, 3) unknown; (2, 2) class 1.
    assert pairs.accuracy == 2 / 3
    assert pairs.chance == 1 / 3
