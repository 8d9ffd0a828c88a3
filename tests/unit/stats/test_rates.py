"""Bounds on error rates."""

import pytest

from rollout.errors import EvidenceError
from rollout.stats.rates import rate_bounds


@pytest.mark.parametrize(("failures", "trials"), [(-1, 3), (4, 3)])
def test_counts_that_cannot_be_are_refused(failures, trials):
    with pytest.raises(EvidenceError):
        rate_bounds(failures=failures, trials=trials, alpha=0.05)


def test_bounds_are_those_of_clopper_and_pearson():
    bounds = rate_bounds(failures=5, trials=50, alpha=0.05)
    assert bounds.lower == pytest.approx(0.033275, abs=1e-6)
    assert bounds.upper == pytest.approx(0.218135, abs=1e-6)
    assert rate_bounds(failures=0, trials=300, alpha=0.1).upper == pytest.approx(1 - 0.05 ** (1 / 300))
    nothing = rate_bounds(failures=0, trials=0, alpha=0.05)
    assert (nothing.lower, nothing.upper) == (0.0, 1.0)
