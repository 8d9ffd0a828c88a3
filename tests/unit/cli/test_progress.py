import errno
import io
import re
import time

import pytest
from rich.console import Console

from rollout.cli.progress import Frame, PlainListener, TerminalListener, encodable, gauge, weights_bar
from rollout.flow.run import CANARY
from rollout.model.evidence import SampleStatus
from rollout.model.inventory import Absent
from rollout.model.journal import CommandKind, Event, Phase, RunKind, StepFailed
from rollout.model.roles import Weights
from rollout.model.verdict import Reason
from rollout.report.figures import Estimate

DIGEST = f"sha256:{5:064x}"
SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


@pytest.fixture(autouse=True)
def _utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def policy(new_book):
    return new_book().policy


class Watch:
    """A clock that is set by hand."""

    def __init__(self):
        self.at = 1_767_323_045.0

    def __call__(self):
        return self.at


def terminal(*, columns=80, term="xterm-256color", encoding="utf-8", **environ):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    console = Console(file=file, width=columns, height=24, force_terminal=True, _environ={"TERM": term, **environ})
    return console, lambda: file.buffer.getvalue().decode(encoding)


def watched(listener, book):
    for record, run in book.steps():
        listener.recorded(record, run)


def plain_lines(book, **options):
    lines = []
    watched(PlainListener(lines.append, **options), book)
    return lines


def canary_begun(new_book):
    book = new_book().request(RunKind.PROMOTE, baseline=DIGEST).enter(Phase.HISTORY, Event.ACCEPTED)
    book.enter(Phase.DEPLOY, Event.HISTORY_READY).enter(Phase.ADMIT, Event.READY).enter(Phase.WARMUP, Event.ADMITTED)
    return book.enter(Phase.CANARY, Event.WARM)


# Plain lines.


def test_every_line_begins_with_the_time(every_story):
    for line in plain_lines(every_story):
        assert re.fullmatch(r"\d\d:\d\d:\d\d \S.*", line)


def test_pairs_are_told_densely_first_and_then_in_tens(story, policy):
    told = [line for line in plain_lines(story("promotion"), policy=policy) if " canary pair " in line]
    numbers = [int(re.search(r"pair (\d+)/200", line)[1]) for line in told]
    assert numbers == [1, 2, 3, 5, 8, 10, 20, 30, 40, 50, 54]


def test_pair_is_told_with_ratio_interval_margin_and_evidence(story, policy):
    lines = plain_lines(story("latency_rollback"), policy=policy)
    assert [line for line in lines if " canary pair " in line][-1] == (
        "03:04:18 canary pair 3/200: x1.39; median x1.39 [0, inf] of x1.15 allowed; "
        "evidence against 116 of 100, for 1 of 100"
    )


def test_proof_is_not_asked_for_again_after_the_canary(story):
    later = [line for line in plain_lines(story("promotion")) if " shift-10 pair " in line]
    assert later
    assert not [line for line in later if "for 1" in line]


def test_failed_request_is_told_at_once_with_its_detail(new_book):
    book = canary_begun(new_book)
    for _ in range(6):
        book.pair(CANARY, 1.0)
    book.pair(CANARY, 1.0, status=SampleStatus.TIMEOUT, wall_s=20.0, detail="no [red]answer[/red]\n\x1b[2J")
    assert plain_lines(book)[-1].endswith(
        "canary pair 7 (prompt p-0): candidate timeout after 20000 ms: no [red]answer[/red] \\x1b[2J"
    )


def test_traffic_is_told_as_the_router_reported_it(story):
    assert "03:05:31 traffic read back: blue 90 %, green 10 % (shift-10)" in plain_lines(story("promotion"))


def test_reasons_of_a_verdict_are_told_once(story):
    told = [line for line in plain_lines(story("latency_rollback")) if "latency_over_margin" in line]
    assert len(told) == 1


def test_wait_is_told_when_its_reason_changes_and_not_when_it_counts_down():
    lines, watch = [], Watch()
    listener = PlainListener(lines.append, now=watch)
    for left in (9, 8, 7):
        listener.waiting(Reason(code="dwell", text=f"shift-10: {left} s left"))
    listener.waiting(Reason(code="not_ready", text="waiting until the candidate is ready: loading"))
    listener.waiting(Reason(code="not_ready", text="waiting until the candidate is ready: warming"))
    assert [line[9:] for line in lines] == [
        "waiting (dwell): shift-10: 9 s left",
        "waiting (not_ready): waiting until the candidate is ready: loading",
        "waiting (not_ready): waiting until the candidate is ready: warming",
    ]


def test_same_wait_is_told_again_after_something_happened(story):
    lines = []
    listener = PlainListener(lines.append)
    record, run = story("promotion").steps()[-1]
    for _ in range(2):
        listener.waiting(Reason(code="dwell", text="shift-10: 1 s left"))
        listener.recorded(record, run)
    assert len([line for line in lines if "waiting" in line]) == 2


