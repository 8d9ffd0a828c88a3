"""The one table of phases.

Theory of operation: a run is in exactly one phase. The planner names an event; the table alone says which phase
follows. A pair that is not in the table is a bug. Everything that goes wrong between the first deployment and
promotion leads to ROLLBACK, and ROLLBACK leads only to ROLLED_BACK or to a person.
"""

from rollout.errors import InvariantError
from rollout.model.journal import Event, Phase

TERMINAL = frozenset(
    {
        Phase.PROMOTED,
        Phase.REFUSED,
        Phase.ROLLED_BACK,
        Phase.ROLLBACK_INCOMPLETE,
        Phase.VERIFIED,
        Phase.DRIFTED,
        Phase.UNDECIDED,
        Phase.CALIBRATED,
    }
)

_ROLLOUT = (
    Phase.HISTORY,
    Phase.DEPLOY,
    Phase.ADMIT,
    Phase.WARMUP,
    Phase.CANARY,
    Phase.LOAD,
    Phase.SHIFT,
    Phase.SOAK,
)
_TROUBLE = (Event.BREACHED, Event.UNDECIDED, Event.LOST, Event.ABORTED, Event.EXPIRED)

TRANSITIONS: dict[tuple[Phase, Event], Phase] = {
    (Phase.PREFLIGHT, Event.ACCEPTED): Phase.HISTORY,
    (Phase.PREFLIGHT, Event.FIRST): Phase.DEPLOY,
    (Phase.PREFLIGHT, Event.RESTORE): Phase.ROLLBACK,
    (Phase.PREFLIGHT, Event.CHECK): Phase.DRIFT,
    (Phase.PREFLIGHT, Event.REFUSED): Phase.REFUSED,
    (Phase.PREFLIGHT, Event.ABORTED): Phase.REFUSED,
    (Phase.PREFLIGHT, Event.EXPIRED): Phase.REFUSED,
    (Phase.HISTORY, Event.HISTORY_READY): Phase.DEPLOY,
    (Phase.HISTORY, Event.CALIBRATED): Phase.CALIBRATED,
    (Phase.DEPLOY, Event.READY): Phase.ADMIT,
    (Phase.ADMIT, Event.ADMITTED): Phase.WARMUP,
    (Phase.WARMUP, Event.WARM): Phase.CANARY,
    (Phase.WARMUP, Event.FIRST): Phase.SHIFT,
    (Phase.CANARY, Event.PROVEN): Phase.LOAD,
    (Phase.LOAD, Event.LOADED): Phase.SHIFT,
    (Phase.SHIFT, Event.SHIFTED): Phase.SOAK,
    (Phase.SHIFT, Event.FIRST): Phase.PROMOTED,
    (Phase.SOAK, Event.SOAKED): Phase.PROMOTED,
    **{(phase, event): Phase.ROLLBACK for phase in _ROLLOUT for event in _TROUBLE},
    (Phase.ROLLBACK, Event.RESTORED): Phase.ROLLED_BACK,
    (Phase.ROLLBACK, Event.STUCK): Phase.ROLLBACK_INCOMPLETE,
    (Phase.DRIFT, Event.CONFIRMED): Phase.VERIFIED,
    (Phase.DRIFT, Event.DRIFTED): Phase.DRIFTED,
    (Phase.DRIFT, Event.ALARMED): Phase.RECHECK,
    (Phase.DRIFT, Event.UNDECIDED): Phase.UNDECIDED,
    (Phase.DRIFT, Event.LOST): Phase.UNDECIDED,
    (Phase.DRIFT, Event.ABORTED): Phase.UNDECIDED,
    (Phase.DRIFT, Event.EXPIRED): Phase.UNDECIDED,
    # An alarm stands until a re-check clears it, also where the re-check could not be made.
    (Phase.RECHECK, Event.CLEARED): Phase.VERIFIED,
    (Phase.RECHECK, Event.DRIFTED): Phase.DRIFTED,
    (Phase.RECHECK, Event.UNDECIDED): Phase.DRIFTED,
    (Phase.RECHECK, Event.LOST): Phase.DRIFTED,
    (Phase.RECHECK, Event.EXPIRED): Phase.DRIFTED,
    (Phase.RECHECK, Event.ABORTED): Phase.UNDECIDED,
}


def follow(phase: Phase, event: Event) -> Phase:
    """Return the phase that an event leads to.

    Raises:
        InvariantError: The table has no such transition.
    """
    try:
        return TRANSITIONS[phase, event]
    except KeyError:
        raise InvariantError(f"phase {phase} knows no event {event}") from None
