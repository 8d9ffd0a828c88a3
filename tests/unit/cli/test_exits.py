"""Outcomes become the documented exit codes."""

import pytest

from rollout.cli.exits import Exit, exit_of_error, exit_of_outcome, exit_of_run
from rollout.errors import (
    ConfigError,
    ConflictError,
    EvidenceError,
    InvariantError,
    RefusedError,
    UnavailableError,
)
from rollout.flow.table import TERMINAL
from rollout.model.journal import Event, Phase
from rollout.model.verdict import Outcome


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError, Exit.CONFIG),
        (ConflictError, Exit.CONFLICT),
        (EvidenceError, Exit.INCONCLUSIVE),
        (UnavailableError, Exit.PLATFORM),
        (RefusedError, Exit.PLATFORM),
        (InvariantError, Exit.BUG),
    ],
)
def test_each_error_has_its_exit_code(error, code):
    assert exit_of_error(error("x")) is code


@pytest.mark.parametrize(
    ("phase", "cause", "code"),
    [
        (Phase.PROMOTED, None, 0),
        (Phase.VERIFIED, None, 0),
        (Phase.CALIBRATED, None, 0),
        (Phase.DRIFTED, Event.DRIFTED, 3),
        (Phase.UNDECIDED, Event.UNDECIDED, 4),
        (Phase.UNDECIDED, Event.LOST, 5),
        (Phase.REFUSED, Event.REFUSED, 5),
        (Phase.REFUSED, Event.ABORTED, 4),
        (Phase.ROLLED_BACK, Event.BREACHED, 3),
        (Phase.ROLLED_BACK, Event.UNDECIDED, 4),
        (Phase.ROLLED_BACK, Event.ABORTED, 4),
        (Phase.ROLLED_BACK, Event.EXPIRED, 4),
        (Phase.ROLLED_BACK, Event.LOST, 5),
        (Phase.ROLLBACK_INCOMPLETE, Event.STUCK, 7),
    ],
)
def test_each_ending_has_its_exit_code(phase, cause, code):
    assert exit_of_run(phase, cause, wanted_rollback=False) == code


def test_no_ending_is_a_pass_by_default():
    passing = {phase for phase in TERMINAL if exit_of_run(phase, None, wanted_rollback=False) is Exit.PASS}
    assert passing == {Phase.PROMOTED, Phase.VERIFIED, Phase.CALIBRATED}


def test_rollback_that_was_asked_for_is_a_success():
    assert exit_of_run(Phase.ROLLED_BACK, Event.RESTORE, wanted_rollback=True) is Exit.PASS


def test_run_that_has_not_ended_is_a_bug():
    for phase in set(Phase) - TERMINAL:
        assert exit_of_run(phase, None, wanted_rollback=False) is Exit.BUG


def test_each_outcome_of_a_lone_verdict_has_its_exit_code():
    assert {one: int(exit_of_outcome(one)) for one in Outcome} == {
        Outcome.PASS: 0,
        Outcome.BREACH: 3,
        Outcome.INCONCLUSIVE: 4,
    }
