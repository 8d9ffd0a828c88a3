"""The summary as Markdown, for GitHub's step summary and for comments."""

import re
from collections.abc import Iterable, Sequence

from rollout.model.inventory import Absent
from rollout.model.journal import RunKind
from rollout.report import words
from rollout.report.cost import cost_lines
from rollout.report.figures import Estimate
from rollout.report.headline import is_wanted
from rollout.report.load import load_table
from rollout.report.stages import StageOutcome, StageRow
from rollout.report.summary import Summary

NOTHING = "-"
"""An empty cell would look like a fault of the table."""

# Character references are text to Markdown: they can neither open a structure nor close one (CommonMark 6.2).
_STRUCTURE = re.compile(r"[&<>|`*_~\[\]\\#@$!]|(?<=[a-zA-Z])://|(?i:\bwww\.)|^[-+=]|^\d+[.)]")


def markdown(summary: Summary) -> str:
    """Return the summary as GitHub Markdown; nothing that a server or a person wrote can change its structure."""
    mark = "passed" if is_wanted(summary.ending, summary.kind) else "not passed"
    parts = [
        f"### Rollout {escaped(summary.run_id)}: {summary.ending.value} ({mark})",
        f"**{escaped(summary.headline)}**",
        *_culprit(summary),
        _stacks(summary),
        *_reasons(summary),
        *_stages(summary),
        *_timeline(summary),
        *_weights(summary),
        *_commands(summary),
        _footer(summary),
    ]
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """Return a text as one line that Markdown shows as it is, also inside a table."""
    return _STRUCTURE.sub(lambda found: "".join(f"&#{ord(one)};" for one in found[0]), words.printable(text))


def _culprit(summary: Summary) -> Iterable[str]:
    if not summary.suspects:
        return
    first, *others = summary.suspects
    lead = "Most likely culprit" if first.score else "Nothing known explains it; first among what differs"
    yield f"{lead}: **{escaped(first.difference)}**"
    yield f"{escaped(first.why)}. To settle it: {escaped(first.settles)}."
    if others:
        yield "Also different:\n\n" + "\n".join(
            f"- capability {escaped(one.difference)}: {escaped(one.why)}; to settle it: {escaped(one.settles)}"
            for one in others
        )


def _stacks(summary: Summary) -> str:
    last = summary.weights[-1] if summary.weights else None
    rows = []
    for one in summary.stacks:
        share = NOTHING if last is None else f"{last.blue if one.slot.value == 'blue' else last.green} %"
        release = one.release.reason if isinstance(one.release, Absent) else one.release
        rows.append((one.role.value, one.slot.value, escaped(release), share))
    return _table(("role", "slot", "release", "traffic at the end"), rows)


def _reasons(summary: Summary) -> Iterable[str]:
    if summary.reasons:
        yield "#### Reasons"
        yield "\n".join(f"- `{one.code}` {escaped(one.text)}" for one in summary.reasons)
    if summary.differences and not summary.suspects:
        yield "#### Capabilities that differ"
        yield "\n".join(f"- capability {escaped(one)}" for one in summary.differences)


def _stages(summary: Summary) -> Iterable[str]:
    if not summary.stages:
        return
    both = " / ".join(one.slot.value for one in summary.stacks)
    head = (
        "stage",
        "outcome",
        "requests" if summary.kind is RunKind.VERIFY else "pairs",
        "median ratio",
        "tail ratio",
        f"median, {both}",
        f"failed, {both}",
        "lowest PSNR",
        "live requests",
    )
    yield "#### Stages"
    yield _table(head, [_stage(one) for one in summary.stages])
    if summary.load:
        yield "#### Under load"
        yield "\n".join(load_table(summary.load))
        yield "\n".join(f"- cost: {escaped(one)}" for one in cost_lines(summary.cost))


def _stage(row: StageRow) -> tuple[str, ...]:
    if row.outcome is StageOutcome.SKIPPED:
        return (escaped(row.stage), f"skipped: {escaped(row.note)}", *[NOTHING] * 7)
    outcome = f"**{row.outcome.value}**" if row.outcome is StageOutcome.BREACH else row.outcome.value
    return (
        escaped(row.stage),
        outcome,
        str(row.requests) if row.requests else NOTHING,
        _ratio(row.p50),
        _ratio(row.tail),
        f"{_latency(row.incumbent_s)} / {_latency(row.candidate_s)}" if row.requests else NOTHING,
        f"{row.incumbent_failed} / {row.candidate_failed}" if row.requests else NOTHING,
        NOTHING if isinstance(row.psnr_db, Absent) else words.decibels(row.psnr_db),
        NOTHING if isinstance(row.live, Absent) else f"{row.live.completed}, {row.live.failed} failed",
    )


def _ratio(one: Estimate | Absent) -> str:
    if isinstance(one, Absent):
        return NOTHING
    allowed = "" if isinstance(one.allowed, Absent) else f", allowed {words.ratio(one.allowed)}"
    return escaped(words.interval(one.value, lower=one.lower, upper=one.upper) + allowed)


def _latency(value: float | Absent) -> str:
    return NOTHING if isinstance(value, Absent) else words.milliseconds(value)


def _timeline(summary: Summary) -> Iterable[str]:
    rows = [
        (
            words.date(one.entered_at),
            one.phase.value.replace("_", " "),
            one.event.reason if isinstance(one.event, Absent) else one.event.value.replace("_", " "),
            words.seconds(one.seconds) if one.seconds else NOTHING,
        )
        for one in summary.timeline
    ]
    yield "#### Timeline"
    yield _table(("entered", "phase", "because", "for"), rows)


def _weights(summary: Summary) -> Iterable[str]:
    if summary.weights:
        rows = [(words.date(one.at), escaped(one.stage), f"{one.blue} %", f"{one.green} %") for one in summary.weights]
        yield "#### Traffic, as the router reported it"
        yield _table(("from", "stage", "blue", "green"), rows)


def _commands(summary: Summary) -> Iterable[str]:
    if summary.commands:
        rows = [
            (words.date(one.at), one.command.value, escaped(one.by), escaped(one.reason or NOTHING))
            for one in summary.commands
        ]
        yield "#### Commands"
        yield _table(("at", "command", "by", "reason"), rows)


def _footer(summary: Summary) -> str:
    told = [
        f"{summary.kind.value} asked for by {escaped(summary.requested_by)}",
        f"took {words.seconds(summary.seconds)}",
    ]
    told += [
        f"outside the {one.role.value}'s server: median {words.milliseconds(one.median_s)} of {one.requests} requests"
        for one in summary.overhead
    ]
    if summary.unsettled:
        told.append(f"unsettled: {escaped(summary.unsettled)}")
    return "; ".join(told) + "."


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