def test_closed_pipe_does_not_end_the_rollout(story):
    written = []

    def write(line):
        written.append(line)
        raise BrokenPipeError(errno.EPIPE, "nobody reads")

    listener = PlainListener(write)
    watched(listener, story("promotion"))
    listener.waiting(Reason(code="dwell", text="1 s left"))
    assert len(written) == 1


def test_text_that_the_pipe_cannot_encode_is_written_in_escapes(new_book):
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    book = new_book().request(RunKind.PROMOTE).say(CommandKind.PAUSE, "für später")
    watched(PlainListener(lambda line: file.write(line + "\n")), book)
    assert b"pause said by bob@host: f\\xfcr sp\\xe4ter" in file.buffer.getvalue()


# The live view.


@pytest.mark.parametrize("columns", [1, 2, 7, 12, 20, 40, 80, 120, 200])
def test_live_view_draws_at_every_width(every_story, policy, columns):
    console, drawn = terminal(columns=columns)
    with TerminalListener(console, policy=policy) as listener:
        listener.waiting(Reason(code="not_ready", text="[red]waiting[/red] " + "x" * 300))
        watched(listener, every_story)
        listener.waiting(Reason(code="dwell", text="shift-10: 3 s left"))
    assert drawn()


@pytest.mark.parametrize("columns", [40, 80, 120, 200])
def test_no_line_of_the_frame_is_wider_than_the_terminal_and_all_numbers_fit(story, policy, columns):
    for record, run in story("promotion").steps():
        frame = Frame(run=run, policy=policy, waiting=None, now=record.at, columns=columns, plain=False)
        for label, text, _ in frame.lines():
            assert len(f"{label:<10}{text}") <= columns


def test_live_view_takes_itself_away_and_gives_the_cursor_back(story, policy):
    console, drawn = terminal()
    listener = TerminalListener(console, policy=policy)
    watched(listener, story("promotion"))
    assert drawn().rfind(HIDE_CURSOR) > drawn().rfind(SHOW_CURSOR)
    listener.close()
    listener.close()
    assert drawn().rfind(SHOW_CURSOR) > drawn().rfind(HIDE_CURSOR)
    assert shown_on_screen(drawn())[-1].endswith("PROMOTED (soaked)")


