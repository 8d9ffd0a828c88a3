"""The monitor's loop: when it goes on, when it ends, and with which exit code."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from rollout.cli.commands import monitor as module
from rollout.cli.exits import Exit
from rollout.control.world import Interrupted
from rollout.errors import ConflictError


class Watch:
    """Gives looks as they are scripted: "quiet", "alarm" or "skipped"; the last one for ever."""

    def __init__(self, *script):
        self.script = list(script)
        self.looks = 0

    def look(self):
        self.looks += 1
        what = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if what == "signal":
            raise Interrupted
        return SimpleNamespace(
            number=self.looks,
            requests=5 if what == "quiet" else 0,
            failed=0,
            p50_ratio=1.0 if what == "quiet" else None,
            note="",
            confirmed="r000001-verify" if what == "confirmed" else "",
            alarm="median" if what == "alarm" else "",
            evidence=1.0,
            evidence_needed=100.0,
        )


@pytest.fixture
def run(monkeypatch):
    """Run the loop; `answers` are the exit codes of the verify runs, or an error instead of one."""

    def go(watch, *answers, looks=3):
        left = list(answers)

        def verify(*_args, **_more):
            answer = left.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(module, "_verify", verify)
        monkeypatch.setattr(module, "_answer", lambda _watch, _look, ended, _output: ended)
        waits = []
        clock = SimpleNamespace(sleep=waits.append)
        world = SimpleNamespace(clock=clock, signals=SimpleNamespace(received="", interruptible=nullcontext))
        code = module._watch(watch, world, None, None, None, output="json", every_s=7.0, looks=looks)
        assert not left, "a run was not carried out"
        return code, watch.looks, waits

    return go


def test_quiet_looks_end_well_after_their_number_with_a_wait_between_them(run):
    assert run(Watch("quiet")) == (Exit.PASS, 3, [7.0, 7.0])


def test_looks_that_measured_nothing_are_no_pass(run):
    assert run(Watch("skipped"))[0] == Exit.INCONCLUSIVE


def test_cleared_alarm_lets_the_monitor_go_on(run):
    assert run(Watch("quiet", "alarm", "quiet"), Exit.PASS)[:2] == (Exit.PASS, 3)


def test_alarm_that_was_confirmed_before_ends_the_monitor_without_another_run(run):
    assert run(Watch("confirmed"), looks=None)[:2] == (Exit.BREACH, 1)


@pytest.mark.parametrize("code", [Exit.BREACH, Exit.INCONCLUSIVE, Exit.PLATFORM])
def test_any_other_end_of_the_run_is_the_end_of_the_monitor(run, code):
    assert run(Watch("quiet", "alarm", "quiet"), code, looks=None)[:2] == (code, 2)


def test_alarm_that_a_rollout_kept_from_being_verified_is_asked_again_and_never_a_pass(run):
    busy = ConflictError("a rollout is under way")
    assert run(Watch("alarm"), busy, busy, looks=2)[0] == Exit.CONFLICT
    assert run(Watch("alarm", "skipped"), busy, looks=2)[0] == Exit.CONFLICT
    assert run(Watch("alarm"), busy, Exit.BREACH, looks=None)[:2] == (Exit.BREACH, 2)


def test_signal_ends_the_monitor_with_what_is_known_until_then(run):
    assert run(Watch("quiet", "signal"), looks=None)[0] == Exit.PASS
    assert run(Watch("signal"), looks=None)[0] == Exit.INCONCLUSIVE
