"""Watching a run: plain lines for a pipe, a live view for a terminal.

Whoever watches has no say: a closed pipe or a terminal that hung up silences the listener and leaves the rollout
alone. Nothing is drawn while a request is being measured: there is no drawing thread that could slow the client.
"""

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from rollout.flow.run import DRIFT, Run
from rollout.gates.names import LATENCY
from rollout.model.inventory import Absent
from rollout.model.journal import PairMeasured, Record, SampleMeasured
from rollout.model.policy import Policy
from rollout.model.roles import Weights
from rollout.model.verdict import GateResult, Reason
from rollout.report import words
from rollout.report.figures import Estimate, estimate, gate_of
from rollout.report.story import (
    Line,
    Tone,
    budget_of,
    is_told,
    same_wait,
    stage_of,
    standing_evidence,
    tell,
    tell_measured,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.text import Text

REDRAW_S = 0.5
"""While the loop waits it looks ten times a second; a person needs no more than this."""

LABEL_COLUMNS = 10
FULL_COLUMNS = 72
"""From here on a line has room for a gauge and for the numbers behind it."""

GAUGE_COLUMNS_MAX = 48
GAUGE_COLUMNS_MIN = 8
BAR_COLUMNS_MAX = 24
BESIDE_BAR_COLUMNS = 19
"""Room for ` blue 90 green 10` and for ` 120/200 (shift-10)`."""

AXIS_MARGINS = 3.0
"""A gauge reaches this many times the margin to either side, on a log scale: the margin stands at two thirds."""

STYLES = {
    Tone.PLAIN: "",
    Tone.GOOD: "green",
    Tone.BAD: "bold red",
    Tone.WARNING: "yellow",
    Tone.QUIET: "dim",
}


class PlainListener:
    """Writes one line for each thing worth knowing.

    Args:
        write: Takes a line without its end.
        policy: Tells how many measurements there will be at most; None where it is not at hand.
        now: Unix time in seconds, for waits; records bring their own.
    """

    def __init__(
        self, write: Callable[[str], object], *, policy: Policy | None = None, now: Callable[[], float] = time.time
    ) -> None:
        self._write = write
        self._policy = policy
        self._now = now
        self._waited: Reason | None = None
        self._gone = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def recorded(self, record: Record, run: Run) -> None:
        """Tell a record, and each measurement that is worth a line."""
        self._waited = None
        for line in (*tell(record, run), *measured_lines(record, run, self._policy)):
            self._say(record.at, line.text)

    def waiting(self, reason: Reason) -> None:
        """Tell what is waited for, once."""
        if not same_wait(reason, self._waited):
            self._say(self._now(), f"waiting ({reason.code}): {words.printable(reason.text)}")
        self._waited = reason

    def close(self) -> None:
        """Do nothing: a line that is written needs no end."""

    def _say(self, at: float, text: str) -> None:
        if self._gone:
            return
        line = f"{words.clock(at)} {text}"
        try:
            self._write(line)
        except UnicodeEncodeError:
            self._write(line.encode("ascii", "backslashreplace").decode("ascii"))
        except OSError:
            self._gone = True


class TerminalListener:
    """Shows where a run stands in the last lines of a terminal, with what happened above them.

    Where the console is no terminal, or one without a cursor (TERM=dumb), it writes plain lines instead.

    Args:
        console: Where to draw; it knows the width, the colours and NO_COLOR.
        policy: Tells how many measurements there will be at most; None where it is not at hand.
        now: Unix time in seconds.
    """

    def __init__(
        self, console: "Console", *, policy: Policy | None = None, now: Callable[[], float] = time.time
    ) -> None:
        self._console = console
        self._policy = policy
        self._now = now
        self._draws = console.is_terminal and not console.is_dumb_terminal
        self._live: Live | None = None
        self._run: Run | None = None
        self._waited: Reason | None = None
        self._drawn_at = -math.inf
        self._gone = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def recorded(self, record: Record, run: Run) -> None:
        """Tell what happened, and draw where the run stands now."""
        self._run, self._waited = run, None
        lines = tell(record, run) if self._draws else (*tell(record, run), *measured_lines(record, run, self._policy))
        self._show([self._line(record.at, one) for one in lines])

    def waiting(self, reason: Reason) -> None:
        """Show what is waited for."""
        known, self._waited = self._waited, reason
        if not self._draws:
            if not same_wait(reason, known):
                text = f"waiting ({reason.code}): {words.printable(reason.text)}"
                self._show([self._line(self._now(), Line(text=text, tone=Tone.QUIET))])
        elif not same_wait(reason, known) or abs(self._now() - self._drawn_at) >= REDRAW_S:
            self._show([])

    def close(self) -> None:
        """Take the live view away and give the cursor back; a later record would begin a new one."""
        live, self._live = self._live, None
        if live is not None:
            self._guarded(live.stop)

    def _show(self, lines: "list[Text]") -> None:
        if self._gone:
            return
        self._guarded(lambda: self._draw(lines))

    def _draw(self, lines: "list[Text]") -> None:
        from rich.live import Live

        if self._draws and self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, transient=True, get_renderable=self._frame)
            self._live.start()
        for line in lines:
            self._console.print(line, soft_wrap=not self._draws)
        if self._live is not None:
            self._live.refresh()
            self._drawn_at = self._now()

    def _guarded(self, action: Callable[[], object]) -> None:
        try:
            action()
        except (OSError, SystemExit):  # rich turns a broken pipe into SystemExit; a rollout must not end by it
            self._gone = True

    def _line(self, at: float, line: Line) -> "Text":
        from rich.text import Text

        text = Text(f"{words.clock(at)} ", style="dim")
        text.append(encodable(line.text, self._console.encoding), style=STYLES[line.tone] or "none")
        return text

    def _frame(self) -> "RenderableType":
        from rich.console import Group
        from rich.text import Text

        frame = Frame(
            run=self._run,
            policy=self._policy,
            waiting=self._waited,
            now=self._now(),
            columns=self._console.width,
            plain=not self._console.encoding.lower().startswith("utf"),
        )
        texts = [
            Text.assemble((f"{label:<{LABEL_COLUMNS}}", "dim"), (encodable(text, self._console.encoding), style))
            for label, text, style in frame.lines()
        ]
        for text in texts:
            text.truncate(self._console.width, overflow="crop")
            text.no_wrap = True
        return Group(*texts)