def test_cursor_comes_back_when_the_program_is_interrupted(story, policy):
    console, drawn = terminal()

    def interrupted():
        with TerminalListener(console, policy=policy) as listener:
            watched(listener, story("unfinished"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert drawn().rfind(SHOW_CURSOR) > drawn().rfind(HIDE_CURSOR)


def test_listener_can_be_used_again_after_it_was_closed(story, policy):
    console, drawn = terminal()
    listener = TerminalListener(console, policy=policy)
    for _ in range(2):
        with listener:
            watched(listener, story("refused"))
    assert drawn().count("REFUSED") == 2


def test_live_view_shows_phase_pairs_interval_and_evidence(story, policy):
    console, drawn = terminal(columns=100)
    listener = TerminalListener(console, policy=policy, now=lambda: 1_767_323_105.0)
    watched(listener, story("unfinished"))
    screen = "\n".join(shown_on_screen(drawn()))
    assert re.search(r"canary +60 s  r000003-sdxl-8", screen)
    assert re.search(r"pairs .* 5/200 \(canary\)", screen)
    assert re.search(r"median .*x\S+ \[\S+, \S+\], allowed x1.15", screen)
    assert "evidence  against" in screen
    listener.close()


def test_routine_pairs_do_not_scroll_the_terminal(story, policy):
    console, drawn = terminal()
    with TerminalListener(console, policy=policy) as listener:
        watched(listener, story("promotion"))
    assert not [line for line in shown_on_screen(drawn()) if " canary pair " in line]


def test_markup_and_escapes_in_reasons_are_shown_and_not_obeyed(story, policy, markup):
    console, drawn = terminal(columns=120)
    with TerminalListener(console, policy=policy) as listener:
        listener.waiting(Reason(code="not_ready", text=markup))
        watched(listener, story("abort"))
    assert "[red]no[/red]" in drawn()
    assert "\\x1b[31m" in drawn()


def test_waits_are_redrawn_no_more_often_than_a_person_can_see(policy):
    console, drawn = terminal()
    watch = Watch()
    listener = TerminalListener(console, policy=policy, now=watch)
    listener.waiting(Reason(code="dwell", text="9 s left"))
    before = len(drawn())
    watch.at += 0.1
    listener.waiting(Reason(code="dwell", text="8 s left"))
    assert len(drawn()) == before
    watch.at += 0.5
    listener.waiting(Reason(code="dwell", text="7 s left"))
    assert len(drawn()) > before
    listener.close()


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_terminal_without_a_cursor_gets_plain_lines(story, policy, term):
    console, drawn = terminal(term=term)
    with TerminalListener(console, policy=policy) as listener:
        watched(listener, story("latency_rollback"))
        listener.waiting(Reason(code="dwell", text="9 s left"))
        listener.waiting(Reason(code="dwell", text="8 s left"))
    assert "\x1b[?" not in drawn()
    assert "\x1b[1A" not in drawn()
    lines = drawn().splitlines()
    assert [line for line in lines if "canary pair 3/200" in line]
    assert len([line for line in lines if "waiting" in line]) == 1


def test_no_color_is_respected(story, policy):
    console, drawn = terminal(NO_COLOR="1")
    with TerminalListener(console, policy=policy) as listener:
        watched(listener, story("latency_rollback"))
    colours = re.findall(r"\x1b\[[\d;]*m", drawn())
    assert not [one for one in colours if re.search(r"\b(3[0-7]|9[0-7]|38|4[0-7])\b", one)]


def test_terminal_of_another_encoding_gets_ascii(new_book, story, policy):
    console, drawn = terminal(encoding="ascii")
    book = new_book()
    book.records = list(story("unfinished").records)
    book.say(CommandKind.PAUSE, "für später")
    with TerminalListener(console, policy=policy) as listener:
        watched(listener, book)
        listener.waiting(Reason(code="paused", text="paused für später"))
    assert "f\\xfcr" in drawn()


class Hung(io.StringIO):
    """A terminal whose other end has gone."""

    gone = False

    def write(self, text):
        if self.gone:
            raise OSError(errno.EIO, "hung up")
        return super().write(text)


def test_terminal_that_hung_up_does_not_end_the_rollout(story, policy):
    file = Hung()
    console = Console(file=file, force_terminal=True, width=80, _environ={"TERM": "xterm"})
    with TerminalListener(console, policy=policy) as listener:
        for number, (record, run) in enumerate(story("promotion").steps()):
            file.gone = number > 20
            listener.recorded(record, run)
            listener.waiting(Reason(code="dwell", text="9 s left"))


def test_step_that_failed_is_told(new_book):
    book = new_book().request(RunKind.PROMOTE)
    book.add(StepFailed(step="Deploy", error="UnavailableError", message="no port is free"))
    assert plain_lines(book)[-1] == "03:04:06 Deploy failed (UnavailableError): no port is free"


# Gauges.


def estimate(value, lower, upper, allowed=1.15):
    return Estimate(value=value, lower=lower, upper=upper, allowed=allowed)


def test_gauge_narrows_as_the_interval_does():
    wide = gauge(estimate(1.0, 0.0, float("inf")), columns=31, plain=True)
    narrow = gauge(estimate(1.0, 0.95, 1.05), columns=31, plain=True)
    assert wide == "<==============o====|=========>"
    assert narrow == ".............==o==..|.........."


def test_gauge_shows_an_interval_beyond_the_margin_on_the_far_side():
    drawn = gauge(estimate(1.42, 1.29, 1.55), columns=31, plain=True)
    assert drawn == "....................|...====o=>"


@pytest.mark.parametrize("columns", [1, 2, 3, 48])
@pytest.mark.parametrize(
    "one",
    [
        estimate(0.0, 0.0, 0.0),
        estimate(float("inf"), 1.2, float("inf")),
        estimate(1.0, 0.9, 1.1, allowed=Absent(reason="none")),
        estimate(1.0, 0.9, 1.1, allowed=1.0),
        estimate(1.0, 0.9, 1.1, allowed=float("inf")),
    ],
)
def test_gauge_has_its_width_whatever_it_shows(one, columns):
    assert len(gauge(one, columns=columns, plain=False)) == columns


def test_weights_bar_tells_the_slots_apart_without_colour():
    assert weights_bar(Weights(blue=75, green=25), columns=8, plain=True) == "######-- blue 75 green 25"


def test_encodable_keeps_what_the_encoding_has():
    assert encodable("für ━", "latin-1") == "für \\u2501"


def shown_on_screen(output):
    """Play terminal output: new lines, carriage returns, cursor up and erase are obeyed, colours dropped."""
    lines, row, column = [""], 0, 0
    for piece in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|\n|\r|[^\x1b\r\n]+", output):
        if piece == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif piece == "\r":
            column = 0
        elif piece.startswith("\x1b"):
            if piece.endswith("A"):
                row = max(row - int(piece[2:-1] or 1), 0)
            elif piece == "\x1b[2K":
                lines[row] = ""
        else:
            kept = lines[row].ljust(column)
            lines[row] = kept[:column] + piece + kept[column + len(piece) :]
            column += len(piece)
    while lines and not lines[-1].strip():
        lines.pop()
    return [line.rstrip() for line in lines]
