"""Cause: which capability difference explains what was seen, by what each is known to cost.

Every row of the table names its source: a measurement or a document, both listed in docs/causes.md. What no row knows
ranks last and says so; a rank is a suspicion, and each names the evidence that would settle it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

from rollout.gates.capabilities import Difference
from rollout.gates.names import DRIFT, LATENCY, LOAD, RECHECK
from rollout.model.verdict import GateResult, Outcome, Severity, Verdict

MEASURED = "measured"
ORT_GRAPH = "ONNX Runtime, graph optimizations"
ORT_THREADS = "ONNX Runtime, thread management"
ORT_MEMORY = "ONNX Runtime, issue 11627"
ORT_PROVIDERS = "ONNX Runtime, execution providers"
ORT_CUDA = "ONNX Runtime, CUDA execution provider"

SIZE_UNKNOWN = 0.2
"""Weight of a change whose direction is known and whose size is not: below one whose size fits."""

MISFIT_LOG = math.log(1.5)
"""A cost that misses what was seen by this factor explains nothing of it."""

MISFIT_MIN = 0.1
"""A known cost of the right kind stays above what nothing is known of, however badly its size fits: it may not be
alone."""


class Effect(StrEnum):
    """What a change can touch."""

    MEDIAN = "median latency"
    TAIL = "tail latency"
    LOAD = "behaviour under load"
    COLD_START = "cold start"
    MEMORY = "memory and restarts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Factor:
    """A range of slowdowns: latency after the change over latency before it, both above 0."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """An observed slowdown with its interval; the ends are 0 and +inf where the evidence sets none."""

    value: float
    low: float
    high: float

    @property
    def open(self) -> bool:
        """True where the evidence leaves an end of the interval open."""
        return self.low <= 0.0 or not math.isfinite(self.high)

    @property
    def range(self) -> Factor:
        """The interval, an open end closed at a misfit's distance from the value, which then is all there is."""
        reach = math.exp(MISFIT_LOG)
        return Factor(
            low=self.low if self.low > 0.0 else self.value / reach,
            high=self.high if math.isfinite(self.high) else self.value * reach,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What one change is known to cost.

    Attributes:
        key: Capability, or a pattern of several.
        before, after: Patterns of the values as `rollout diff` shows them; the change back costs the inverse.
        factor: Of the median latency; None where only the direction is known.
        effects: What it touches when it goes this way.
        source: Where that stands.
        settles: What to do to know; `{before}` and `{after}` stand for the values.
        other_stack: True for a field that the reference server does not collect: GPU stacks do.
    """

    key: str
    before: str
    after: str
    factor: Factor | None
    effects: frozenset[Effect]
    source: str
    settles: str
    other_stack: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What was seen.

    Attributes:
        effects: What the gates found wrong, or could not clear.
        median: The median ratio with its interval; None where no gate estimated it.
    """

    effects: frozenset[Effect]
    median: Seen | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A capability difference and how well it explains what was seen.

    Attributes:
        difference: As `key: before -> after`.
        score: From 0, nothing known speaks for it, to 1, everything does.
        why: The score in words.
        settles: The evidence that would settle it.
    """

    difference: str
    score: float
    why: str
    settles: str


_SLOWER = frozenset({Effect.MEDIAN, Effect.TAIL, Effect.LOAD})
_COMPARE = "start the release a second time {change} and `rollout compare` the two"


def _with_option(option: str, before: str = "{before}") -> str:
    return _COMPARE.replace("{change}", f"with `{option} {before}`")


KNOWN: tuple[Known, ...] = (
    Known(
        key="runtime.ort.graph_optimization",
        before="all",
        after="disabled",
        factor=Factor(low=1.22, high=1.40),
        effects=_SLOWER,
        source=MEASURED,
        settles=_with_option("--graph-optimization"),
    ),
    Known(
        key="runtime.ort.graph_optimization",
        before="all",
        after="extended",
        factor=Factor(low=1.13, high=1.20),
        effects=_SLOWER,
        source=MEASURED,
        settles=_with_option("--graph-optimization"),
    ),
    Known(
        key="runtime.ort.graph_optimization",
        before="*",
        after="basic",
        factor=None,
        effects=_SLOWER,
        source=ORT_GRAPH,
        settles=_with_option("--graph-optimization"),
    ),
    Known(
        key="runtime.ort.graph_optimization",
        before="disabled",
        after="*",
        factor=None,
        effects=frozenset({Effect.COLD_START}),
        source=ORT_GRAPH,
        settles="compare load.duration_s in `rollout snapshot` of both",
    ),
    Known(
        key="runtime.ort.arena",
        before="true",
        after="false",
        factor=Factor(low=1.08, high=2.33),
        effects=_SLOWER,
        source=MEASURED,
        settles=_with_option("--arena", "on"),
    ),
    Known(
        key="runtime.ort.arena",
        before="false",
        after="true",
        factor=None,
        effects=frozenset({Effect.MEMORY}),
        source=ORT_MEMORY,
        settles=_with_option("--arena", "off") + "; look at the memory of each",
    ),
    Known(
        key="runtime.ort.memory_pattern",
        before="true",
        after="false",
        factor=Factor(low=1.08, high=2.33),
        effects=_SLOWER,
        source=f"{MEASURED} (together with the arena)",
        settles=_with_option("--arena", "on"),
    ),
    Known(
        key="pipeline.guidance",
        before="batched",
        after="two-calls",
        factor=Factor(low=1.00, high=1.64),
        effects=_SLOWER,
        source=f"{MEASURED} (x1.64 on a GPU that small kernels leave waiting)",
        settles=_with_option("--guidance"),
    ),
    Known(
        key="runtime.ort.threads.spinning",
        before="false",
        after="true",
        factor=Factor(low=1.21, high=1.44),
        effects=_SLOWER,
        source=f"{MEASURED} (with two threads)",
        settles=_with_option("--spinning", "off"),
    ),
    Known(
        key="runtime.ort.threads.*",
        before="*",
        after="*",
        factor=None,
        effects=_SLOWER,
        source=ORT_THREADS,
        settles=_with_option("--threads"),
    ),
    Known(
        key="runtime.ort.execution_mode",
        before="sequential",
        after="parallel",
        factor=Factor(low=1.54, high=1.91),
        effects=_SLOWER,
        source=MEASURED,
        settles=_with_option("--execution"),
    ),
    Known(
        key="runtime.ort.session_lifetime",
        before="shared",
        after="per-request",
        factor=Factor(low=1.84, high=3.50),
        effects=_SLOWER | {Effect.MEMORY},
        source=MEASURED,
        settles=_with_option("--session"),
    ),
    Known(
        key="model.precision",
        before="fp32",
        after="int8",
        factor=Factor(low=0.96, high=1.22),
        effects=_SLOWER | {Effect.COLD_START},
        source=f"{MEASURED} (on a CPU; the first start quantises)",
        settles=_with_option("--precision"),
    ),
    Known(
        key="model.precision",
        before="fp32",
        after="fp16",
        factor=Factor(low=1.11, high=1.23),
        effects=_SLOWER,
        source=f"{MEASURED} (on a CPU; GPUs gain)",
        settles="start the release a second time with the graph of before and `rollout compare` the two",
    ),
    Known(
        key="model.unet.attention.fused",
        before="true",
        after="false",
        factor=Factor(low=1.00, high=1.23),
        effects=_SLOWER,
        source=f"{MEASURED} (on a CPU; GPUs lose more)",
        settles="start the release a second time with the graph of before and `rollout compare` the two",
    ),
    Known(
        key="model.unet.attention.processors",
        before="AttnProcessor2_0",
        after="AttnProcessor",
        factor=Factor(low=1.06, high=1.12),
        effects=_SLOWER,
        source=f"{MEASURED} (on a GPU, docs/gpu.md)",
        settles=_with_option("--attention", "sdpa"),
        other_stack=True,
    ),
    Known(
        key="model.unet.attention.processors",
        before="AttnProcessor2_0",
        after="SlicedAttnProcessor",
        factor=Factor(low=1.57, high=1.64),
        effects=_SLOWER,
        source=f"{MEASURED} (on a GPU, docs/gpu.md)",
        settles=_with_option("--attention", "sdpa"),
        other_stack=True,
    ),
    Known(
        key="model.unet.attention.softmax_count",
        before="*",
        after="*",
        factor=None,
        effects=_SLOWER,
        source=ORT_GRAPH,
        settles="start the release a second time with the graph of before and `rollout compare` the two",
    ),
    Known(
        key="model.*.digest",
        before="*",
        after="*",
        factor=Factor(low=1.00, high=41.0),
        effects=_SLOWER | {Effect.COLD_START, Effect.MEMORY},
        source=f"{MEASURED} (one export of the same weights took 41 times as long)",
        settles="start the release a second time with the model of before and `rollout compare` the two",
    ),
    Known(
        key="server.queue_limit",
        before="*",
        after="*",
        factor=None,
        effects=frozenset({Effect.LOAD}),
        source="rollout serve --help",
        settles="start the release a second time with `--queue-limit {before}` and repeat the load phase",
    ),
    Known(
        key="runtime.ort.version",
        before="*",
        after="*",
        factor=None,
        effects=_SLOWER | {Effect.COLD_START, Effect.MEMORY},
        source=ORT_GRAPH,
        settles="start the release a second time with version {before} and `rollout compare` the two",
    ),
    Known(
        key="runtime.ort.providers.actual",
        before="*,*",
        after="CPUExecutionProvider",
        factor=None,
        effects=_SLOWER,
        source=ORT_PROVIDERS,
        settles="read the server's log for the provider that failed to load; it says which library is missing",
    ),
    Known(
        key="runtime.ort.placement.cpu_share",
        before="*",
        after="*",
        factor=None,
        effects=_SLOWER,
        source=ORT_PROVIDERS,
        settles="compare the nodes on the CPU in an ONNX Runtime profile of both",
    ),
    Known(
        key="container.cpu.*",
        before="*",
        after="*",
        factor=None,
        effects=_SLOWER | {Effect.COLD_START},
        source=ORT_THREADS,
        settles="start the release a second time on the processor of before and `rollout compare` the two",
    ),
    Known(
        key="container.memory.limit_bytes",
        before="*",
        after="*",
        factor=None,
        effects=frozenset({Effect.TAIL, Effect.LOAD, Effect.MEMORY}),
        source=ORT_MEMORY,
        settles="start the release a second time with the limit {before} and repeat the stage",
    ),
    Known(
        key="gpu.driver.version",
        before="*",
        after="*",
        factor=None,
        effects=_SLOWER | {Effect.COLD_START},
        source=ORT_CUDA,
        settles="run the release on a node with driver {before} and `rollout compare` the two",
    ),
    Known(
        key="gpu.devices",
        before="*",
        after="*",
        factor=None,
        effects=_SLOWER,
        source=ORT_CUDA,
        settles="run the release with the devices {before} and `rollout compare` the two",
    ),
    Known(
        key="runtime.cuda.*",
        before="*",
        after="*",
        factor=None,
        effects=_SLOWER | {Effect.COLD_START},
        source=ORT_CUDA,
        settles="run the release with {before} and `rollout compare` the two",
        other_stack=True,
    ),
    Known(
        key="runtime.ort.cuda.*",
        before="*",
        after="*",
        factor=None,
        effects=_SLOWER | {Effect.MEMORY},
        source=ORT_CUDA,
        settles="run the release with the option at {before} and `rollout compare` the two",
        other_stack=True,
    ),
)
"""First match wins, in this direction or back: specific rows stand above general ones."""

_LATENCY_GATES = frozenset({LATENCY, DRIFT, RECHECK})

_BY_CODE: Mapping[str, Effect] = {
    "cold_start_slow": Effect.COLD_START,
    "instances_restarted": Effect.MEMORY,
    "memory_grows": Effect.MEMORY,
    "latency_drifted_tail": Effect.TAIL,
}


def rank(differences: Iterable[Difference], signature: Signature) -> tuple[Suspect, ...]:
    """Rank capability differences by how well their known cost explains what was seen, likeliest first.

    The score is the share of what was seen that the change is known to touch, times how well the size fits. What
    nothing is known of scores 0 and ranks by severity.
    """
    order = list(Severity)
    judged = [(_judge(one, signature), one) for one in differences]
    judged.sort(key=lambda pair: (-pair[0].score, order.index(pair[1].severity), pair[1].key))
    return tuple(suspect for suspect, _ in judged)


def signature_of(verdicts: Iterable[Verdict]) -> Signature:
    """Return what verdicts that did not pass found wrong; verdicts and gates that passed add nothing."""
    effects: set[Effect] = set()
    median: Seen | None = None
    for verdict in verdicts:
        for gate in verdict.gates:
            if gate.outcome is Outcome.PASS or gate.outcome is not verdict.outcome:
                continue
            effects |= _touched(gate)
            if gate.gate in _LATENCY_GATES:
                median = _span(gate, "p50_ratio") or median
    return Signature(effects=frozenset(effects), median=median)


def _touched(gate: GateResult) -> set[Effect]:
    """Return what a gate that did not pass is about; nothing where it could not measure, for then nobody was slow."""
    code = gate.reasons[0].code if gate.reasons else ""
    if code in _BY_CODE:
        return {_BY_CODE[code]}
    if gate.gate.startswith(f"{LOAD} "):
        return {Effect.LOAD} if code.endswith(("_over_margin", "_undecided")) else set()
    if gate.gate not in _LATENCY_GATES or not {"p50_ratio", "tail_ratio"} & gate.figures.keys():
        return set()
    over = {
        effect
        for effect, name in ((Effect.MEDIAN, "p50_ratio"), (Effect.TAIL, "tail_ratio"))
        if (value := _number(gate, name)) is not None and value > (_number(gate, f"{name}_max") or math.inf)
    }
    # A slow rate, or evidence that does not suffice yet, is about latency all the same.
    return over or {Effect.MEDIAN}


def _judge(one: Difference, seen: Signature) -> Suspect:
    difference = str(one)
    matches = [match for known in KNOWN if (match := _match(known, one)) is not None]
    if not matches:
        why = f"nothing is known of what this costs; severity {one.severity.value}"
        settles = f"start the release a second time with {one.key} as before and `rollout compare` the two"
        return Suspect(difference=difference, score=0.0, why=why, settles=settles)
    # A key may cost one thing one way and another thing the other: what touches what was seen comes first.
    known, factor = max(matches, key=lambda match: len(match[0].effects & seen.effects))
    touched = known.effects & seen.effects
    settles = known.settles.format(before=one.before, after=one.after)
    if not touched:
        why = f"known to touch {_listed(known.effects)}, not {_listed(seen.effects)} ({known.source})"
        return Suspect(difference=difference, score=0.0, why=why, settles=settles)
    fit, words = _fit(factor, seen.median if Effect.MEDIAN in touched else None)
    share = len(touched) / len(seen.effects)
    why = f"touches {_listed(touched)}; {words} ({known.source})"
    return Suspect(difference=difference, score=round(share * fit, 3), why=why, settles=settles)


def _match(known: Known, one: Difference) -> tuple[Known, Factor | None] | None:
    """Return the row and its factor in the direction of this difference; None where the row is about another."""
    if not fnmatchcase(one.key, known.key):
        return None
    if fnmatchcase(one.before, known.before) and fnmatchcase(one.after, known.after):
        return known, known.factor
    back = fnmatchcase(one.before, known.after) and fnmatchcase(one.after, known.before)
    if not back or known.factor is None:
        return None
    return known, Factor(low=1.0 / known.factor.high, high=1.0 / known.factor.low)


def _fit(factor: Factor | None, seen: Seen | None) -> tuple[float, str]:
    """Say how well a known cost fits what was seen.

    A range that overlaps the observed one fits the better the narrower it is, as the likelihood of a value drawn
    log-uniformly from it; beyond, the fit falls with the distance.
    """
    if factor is None:
        return SIZE_UNKNOWN, "its size is not known"
    costs = f"known to cost x{factor.low:.3g} to x{factor.high:.3g}"
    if seen is None:
        return SIZE_UNKNOWN, f"{costs}; no median was estimated to compare with"
    there = seen.range
    shown = f"x{there.low:.3g} to x{there.high:.3g} was seen"
    if seen.open:
        shown = f"x{seen.value:.3g} was seen, its interval still open"
    fit = max(1.0 / (1.0 + math.log(factor.high / factor.low)), SIZE_UNKNOWN)
    if factor.high < 1.0 < there.low:
        return 0.0, f"known to make it faster, x{factor.low:.3g} to x{factor.high:.3g}"
    if there.low > factor.high:
        far = math.log(there.low / factor.high)
        return max(MISFIT_MIN, fit * (1.0 - far / MISFIT_LOG)), f"{costs}, {shown}: it explains less than that"
    if there.high < factor.low:
        far = math.log(factor.low / there.high)
        return max(MISFIT_MIN, fit * (1.0 - far / MISFIT_LOG)), f"{costs}, {shown}: it explains more than that"
    return fit, f"{costs}, {shown}: it fits"


def _span(gate: GateResult, name: str) -> Seen | None:
    value, low, high = _number(gate, name), _number(gate, f"{name}_lower"), _number(gate, f"{name}_upper")
    return None if value is None or low is None or high is None else Seen(value=value, low=low, high=high)


def _number(gate: GateResult, name: str) -> float | None:
    try:
        value = float(gate.figures[name])
    except (KeyError, ValueError):
        return None
    return None if math.isnan(value) else value


def _listed(effects: Iterable[Effect]) -> str:
    chosen: Sequence[str] = [one.value for one in Effect if one in set(effects)]
    return " and ".join(chosen)
