"""Exit codes: the one place where an outcome becomes a number for a pipeline."""

from enum import IntEnum
from typing import assert_never

from rollout.errors import (
    ConfigError,
    ConflictError,
    EvidenceError,
    InvariantError,
    PlatformError,
    RolloutError,
)
from rollout.model.journal import Event, Phase
from rollout.model.verdict import Outcome


class Exit(IntEnum):
    """What a pipeline may rely on; docs/runbook has a page for each."""

    PASS = 0
    BUG = 1
    CONFIG = 2
    BREACH = 3
    INCONCLUSIVE = 4
    PLATFORM = 5
    CONFLICT = 6
    ROLLBACK_INCOMPLETE = 7
    REFUSED = 78
    """By an admission: sysexits' "configuration error", which a supervisor should not answer with a restart."""
    NOT_EXECUTABLE = 126
    """As a shell says of a command that cannot be run."""
    NOT_FOUND = 127


def exit_of_error(error: RolloutError) -> Exit:
    """Return the exit code of an error."""
    match error:
        case ConfigError():
            return Exit.CONFIG
        case ConflictError():
            return Exit.CONFLICT
        case PlatformError():
            return Exit.PLATFORM
        case EvidenceError():
            return Exit.INCONCLUSIVE
        case InvariantError() | _:
            return Exit.BUG


def exit_of_outcome(outcome: Outcome) -> Exit:
    """Return the exit code of a verdict that ends a command by itself."""
    match outcome:
        case Outcome.PASS:
            return Exit.PASS
        case Outcome.BREACH:
            return Exit.BREACH
        case Outcome.INCONCLUSIVE:
            return Exit.INCONCLUSIVE
        case _:
            assert_never(outcome)


def exit_of_run(phase: Phase, cause: Event | None, *, wanted_rollback: bool) -> Exit:
    """Return the exit code of a run that has ended.

    Args:
        phase: The terminal phase.
        cause: The event that took the run off the road to promotion; None where it stayed on it.
        wanted_rollback: True for `rollout rollback`, for which being rolled back is success.
    """
    match phase:
        case Phase.PROMOTED | Phase.VERIFIED | Phase.CALIBRATED:
            return Exit.PASS
        case Phase.DRIFTED:
            return Exit.BREACH
        case Phase.UNDECIDED:
            return Exit.PLATFORM if cause is Event.LOST else Exit.INCONCLUSIVE
        case Phase.ROLLBACK_INCOMPLETE:
            return Exit.ROLLBACK_INCOMPLETE
        case Phase.REFUSED:
            return Exit.INCONCLUSIVE if cause is Event.ABORTED else Exit.PLATFORM
        case Phase.ROLLED_BACK:
            return Exit.PASS if wanted_rollback else _exit_of_cause(cause)
        case (
            Phase.PREFLIGHT
            | Phase.HISTORY
            | Phase.DEPLOY
            | Phase.ADMIT
            | Phase.WARMUP
            | Phase.CANARY
            | Phase.LOAD
            | Phase.SHIFT
            | Phase.SOAK
            | Phase.DRIFT
            | Phase.RECHECK
            | Phase.ROLLBACK
        ):
            return Exit.BUG
        case _:
            assert_never(phase)


def _exit_of_cause(cause: Event | None) -> Exit:
    if cause is Event.BREACHED:
        return Exit.BREACH
    if cause is Event.LOST:
        return Exit.PLATFORM
    return Exit.INCONCLUSIVE
