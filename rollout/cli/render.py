"""What commands print: tables on a terminal, plain aligned text of at most 80 columns in a pipe."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rollout.cli.progress import encodable
from rollout.gates.cause import Suspect
from rollout.gates.differences import Difference
from rollout.model.inventory import Absent, LiveCounters
from rollout.model.journal import RunKind
from rollout.model.reasons import REASONS
from rollout.model.roles import Slot, Weights
from rollout.model.verdict import GateResult, Outcome, Severity
from rollout.report import words
from rollout.report.as_json import plain, to_json
from rollout.report.cost import cost_lines
from rollout.report.figures import Estimate
from rollout.report.headline import Ending, is_wanted
from rollout.report.load import load_lines
from rollout.report.smoke import Smoked
from rollout.report.stages import StageOutcome, StageRow
from rollout.report.summary import Summary

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

PIPE_COLUMNS = 80
TERMINAL_COLUMNS_MAX = 120
"""Lines longer than this are hard to read, however wide the window is."""

TABLE_COLUMNS_MIN = 72
"""Below this a stage is told in lines: its intervals would not fit beside one another."""

KEY_COLUMNS_MAX = 34
"""Names of runs and capabilities are copied and searched for; up to here they stay whole."""

REASONS_MAX = 12
"""Reasons of one gate that are printed; a changed runtime can change dozens of capabilities."""

LABEL_COLUMNS = 8
NOTHING = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryRow:
    """One earlier run."""

    run_id: str
    kind: RunKind
    ending: Ending
    wanted: bool
    headline: str
    requested_by: str
    started_at: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the row as a JSON object."""
        told: dict[str, Any] = plain(self)
        return told


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotRow:
    """One slot as it is now.

    Attributes:
        release: Its name; Absent where the slot is empty, or what runs there is not known.
        detail: Why an instance is not ready, and what else there is to say; empty where nothing is.
        live: What the router counted since it started.
    """

    slot: Slot
    release: str | Absent
    instances: int
    ready: int
    restarts: int
    detail: str
    live: LiveCounters | Absent


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What stands.

    Attributes:
        serving: The slot that should take traffic.
        traffic: What the router itself reports.
        standby_s: How much longer the other slot is kept hot.
        run: The run that is under way.
    """

    stack: str
    serving: Slot | Absent
    traffic: Weights | Absent
    slots: tuple[SlotRow, ...]
    standby_s: float | Absent
    run: Summary | Absent

    def to_json(self) -> dict[str, Any]:
        """Return the status as a JSON object."""
        told: dict[str, Any] = plain(self)
        return told if isinstance(self.run, Absent) else told | {"run": to_json(self.run)}


def history_row(summary: Summary) -> HistoryRow:
    """Return a run's line in the history."""
    return HistoryRow(
        run_id=summary.run_id,
        kind=summary.kind,
        ending=summary.ending,
        wanted=is_wanted(summary.ending, summary.kind),
        headline=summary.headline,
        requested_by=summary.requested_by,
        started_at=summary.started_at,
        seconds=summary.seconds,
    )


def render_summary(console: "Console", summary: Summary) -> None:
    """Print how a run ended and what that rests on."""
    page = Page(console)
    wanted = is_wanted(summary.ending, summary.kind)
    page.paragraph(summary.headline, "bold green" if wanted else "bold red")
    page.fields(_facts(summary))
    if page.columns < TABLE_COLUMNS_MIN:
        page.fields([field for row in summary.stages for field in _stage_lines(row, _counted(summary))])
    elif summary.stages:
        page.table(
            ("stage", "outcome", _counted(summary), "median ratio", "tail ratio"),
            [_judged(row) for row in summary.stages],
            styles=[_STYLES[row.outcome] for row in summary.stages],
        )
        measured = [row for row in summary.stages if row.requests or not isinstance(row.live, Absent)]
        both = "/".join(one.slot.value for one in summary.stacks)
        if measured:
            head = ("stage", f"median {both}", f"failed {both}", "PSNR", "live requests")
            page.table(head, [_measured(row) for row in measured])
    if summary.load:
        page.fields([("load", one) for one in load_lines(summary.load, summary.scaling)])
        page.fields([("cost", one) for one in cost_lines(summary.cost)])
    page.fields(_course(summary))