class Frame:
    """The lines of the live view, as label, text and style; pure.

    Args:
        plain: Draw with ASCII only.
    """

    def __init__(
        self,
        *,
        run: Run | None,
        policy: Policy | None,
        waiting: Reason | None,
        now: float,
        columns: int,
        plain: bool,
    ) -> None:
        self._run = run
        self._policy = policy
        self._waiting = waiting
        self._now = now
        self._columns = columns
        self._plain = plain

    def lines(self) -> list[tuple[str, str, str]]:
        """Return what is known now; a line without a value is left out."""
        found: list[tuple[str, str, str]] = []
        if self._run is not None:
            found += self._about(self._run)
        if self._waiting is not None:
            found.append(("waiting", f"{self._waiting.code}: {words.printable(self._waiting.text)}", "yellow"))
        return found

    def _about(self, run: Run) -> list[tuple[str, str, str]]:
        took = words.seconds(max(self._now - run.requested_at, 0.0))
        found = [(run.phase.value.replace("_", " "), f"{took}  {words.printable(run.request.run_id)}", "bold")]
        if run.paused:
            found.append(("paused", "`rollout resume` goes on", "yellow"))
        if run.shifted is not None:
            bar = weights_bar(run.shifted.weights, columns=self._bar_columns(), plain=self._plain)
            found.append(("traffic", bar, ""))
        stage = stage_of(run)
        if not stage:
            return found
        found.append((*self._counted(run, stage), ""))
        judged = run.judged.get(stage)
        gate = gate_of(judged, LATENCY) if judged else Absent(reason="no pair yet")
        return found if isinstance(gate, Absent) else found + self._measured(gate)

    def _counted(self, run: Run, stage: str) -> tuple[str, str]:
        label, done = ("requests", len(run.samples)) if stage == DRIFT else ("pairs", len(run.pairs.get(stage, ())))
        if self._policy is None:
            return label, f"{done} ({stage})"
        budget = max(budget_of(self._policy, run, stage), 1)
        bar = _bar(done / budget, columns=self._bar_columns(), plain=self._plain)
        return label, f"{bar} {done}/{budget} ({stage})"

    def _measured(self, gate: GateResult) -> list[tuple[str, str, str]]:
        found = []
        for label, name in (("median", "p50_ratio"), ("tail", "tail_ratio")):
            one = estimate(gate.figures, name)
            if isinstance(one, Estimate):
                found.append((label, self._gauged(one), _style_of(one)))
        told = [
            f"{name} {words.evidence(value)}/{words.evidence(needed)}"
            for name, value, needed in standing_evidence(gate.figures)
        ]
        return [*found, ("evidence", ", ".join(told), "")] if told else found

    def _gauged(self, one: Estimate) -> str:
        if self._columns < FULL_COLUMNS:
            told = words.ratio(one.value)
        else:
            allowed = "" if isinstance(one.allowed, Absent) else f", allowed {words.ratio(one.allowed)}"
            told = words.interval(one.value, lower=one.lower, upper=one.upper) + allowed
        room = self._columns - LABEL_COLUMNS - len(told) - 1
        if room < GAUGE_COLUMNS_MIN:
            return told
        return f"{gauge(one, columns=min(room, GAUGE_COLUMNS_MAX), plain=self._plain)} {told}"

    def _bar_columns(self) -> int:
        return max(min(self._columns - LABEL_COLUMNS - BESIDE_BAR_COLUMNS, BAR_COLUMNS_MAX), 1)


