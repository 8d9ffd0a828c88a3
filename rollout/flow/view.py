"""What a decision rests on, and the words in which the planner answers."""

from dataclasses import dataclass

from rollout.flow.run import Run
from rollout.flow.sight import Sight
from rollout.flow.steps import (
    Enter,
    Step,
    Wait,
)
from rollout.model.evidence import LiveWindow
from rollout.model.inventory import Absent, Inventory, SlotState
from rollout.model.journal import Event
from rollout.model.policy import Policy
from rollout.model.prompts import PromptSet
from rollout.model.roles import Role
from rollout.model.verdict import Reason

POLL_S = 0.1
"""How soon a wait looks again: short against every start-up, long against the cost of a look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Everything that a decision rests on."""

    policy: Policy
    prompts: PromptSet
    run: Run
    inventory: Inventory
    sight: Sight
    now: float

    def slot(self, role: Role) -> SlotState | Absent:
        """Return what stands in a role's slot."""
        return self.inventory.slots[self.run.slot(role)]

    def ready(self, role: Role) -> bool:
        """Return whether all that stands in a role's slot is ready, and something does."""
        state = self.slot(role)
        return isinstance(state, SlotState) and state.ready

    def unready_s(self, role: Role) -> float:
        """Return for how long this controller has not found a role ready; 0 where it is."""
        return self.now - self.sight.unready_since.get(self.run.slot(role), self.now)

    def cold_start_s(self, uid: str) -> float | None:
        """Return how long an instance in the candidate's slot took to become ready; None where nobody watched."""
        deployed_at = self.run.deployed_at.get(self.run.request.candidate)
        ready_at = self.sight.became_ready.get(uid)
        return None if deployed_at is None or ready_at is None else max(ready_at - deployed_at, 0.0)

    def elapsed(self) -> float:
        """Return the seconds since the phase was entered."""
        return self.now - self.run.entered_at


def unknown(view: View, *kinds: type[Step]) -> bool:
    """True when a step of such a kind was intended and nobody knows how far it came; repeating it finds out."""
    pending = view.run.pending
    return pending is not None and pending.step in {one.__name__ for one in kinds}


def live_window(view: View) -> LiveWindow:
    """Return the candidate's live requests since the last change of traffic."""
    router, shifted = view.inventory.router, view.run.shifted
    candidate = view.run.request.candidate
    if isinstance(router, Absent) or shifted is None or router.epoch != shifted.epoch:
        return LiveWindow(completed=0, failed=0)
    then, now = shifted.counters.get(candidate), router.counters.get(candidate)
    if then is None or now is None:
        return LiveWindow(completed=0, failed=0)
    failed = max(now.failed - then.failed, 0)
    # The router counts both in turn, so that a look in between may see the failure only.
    return LiveWindow(completed=max(now.completed - then.completed, failed), failed=failed)


def detail_of(state: SlotState | Absent) -> str:
    """Say why a slot is not what it should be."""
    if isinstance(state, Absent):
        return state.reason
    return "; ".join(one.detail for one in state.instances if one.detail) or "no detail"


def enter(event: Event, code: str, text: str) -> Enter:
    """Leave the phase for one reason."""
    return Enter(event=event, reasons=(Reason(code=code, text=text),))


def wait(code: str, text: str, seconds: float = POLL_S) -> Wait:
    """Look again soon."""
    return Wait(reason=Reason(code=code, text=text), seconds=seconds)