def render_history(console: "Console", rows: Sequence[HistoryRow]) -> None:
    """Print earlier runs, newest first as given."""
    page = Page(console)
    if not rows:
        page.paragraph("no run yet", "")
    elif page.columns < TABLE_COLUMNS_MIN:
        page.fields([field for row in rows for field in (("run", row.run_id), ("", f"{row.headline}"))])
    else:
        page.table(
            ("run", "began", "took", "how it ended"),
            [
                (row.run_id, words.date(row.started_at)[: -len(":00 UTC")], words.seconds(row.seconds), row.headline)
                for row in rows
            ],
            styles=["green" if row.wanted else "red" for row in rows],
        )


def render_status(console: "Console", status: Status) -> None:
    """Print what stands now."""
    page = Page(console)
    serving = status.serving.reason if isinstance(status.serving, Absent) else f"{status.serving} serves"
    traffic = status.traffic
    reported = (
        f"unknown: {traffic.reason}"
        if isinstance(traffic, Absent)
        else f"blue {traffic.blue} %, green {traffic.green} %, as the router reports it"
    )
    facts = [("stack", status.stack), ("serving", serving), ("traffic", reported)]
    if not isinstance(status.standby_s, Absent):
        facts.append(("standby", f"kept hot for {words.seconds(status.standby_s)} more"))
    page.fields(facts)
    if page.columns < TABLE_COLUMNS_MIN:
        page.fields([(one.slot.value, ", ".join(_slot(one)[1:])) for one in status.slots])
    else:
        page.table(("slot", "release", "ready", "live requests", "detail"), [_slot(one) for one in status.slots])
    if isinstance(status.run, Absent):
        page.fields([("run", status.run.reason)])
    else:
        page.fields([("run", f"{status.run.run_id}: {status.run.headline}"), *_said(status.run)])


def render_smoke(console: "Console", smoked: Smoked) -> None:
    """Print what one server proved, gate by gate."""
    page, verdict = Page(console), smoked.verdict
    decided = ", ".join(gate.gate for gate in verdict.gates if gate.outcome is verdict.outcome)
    page.paragraph(f"{verdict.outcome.value}: {decided}", _OUTCOMES[verdict.outcome])
    rows = [row for gate in verdict.gates for row in _gate_rows(gate)]
    if page.columns < TABLE_COLUMNS_MIN:
        page.fields([(f"{gate} {outcome}".strip(), reason) for gate, outcome, reason in rows])
    else:
        styles = [_OUTCOMES[gate.outcome] for gate in verdict.gates for _ in _gate_rows(gate)]
        page.table(("gate", "outcome", "reasons"), rows, styles=styles)
    page.fields(_smoked(smoked))


def render_diff(console: "Console", differences: Sequence[Difference]) -> None:
    """Print how two capability snapshots differ, in the order given, and what to do about what blocks."""
    page = Page(console)
    if not differences:
        page.paragraph("no capability differs", "green")
        return
    if page.columns < TABLE_COLUMNS_MIN:
        page.fields([(one.severity.value, f"{one.code}: {one}") for one in differences])
    else:
        page.table(
            ("", "code", "capability: before -> after"),
            [(one.severity.value, one.code, str(one)) for one in differences],
            styles=[_SEVERITIES[one.severity] for one in differences],
            key=1,
        )
    blocking = dict.fromkeys(one.code for one in differences if one.severity is Severity.BLOCK)
    page.fields([("remedy", f"{code}: {REASONS[code].remedy}") for code in blocking])


_SEVERITIES = {Severity.BLOCK: "bold red", Severity.WARN: "yellow", Severity.INFO: ""}

_STYLES = {
    StageOutcome.PASS: "green",
    StageOutcome.BREACH: "bold red",
    StageOutcome.INCONCLUSIVE: "yellow",
    StageOutcome.INTERRUPTED: "yellow",
    StageOutcome.MEASURED: "",
    StageOutcome.SKIPPED: "dim",
}


_OUTCOMES = {Outcome.PASS: "green", Outcome.BREACH: "bold red", Outcome.INCONCLUSIVE: "yellow"}


