"""The worlds to decide in, and the figures to reach in each: the table of the design, and what lies around it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from vectorized import BREACHED, PASSED, Verdicts
from worlds import Bursts, World

from rollout.stats.margins import STANDARD, STRICT, Margins

AA_PAIRS = 300
BUDGET = 400

MEDIAN_ONLY = Margins(
    p50_ratio_max=1.05, tail_quantile=0.95, tail_ratio_max=50.0, slow_factor=50.0, slow_rate_promote=0.1
)
TAIL_ONLY = Margins(
    p50_ratio_max=50.0, tail_quantile=0.95, tail_ratio_max=1.10, slow_factor=50.0, slow_rate_promote=0.1
)
SLOW_ONLY = Margins(p50_ratio_max=50.0, tail_quantile=0.95, tail_ratio_max=50.0, slow_rate_promote=0.05)


class Truth(StrEnum):
    """What green is, and so which verdict is wrong.

    A rollback of a sound one, anything else for a slower one, and a promotion of one that is exactly at a margin.
    """

    SOUND = "sound"
    SLOWER = "slower"
    AT_MARGIN = "at the margin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number computed from all runs of a case, and its limit; NaN where the design sets none."""

    name: str
    measure: Callable[[Verdicts], float]
    limit: float = math.nan
    at_least: bool = False

    def row(self, case: str, verdicts: Verdicts) -> "Row":
        """Return the figure as measured."""
        return Row(
            case=case, figure=self.name, limit=self.limit, measured=self.measure(verdicts), at_least=self.at_least
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    case: str
    figure: str
    measured: float
    limit: float = math.nan
    at_least: bool = False

    @property
    def missed(self) -> bool:
        """Whether there is a limit and it is not kept."""
        reached = self.measured >= self.limit if self.at_least else self.measured <= self.limit
        return not math.isnan(self.limit) and not reached

    @property
    def cells(self) -> tuple[str, ...]:
        """Case, figure, target, measured, verdict."""
        if math.isnan(self.limit):
            return self.case, self.figure, "", f"{self.measured:.4g}", ""
        sign = ">=" if self.at_least else "<="
        return (
            self.case,
            self.figure,
            f"{sign} {self.limit:g}",
            f"{self.measured:.4g}",
            "FAIL" if self.missed else "pass",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A world, the margins to judge it by, and the figures to reach in it.

    Attributes:
        choose_blocks: Whether blocks of pairs are chosen from the history, as the product does.
        excluded_pairs: Pairs declared as warm-up in advance and left out.
        location: The true ratio, where the intervals at the stopping time are checked against it; 0 leaves them out.
    """

    name: str
    world: World
    truth: Truth
    margins: Margins = STRICT
    choose_blocks: bool = False
    excluded_pairs: int = 0
    location: float = 0.0
    figures: tuple[Figure, ...]

    @property
    def wrong_name(self) -> str:
        """What a wrong verdict is called here."""
        return {Truth.SOUND: "false rollback", Truth.SLOWER: "missed", Truth.AT_MARGIN: "false promote"}[self.truth]

    def wrong(self, share: Callable[[int], float]) -> float:
        """Return the percentage of wrong verdicts, given the share of each outcome."""
        match self.truth:
            case Truth.SOUND:
                return share(BREACHED)
            case Truth.SLOWER:
                return 100.0 - share(BREACHED)
            case Truth.AT_MARGIN:
                return share(PASSED)


def pairs_to(code: int, quantile: float) -> Callable[[Verdicts], float]:
    """Measure a quantile of the pairs until this outcome; +inf for runs that never reached it."""
    return lambda verdicts: float(
        np.quantile(np.where(verdicts.outcome == code, verdicts.pairs, np.inf), quantile, method="inverted_cdf")
    )


def false_rollback(limit: float) -> Figure:
    """Return the figure for rollbacks of a sound green."""
    return Figure(name="false rollback %", measure=lambda verdicts: verdicts.share(BREACHED), limit=limit)


def breach_pairs(name: str, quantile: float, limit: float) -> Figure:
    """Return the figure for the pairs until BREACH."""
    return Figure(name=f"pairs, {name}", measure=pairs_to(BREACHED, quantile), limit=limit)


def breached(limit: float = math.nan) -> Figure:
    """Return the figure for the percentage convicted within the budget."""
    return Figure(name="convicted %", measure=lambda verdicts: verdicts.share(BREACHED), limit=limit, at_least=True)


def promoted(median: float) -> tuple[Figure, ...]:
    """Return the figures for the promotion of a sound green."""
    return (
        Figure(name="pairs, median", measure=pairs_to(PASSED, 0.5), limit=median),
        Figure(name="promoted %", measure=lambda verdicts: verdicts.share(PASSED), limit=95.0, at_least=True),
        false_rollback(1.0),
    )


def of_50(limit: float) -> Figure:
    """Return the figure for mean pairs over the 50 that a Mann-Whitney judge always takes."""
    return Figure(name="mean pairs / 50", measure=lambda verdicts: float(verdicts.pairs.mean()) / 50.0, limit=limit)


CONVICTED_IN_3 = breach_pairs("max", 1.0, 3)
MEDIAN_PAIRS = Figure(name="pairs, median", measure=pairs_to(BREACHED, 0.5))
REFUSED = Figure(name="history refused %", measure=lambda verdicts: 100.0 * float(verdicts.refused.mean()))
FALSE_PROMOTE = Figure(name="false promote %", measure=lambda verdicts: verdicts.share(PASSED), limit=1.0)

SOUND, SLOWER, AT_MARGIN = Truth.SOUND, Truth.SLOWER, Truth.AT_MARGIN
HARSH = (false_rollback(1.0), REFUSED)

DESIGN_CASES = (
    Case(name="A/A", world=World(), truth=SOUND, location=1.0, figures=(false_rollback(0.25),)),
    Case(name="A/A, standard", world=World(), truth=SOUND, margins=STANDARD, figures=(false_rollback(0.25),)),
    # The design does not say what clusters; the three readings go from kind to harsh.
    Case(name="A/A, clusters of 3 in time", world=World(bursts=Bursts.SHARED), truth=SOUND, figures=HARSH),
    Case(
        name="A/A, clusters of 2 in a color",
        world=World(bursts=Bursts.CLUSTERED, cluster_length=2.0),
        truth=SOUND,
        figures=HARSH,
    ),
    Case(name="A/A, clusters of 3 in a color", world=World(bursts=Bursts.CLUSTERED), truth=SOUND, figures=HARSH),
    Case(name="A/A, rho 0.3", world=World(rho=0.3), truth=SOUND, choose_blocks=True, figures=(false_rollback(1.0),)),
    Case(
        name="at the margin: all x1.05",
        world=World(green_factor=1.05, bursts=Bursts.NONE),
        truth=AT_MARGIN,
        figures=(FALSE_PROMOTE,),
    ),
    Case(
        name="median alone at x1.05",
        world=World(green_factor=1.05),
        truth=AT_MARGIN,
        margins=MEDIAN_ONLY,
        figures=(FALSE_PROMOTE,),
    ),
    Case(
        name="tail alone at x1.10",
        world=World(green_factor=1.10),
        truth=AT_MARGIN,
        margins=TAIL_ONLY,
        figures=(FALSE_PROMOTE,),
    ),
    Case(
        name="slow rate alone at 5%",
        world=World(cv=0.03, bursts=Bursts.NONE, slow_share=0.05),
        truth=AT_MARGIN,
        margins=SLOW_ONLY,
        figures=(FALSE_PROMOTE,),
    ),
    Case(name="x10", world=World(green_factor=10.0), truth=SLOWER, figures=(CONVICTED_IN_3, of_50(0.06))),
    Case(name="x30", world=World(green_factor=30.0), truth=SLOWER, figures=(CONVICTED_IN_3,)),
    Case(name="timeouts", world=World(green_factor=np.inf), truth=SLOWER, figures=(CONVICTED_IN_3,)),
    Case(
        name="x10, standard",
        world=World(green_factor=10.0),
        truth=SLOWER,
        margins=STANDARD,
        figures=(CONVICTED_IN_3,),
    ),
    Case(
        name="x2",
        world=World(green_factor=2.0),
        truth=SLOWER,
        figures=(breach_pairs("p99", 0.99, 5), breach_pairs("max", 1.0, 5)),
    ),
    Case(
        name="x1.5",
        world=World(green_factor=1.5),
        truth=SLOWER,
        figures=(breach_pairs("median", 0.5, 4), breach_pairs("p99", 0.99, 12), of_50(0.10)),
    ),
    Case(
        name="x1.2",
        world=World(green_factor=1.2),
        truth=SLOWER,
        location=1.2,
        figures=(breach_pairs("median", 0.5, 20), breach_pairs("p99", 0.99, 45), of_50(0.40)),
    ),
    Case(
        name="x1.10",
        world=World(green_factor=1.10),
        truth=SLOWER,
        figures=(breached(99.0), breach_pairs("median", 0.5, 100)),
    ),
    Case(
        name="10% of requests x3",
        world=World(slow_share=0.1),
        truth=SLOWER,
        figures=(breached(99.0), breach_pairs("median", 0.5, 100)),
    ),
    Case(
        name="promote, CV 3%",
        world=World(cv=0.03, bursts=Bursts.NONE),
        truth=SOUND,
        margins=STANDARD,
        figures=promoted(60),
    ),
    Case(name="promote, CV 8%", world=World(bursts=Bursts.NONE), truth=SOUND, margins=STANDARD, figures=promoted(120)),
)
"""Every row of the design's table."""

OTHER_CASES = (
    Case(name="A/A, CV 3%", world=World(cv=0.03), truth=SOUND, figures=(false_rollback(1.0),)),
    Case(name="A/A, CV 15%", world=World(cv=0.15), truth=SOUND, figures=(false_rollback(1.0),)),
    Case(name="A/A, prompts 1 to 64 s", world=World(prompt_spread=64.0), truth=SOUND, figures=(false_rollback(1.0),)),
    Case(name="A/A, both swing by 1.6", world=World(swing=0.47), truth=SOUND, figures=(false_rollback(1.0),)),
    Case(name="A/A, rho 0.6", world=World(rho=0.6), truth=SOUND, choose_blocks=True, figures=HARSH),
    Case(
        name="at the margin, rho 0.3",
        world=World(green_factor=1.05, rho=0.3, bursts=Bursts.NONE),
        truth=AT_MARGIN,
        choose_blocks=True,
        figures=(FALSE_PROMOTE,),
    ),
    Case(
        name="harmless x1.03",
        world=World(green_factor=1.03),
        truth=SOUND,
        figures=(false_rollback(1.0),),
    ),
    Case(
        name="faster, x0.8",
        world=World(green_factor=0.8, bursts=Bursts.NONE),
        truth=SOUND,
        margins=STANDARD,
        figures=promoted(120),
    ),
    Case(
        name="warm-up excluded",
        world=World(green_cold=3),
        truth=SOUND,
        excluded_pairs=3,
        margins=STANDARD,
        figures=(false_rollback(0.25),),
    ),
    Case(
        name="warm-up left in: 3 requests x5",
        world=World(green_cold=3),
        truth=SOUND,
        margins=STANDARD,
        figures=(Figure(name="false rollback %", measure=lambda verdicts: verdicts.share(BREACHED)),),
    ),
    Case(
        name="x1.2, CV 3%", world=World(cv=0.03, green_factor=1.2), truth=SLOWER, figures=(breached(99.0), MEDIAN_PAIRS)
    ),
    Case(
        name="x1.2, CV 15%",
        world=World(cv=0.15, green_factor=1.2),
        truth=SLOWER,
        figures=(breached(99.0), MEDIAN_PAIRS),
    ),
    Case(
        name="x1.2, rho 0.3",
        world=World(green_factor=1.2, rho=0.3),
        truth=SLOWER,
        choose_blocks=True,
        figures=(breached(99.0), MEDIAN_PAIRS),
    ),
    Case(
        name="30% of requests x1.6",
        world=World(slow_share=0.3, slow_factor=1.6),
        truth=SLOWER,
        figures=(breached(99.0), MEDIAN_PAIRS),
    ),
)
"""What the design asks to be simulated without a figure; the limits here are the promises alpha and beta."""
