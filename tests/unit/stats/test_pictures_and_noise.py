"""Pictures and the noise of an A/A history."""

import math

import numpy as np
import pytest

from rollout.errors import EvidenceError
from rollout.stats.noise import summarize_noise
from rollout.stats.pictures import is_flat, psnr_db

RNG = np.random.default_rng(8)
PICTURE = RNG.integers(0, 256, (32, 48, 3), dtype=np.uint8)


def test_equal_pictures_have_the_highest_ratio():
    assert psnr_db(PICTURE, PICTURE.copy()) == 99.0


def test_ratio_follows_the_definition_without_wrapping_around():
    black, white = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    assert psnr_db(black, white) == psnr_db(white, black) == 0.0
    near = PICTURE // 2
    assert psnr_db(near, near + np.uint8(1)) == pytest.approx(20.0 * math.log10(255.0))


def test_flat_pictures_are_found():
    assert is_flat(np.zeros((8, 8, 3), np.uint8))
    assert is_flat(np.broadcast_to(np.array([200, 10, 30], np.uint8), (8, 8, 3)))
    assert not is_flat(PICTURE)
    one_pixel = np.zeros((8, 8, 3), np.uint8)
    one_pixel[3, 3, 1] = 255
    assert not is_flat(one_pixel)


@pytest.mark.parametrize(
    "bad", [PICTURE[:16], PICTURE[..., 0], PICTURE.astype(np.float64), np.zeros((0, 4, 3), np.uint8), None]
)
def test_pictures_that_cannot_be_compared_are_refused(bad):
    with pytest.raises(EvidenceError):
        psnr_db(PICTURE, bad)


def test_noise_summary_finds_what_was_put_in():
    rng = np.random.default_rng(9)
    log_ratio = np.zeros(4000)
    for index in range(1, 4000):
        log_ratio[index] = 0.5 * log_ratio[index - 1] + 0.1 * math.sqrt(0.75) * rng.standard_normal()
    ratio = np.exp(log_ratio)
    ratio[::50] = math.inf
    summary = summarize_noise(ratio, slow_factor=2.0)
    assert summary.pairs == 4000
    assert summary.sigma_log == pytest.approx(0.1, rel=0.08)
    assert summary.ratio_median == pytest.approx(1.0, abs=0.02)
    assert 0.1 < summary.autocorrelation_lag1 < 0.5
    assert summary.slow_rate == pytest.approx(0.02)
    assert summary.ratio_p90 < summary.ratio_p95 < summary.ratio_p99 == math.inf


def test_history_of_timeouts_or_of_one_pair_has_no_noise_to_tell():
    with pytest.raises(EvidenceError, match="timeouts"):
        summarize_noise(np.full(10, math.inf), slow_factor=2.0)
    with pytest.raises(EvidenceError):
        summarize_noise(np.ones(1), slow_factor=2.0)
