"""How ratios, durations, times and foreign text are written wherever a person reads them."""

import math
from datetime import UTC, datetime

TEXT_MAX = 600
"""Longest text of a reason that is shown; the whole text stays in the journal."""

EVIDENCE_SHOWN_MAX = 9999.0
"""Evidence beyond this is overwhelming; more digits tell a person nothing."""

RATIO_PLAIN_MAX = 1000.0
"""From here three significant digits would be written with an exponent."""

_MINUTE_S, _HOUR_S = 60, 3600
_DIGIT_BELOW_S = 10.0
"""Below this many seconds a tenth of one matters."""


def printable(text: str, *, limit: int = TEXT_MAX) -> str:
    """Return a text on one line, with nothing in it that a terminal or a log reader would obey.

    Args:
        text: Anything, also what a server wrote.
        limit: Longest result, in characters; what is longer ends in "...".
    """
    words = " ".join(text[: 4 * limit].split())
    shown = "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in words)
    return shown if len(shown) <= limit and len(text) <= 4 * limit else f"{shown[: limit - 3]}..."


def ratio(value: float) -> str:
    """Return a ratio as `x1.42`; where the answers never came it is `xinf`."""
    return f"x{value:.0f}" if RATIO_PLAIN_MAX <= value < math.inf else f"x{value:.3g}"


def interval(value: float, *, lower: float, upper: float) -> str:
    """Return an estimate with its interval, as `x1.42 [1.29, 1.55]`; of an infinite one only a bound is known."""
    if not math.isfinite(value):
        return f"over {ratio(lower)}" if math.isfinite(lower) else "without any answer in time"
    return f"{ratio(value)} [{ratio(lower)[1:]}, {ratio(upper)[1:]}]"


def evidence(value: float) -> str:
    """Return an e-value in at most five characters."""
    return ">9999" if value > EVIDENCE_SHOWN_MAX else f"{value:.2g}" if value < 1.0 else f"{value:.0f}"


def seconds(value: float) -> str:
    """Return a duration in the two units that matter."""
    if value < _DIGIT_BELOW_S:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 2 * _MINUTE_S:
        return f"{whole} s"
    if whole < 2 * _HOUR_S:
        return f"{whole // _MINUTE_S} min {whole % _MINUTE_S} s"
    return f"{whole // _HOUR_S} h {whole % _HOUR_S // _MINUTE_S} min"


def milliseconds(value_s: float) -> str:
    """Return a latency given in seconds, in milliseconds; "not in time" where it is infinite."""
    if not math.isfinite(value_s):
        return "not in time"
    return f"{1000 * value_s:.3g} ms" if value_s < 1.0 else f"{1000 * value_s:.0f} ms"


def decibels(value: float) -> str:
    """Return a PSNR."""
    return f"{value:.1f} dB"


def clock(at: float) -> str:
    """Return Unix time as HH:MM:SS where this program runs."""
    return datetime.fromtimestamp(at, tz=UTC).astimezone().strftime("%H:%M:%S")


def date(at: float) -> str:
    """Return Unix time as a date and a time in UTC."""
    return datetime.fromtimestamp(at, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