def gauge(one: Estimate, *, columns: int, plain: bool) -> str:
    """Draw an interval on a log axis with parity in the middle and the margin at two thirds.

    Args:
        one: The estimate; where no margin above 1 is known the axis reaches from one eighth to eight.
        columns: Width of the drawing, at least 1.
        plain: Draw with ASCII only.
    """
    blank, bar, point, margin, left, right = ".=o|<>" if plain else "\u00b7\u2501\u25cf\u2503\u25c0\u25b6"
    known = not isinstance(one.allowed, Absent) and 1.0 < one.allowed < math.inf
    allowed = one.allowed if known and not isinstance(one.allowed, Absent) else 2.0
    reach = AXIS_MARGINS * math.log(allowed)

    def place(ratio: float) -> int:
        log = -math.inf if ratio <= 0.0 else math.log(ratio)
        return round((max(min(log / reach, 1.0), -1.0) + 1.0) / 2.0 * (columns - 1))

    first, last = place(one.lower), place(one.upper)
    cells = [bar if first <= column <= last else blank for column in range(columns)]
    if one.lower < math.exp(-reach):
        cells[0] = left
    if one.upper > math.exp(reach):
        cells[-1] = right
    if known:
        cells[place(allowed)] = margin
    cells[place(one.value)] = point
    return "".join(cells)


def weights_bar(weights: Weights, *, columns: int, plain: bool) -> str:
    """Draw the shares of both slots; the letters, not the colours, tell which is which."""
    full, light = "#-" if plain else "\u2588\u2591"
    blue = round(weights.blue / 100 * columns)
    return f"{full * blue}{light * (columns - blue)} blue {weights.blue} green {weights.green}"


def measured_lines(record: Record, run: Run, policy: Policy | None) -> tuple[Line, ...]:
    """Return the line of a measurement, if it is one that is told."""
    body = record.body
    if not isinstance(body, PairMeasured | SampleMeasured) or not is_told(body):
        return ()
    of = "" if policy is None else f"/{budget_of(policy, run, _stage(body))}"
    return (tell_measured(body, of=of),)


def encodable(text: str, encoding: str) -> str:
    """Return the text with what an encoding does not have written as escapes."""
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _stage(body: PairMeasured | SampleMeasured) -> str:
    return body.pair.stage if isinstance(body, PairMeasured) else DRIFT


def _bar(share: float, *, columns: int, plain: bool) -> str:
    full, light = "#-" if plain else "\u2588\u2591"
    done = round(min(max(share, 0.0), 1.0) * columns)
    return full * done + light * (columns - done)


def _style_of(one: Estimate) -> str:
    if isinstance(one.allowed, Absent):
        return ""
    if one.upper < one.allowed:
        return "green"
    return "red" if one.lower > one.allowed else ""
