"""The table of phases: where each event leads, and what can never be left or reached."""

import itertools

import pytest

from rollout.errors import InvariantError
from rollout.flow.table import TERMINAL, TRANSITIONS, follow
from rollout.model.journal import Event, Phase

ROAD = (Phase.HISTORY, Phase.DEPLOY, Phase.ADMIT, Phase.WARMUP, Phase.CANARY, Phase.SHIFT, Phase.SOAK)
TROUBLE = (Event.BREACHED, Event.UNDECIDED, Event.LOST, Event.ABORTED, Event.EXPIRED)


def reachable(start):
    found, fresh = {start}, [start]
    while fresh:
        phase = fresh.pop()
        onward = {after for (before, _), after in TRANSITIONS.items() if before is phase} - found
        found |= onward
        fresh += onward
    return found


def test_every_phase_can_be_reached_and_every_event_is_used():
    assert reachable(Phase.PREFLIGHT) == set(Phase)
    assert {event for _, event in TRANSITIONS} == set(Event)


def test_every_phase_leads_to_an_end():
    assert all(reachable(phase) & TERMINAL for phase in Phase)


@pytest.mark.parametrize("phase", TERMINAL)
def test_terminal_phase_is_never_left(phase):
    for event in Event:
        with pytest.raises(InvariantError):
            follow(phase, event)


@pytest.mark.parametrize(("phase", "event"), list(itertools.product(ROAD, TROUBLE)))
def test_trouble_on_the_road_leads_to_rollback(phase, event):
    assert follow(phase, event) is Phase.ROLLBACK


def test_rollback_leads_only_to_rolled_back_or_to_a_person():
    onward = {after for (before, _), after in TRANSITIONS.items() if before is Phase.ROLLBACK}
    assert onward == {Phase.ROLLED_BACK, Phase.ROLLBACK_INCOMPLETE}


def test_promotion_is_reached_only_from_traffic():
    before = {phase for (phase, _), after in TRANSITIONS.items() if after is Phase.PROMOTED}
    assert before == {Phase.SHIFT, Phase.SOAK}


def test_drift_check_changes_nothing():
    assert reachable(Phase.DRIFT) == {
        Phase.DRIFT,
        Phase.RECHECK,
        Phase.VERIFIED,
        Phase.DRIFTED,
        Phase.UNDECIDED,
    }


def test_what_is_not_in_the_table_is_a_bug():
    missing = set(itertools.product(Phase, Event)) - set(TRANSITIONS)
    for phase, event in missing:
        with pytest.raises(InvariantError, match=phase.value):
            follow(phase, event)
