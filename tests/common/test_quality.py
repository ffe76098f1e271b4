"""The high-frequency share: exact for pure waves, and up for what reward hacking leaves behind."""

import numpy as np
import pytest

from common.algorithm.quality import high_frequency_energy


def wave(cycles_x, cycles_y, *, amplitude=100, size=32):
    """A grey cosine with whole numbers of cycles over the image: uint8 [1, size, size, 3]."""
    y, x = np.mgrid[:size, :size] / size
    values = 128 + amplitude * np.cos(2 * np.pi * (cycles_x * x + cycles_y * y))
    return np.repeat(np.rint(values).astype(np.uint8)[None, :, :, None], 3, axis=3)


def smooth():
    """A soft blob: all its energy is at low frequencies."""
    y, x = np.mgrid[:32, :32] - 15.5
    values = 60 + 150 * np.exp(-(x**2 + y**2) / 50)
    return np.repeat(values.astype(np.uint8)[None, :, :, None], 3, axis=3)


@pytest.mark.parametrize(
    ("cycles_x", "cycles_y", "share"),
    [(3, 0, 0), (7, 7, 0), (8, 0, 1), (0, 8, 1), (2, 9, 1), (16, 0, 1), (15, 15, 1)],
)
def test_pure_waves_are_on_the_right_side_of_a_quarter_cycle(cycles_x, cycles_y, share):
    got = high_frequency_energy(wave(cycles_x, cycles_y))
    np.testing.assert_allclose(got, [share], atol=1e-3)  # rounding to uint8 is a little noise


def test_two_waves_share_their_energy_by_the_squares_of_their_amplitudes():
    both = wave(3, 0, amplitude=80).astype(int) + wave(0, 10, amplitude=40).astype(int) - 128
    got = high_frequency_energy(both.astype(np.uint8))
    assert got[0] == pytest.approx(40**2 / (40**2 + 80**2), abs=2e-3)


@pytest.mark.parametrize("size", [32, 30, 17, 1])
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (3, 77, 201)])
def test_constant_images_have_none(size, colour):
    images = np.broadcast_to(np.array(colour, dtype=np.uint8), (2, size, size, 3))
    np.testing.assert_array_equal(high_frequency_energy(images), [0.0, 0.0])


def test_a_patch_grid_and_noise_raise_it():
    clean, rng = smooth(), np.random.default_rng(0)
    grid, noisy = clean.astype(int), clean + rng.normal(0, 20, clean.shape)
    grid[:, ::4] -= 25
    grid[:, :, ::4] -= 25
    before = high_frequency_energy(clean)[0]
    gridded = high_frequency_energy(np.clip(grid, 0, 255).astype(np.uint8))[0]
    noised = high_frequency_energy(np.clip(noisy, 0, 255).astype(np.uint8))[0]
    assert before < 1e-3
    assert gridded > 0.05
    assert noised > 0.05


def test_white_noise_has_the_share_of_its_frequencies():
    """16 of 32 frequencies of an axis lie below 1/4 (0 to 7 and their mirror): 1 - (15/32)^2."""
    images = np.random.default_rng(1).integers(0, 256, (200, 32, 32, 3), dtype=np.uint8)
    expected = (32**2 - 15**2) / (32**2 - 1)
    assert high_frequency_energy(images).mean() == pytest.approx(expected, abs=0.005)


def test_each_image_counts_for_itself_and_contrast_does_not_matter():
    images = np.concatenate([wave(3, 0), wave(8, 0), wave(8, 0, amplitude=50)])
    np.testing.assert_allclose(high_frequency_energy(images), [0, 1, 1], atol=1e-3)
    assert high_frequency_energy(images).dtype == np.float64
    assert high_frequency_energy(images[:0]).shape == (0,)


def test_colour_counts_by_its_luminance():
    """A fine wave in blue beside a coarse one in green: .114^2 against .587^2."""
    image = np.full((1, 32, 32, 3), 128, dtype=np.uint8)
    image[..., 1], image[..., 2] = wave(3, 0)[..., 0], wave(0, 9)[..., 0]
    expected = 0.114**2 / (0.114**2 + 0.587**2)
    assert high_frequency_energy(image)[0] == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    "images", [np.zeros((2, 8, 8, 3)), np.zeros((8, 8, 3), np.uint8), np.zeros((2, 8, 8, 1), "u1")]
)
def test_other_images_are_refused(images):
    with pytest.raises(ValueError, match=r"uint8 \[N, H, W, 3\], not"):
        high_frequency_energy(images)