class Page:
    """A console seen as a page: one width for all, blocks apart, every text harmless."""

    def __init__(self, console: "Console") -> None:
        widest = TERMINAL_COLUMNS_MAX if console.is_terminal else PIPE_COLUMNS
        self.columns = min(console.width, widest)
        self._console = console
        self._begun = False
        self._below_table = False

    def paragraph(self, text: str, style: str) -> None:
        """Print a text, wrapped."""
        self._print(self._text(text, style))

    def fields(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Print labels with what they stand for."""
        from rich.table import Table

        grid = Table.grid(padding=(0, 2))
        grid.add_column(min_width=min(LABEL_COLUMNS, self.columns // 3), style="dim")
        grid.add_column(overflow="fold")
        for label, value in pairs:
            grid.add_row(self._text(label, ""), self._text(value, ""))
        if grid.row_count:
            self._apart(below_table=False)
            self._print(grid)

    def table(
        self, head: Sequence[str], rows: Sequence[Sequence[str]], *, styles: Sequence[str] = (), key: int = 0
    ) -> None:
        """Print a table.

        Args:
            head: The columns' names.
            rows: As many cells each.
            styles: One for each row, or nothing.
            key: The column that names a row; others are wrapped before it is.
        """
        from rich import box
        from rich.table import Table

        ruled = box.SIMPLE_HEAD if self._console.is_terminal else None
        table = Table(box=ruled, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
        widest = max((len(row[key]) for row in rows), default=0)
        for place, one in enumerate(head):
            whole = place == key and widest <= KEY_COLUMNS_MAX
            table.add_column(self._text(one, ""), overflow="fold", no_wrap=whole)
        for number, row in enumerate(rows):
            table.add_row(*(self._text(cell, "") for cell in row), style=styles[number] if styles else None)
        self._apart(below_table=True)
        self._print(table)

    def drawing(self, lines: Iterable[str]) -> None:
        """Print lines in which every blank counts."""
        from rich.text import Text

        self._apart(below_table=True)
        self._print(Text("\n".join(encodable(one, self._console.encoding) for one in lines), no_wrap=True))

    def _text(self, text: str, style: str) -> "Text":
        from rich.text import Text

        return Text(encodable(words.printable(text), self._console.encoding), style=style)

    def _apart(self, *, below_table: bool) -> None:
        """Leave a line free above and below each table."""
        if self._begun and (below_table or self._below_table):
            self._console.print()
        self._below_table = below_table

    def _print(self, what: "RenderableType") -> None:
        self._begun = True
        if self._console.is_terminal:
            self._console.print(what, width=self.columns, soft_wrap=False, highlight=False, markup=False)
            return
        with self._console.capture() as drawn:
            self._console.print(what, width=self.columns, soft_wrap=False, highlight=False, markup=False)
        lines = (line.rstrip() for line in drawn.get().splitlines())
        self._console.print("\n".join(lines), soft_wrap=True, highlight=False, markup=False, emoji=False)


def _facts(summary: Summary) -> list[tuple[str, str]]:
    found = _culprit(summary.suspects) if summary.suspects else [("differs", one) for one in summary.differences]
    found.append(("run", f"{summary.run_id}: {summary.kind}, asked for by {summary.requested_by}"))
    for one in summary.stacks:
        release = one.release.reason if isinstance(one.release, Absent) else one.release
        found.append((one.slot.value, f"{release} ({one.role})"))
    found += [("reason", f"{one.code}: {one.text}") for one in summary.reasons]
    return found


def _culprit(suspects: Sequence[Suspect]) -> list[tuple[str, str]]:
    """Name the likeliest difference, why, and what would settle it; the others with what is known of them."""
    first, *others = suspects
    lead = "most likely" if first.score else "nothing known explains it; first among what differs:"
    found = [("culprit", f"{lead} {first.difference}"), ("", first.why), ("settle", first.settles)]
    return found + [field for one in others for field in (("differs", one.difference), ("", one.why))]


def _gate_rows(gate: GateResult) -> list[tuple[str, str, str]]:
    told = [one.text if gate.outcome is Outcome.PASS else f"{one.code}: {one.text}" for one in gate.reasons]
    if len(told) > REASONS_MAX:
        told = [*told[:REASONS_MAX], f"and {len(told) - REASONS_MAX} more; --output json has all"]
    return [("" if place else gate.gate, "" if place else gate.outcome.value, one) for place, one in enumerate(told)]


def _smoked(smoked: Smoked) -> list[tuple[str, str]]:
    found = _culprit(smoked.suspects) if smoked.suspects else []
    found.append(("server", f"{smoked.subject}, judged by policy {smoked.policy}"))
    for label, digest in (("snapshot", smoked.snapshot), ("baseline", smoked.baseline)):
        # Without its prefix it fits one line.
        found.append((label, digest.reason if isinstance(digest, Absent) else digest.removeprefix("sha256:")))
    if smoked.written:
        found.append(("written", smoked.written))
    return [*found, ("took", f"{words.seconds(smoked.seconds)}, {smoked.requests} requests measured")]


def _counted(summary: Summary) -> str:
    return "requests" if summary.kind is RunKind.VERIFY else "pairs"


def _judged(row: StageRow) -> tuple[str, ...]:
    if row.note and not row.requests:
        return (row.stage, row.outcome.value, NOTHING, row.note, NOTHING)
    count = str(row.requests) if row.requests else NOTHING
    return (row.stage, row.outcome.value, count, _ratio(row.p50), _ratio(row.tail))


def _measured(row: StageRow) -> tuple[str, ...]:
    stopped = f", {row.candidate_stopped} cut off" if row.candidate_stopped else ""
    return (
        row.stage,
        f"{_latency(row.incumbent_s)} / {_latency(row.candidate_s)}",
        f"{row.incumbent_failed} / {row.candidate_failed}{stopped}",
        NOTHING if isinstance(row.psnr_db, Absent) else words.decibels(row.psnr_db),
        NOTHING if isinstance(row.live, Absent) else f"{row.live.completed}, {row.live.failed} failed",
    )


def _stage_lines(row: StageRow, counted: str) -> list[tuple[str, str]]:
    if row.note and not row.requests:
        return [(row.stage, f"{row.outcome.value}: {row.note}")]
    _, latency, failed, psnr, live = _measured(row)
    found = [(row.stage, f"{row.outcome.value}, {row.requests} {counted}" if row.requests else row.outcome.value)]
    if not isinstance(row.p50, Absent):
        found.append(("", f"median {_ratio(row.p50)}"))
    if not isinstance(row.tail, Absent):
        found.append(("", f"tail {_ratio(row.tail)}"))
    if row.requests:
        found.append(("", f"{latency}; failed {failed}; PSNR {psnr}; live {live}"))
    return found


def _ratio(one: Estimate | Absent) -> str:
    return NOTHING if isinstance(one, Absent) else words.interval(one.value, lower=one.lower, upper=one.upper)


def _latency(value: float | Absent) -> str:
    return NOTHING if isinstance(value, Absent) else words.milliseconds(value)


def _course(summary: Summary) -> list[tuple[str, str]]:
    spent = [f"{one.phase.value} {words.seconds(one.seconds)}" for one in summary.timeline if one.seconds]
    found = [("took", f"{words.seconds(summary.seconds)}: {', '.join(spent)}" if spent else words.seconds(0.0))]
    moves = [f"{one.stage} blue {one.blue} green {one.green}" for one in summary.weights]
    if moves:
        found.append(("traffic", "; ".join(moves)))
    outside = [f"{words.milliseconds(one.median_s)} ({one.role})" for one in summary.overhead]
    if outside:
        found.append(("outside", f"the servers, median of a request: {', '.join(outside)}"))
    if summary.unsettled:
        found.append(("pending", f"{summary.unsettled} was begun and is not known to be done"))
    return found + _said(summary)


def _said(summary: Summary) -> list[tuple[str, str]]:
    return [
        ("said", f"{one.command} by {one.by} at {words.date(one.at)}{': ' if one.reason else ''}{one.reason}")
        for one in summary.commands
    ]


def _slot(row: SlotRow) -> tuple[str, ...]:
    release = row.release.reason if isinstance(row.release, Absent) else row.release
    restarts = f"restarted {row.restarts} times; " if row.restarts else ""
    live = (
        NOTHING
        if isinstance(row.live, Absent)
        else f"{row.live.completed}, {row.live.failed} failed, {row.live.active} active"
    )
    ready = f"{row.ready} of {row.instances}" if row.instances else NOTHING
    return (row.slot.value, release, ready, live, f"{restarts}{row.detail}" or NOTHING)
