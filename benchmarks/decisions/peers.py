"""The judge that peers use, written anew from its description, to be compared with on the same worlds."""

from statistics import NormalDist

import numpy as np
from worlds import Array

CONFIDENCE = 0.98
TOLERANCE = 0.25


def kayenta_rejects(*, control: Array, experiment: Array) -> bool:
    """Tell whether the Mann-Whitney judge of Kayenta, as configured by default, calls the experiment too high.

    It does when the lower end of the 98 percent confidence interval of the shift lies above a quarter of the
    Hodges-Lehmann estimate of that shift.

    Args:
        control: Shape (n,), n >= 20: the interval uses the normal approximation.
        experiment: Shape (m,), m >= 20.
    """
    shifts = np.sort(np.subtract.outer(experiment, control).ravel())
    spread = np.sqrt(len(shifts) * (len(control) + len(experiment) + 1) / 12.0)
    quantile = NormalDist().inv_cdf((1.0 + CONFIDENCE) / 2.0)
    lower_rank = max(int(np.floor(len(shifts) / 2.0 - quantile * spread)), 0)
    return bool(shifts[lower_rank] > TOLERANCE * abs(np.median(shifts)))
