"""What a controller has seen with its own eyes since it began. It is not in the journal, and a restart forgets it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from rollout.model.inventory import Absent, SlotState
from rollout.model.roles import Slot

WATCHED_S = 5.0
"""What happened between two looks no further apart is known to that many seconds: a fraction of any start that a
policy would forbid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """The looks so far.

    Attributes:
        began: When the first look was; None before it.
        at: When the newest look was; None before the first.
        unready_since: Slot to the first of the looks in a row that did not find it ready.
        ready: Uids of the instances that the newest look found ready.
        became_ready: Uid to the look that first found it ready, where that was watched.
    """

    began: float | None = None
    at: float | None = None
    unready_since: Mapping[Slot, float] = field(default_factory=dict)
    ready: frozenset[str] = frozenset()
    became_ready: Mapping[str, float] = field(default_factory=dict)


def looked(
    before: Sight, slots: Mapping[Slot, SlotState | Absent], *, deployed_at: Mapping[Slot, float], now: float
) -> Sight:
    """Return what is known after one more look.

    Args:
        before: What was known until now.
        slots: What this look found.
        deployed_at: When each slot was deployed in this run, as far as it was.
        now: When this look was.
    """
    unready = {slot: before.unready_since.get(slot, now) for slot, state in slots.items() if not _is_ready(state)}
    ready: set[str] = set()
    became = {}
    for slot, state in slots.items():
        if isinstance(state, Absent):
            continue
        last_known = max(before.at or 0.0, deployed_at.get(slot, 0.0))
        for one in state.instances:
            if not one.ready:
                continue
            ready.add(one.uid)
            if one.uid in before.became_ready:
                became[one.uid] = before.became_ready[one.uid]
            elif one.uid not in before.ready and now - last_known <= WATCHED_S:
                became[one.uid] = now
    return Sight(
        began=now if before.began is None else before.began,
        at=now,
        unready_since=MappingProxyType(unready),
        ready=frozenset(ready),
        became_ready=MappingProxyType(became),
    )


def _is_ready(state: SlotState | Absent) -> bool:
    return isinstance(state, SlotState) and state.ready
