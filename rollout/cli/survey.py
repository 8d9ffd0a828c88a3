"""Looking at a stack without touching it: what `rollout status` and `rollout history` show."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollout.cli.render import HistoryRow, SlotRow, Status, history_row
from rollout.cli.wiring import build_lease, build_platform, build_router
from rollout.control.standing import Standing, left_over, standing
from rollout.errors import UnavailableError
from rollout.evidence.journal import read_journal
from rollout.evidence.objects import ObjectStore
from rollout.evidence.runs import run_folder, run_ids
from rollout.files.load import LoadedStack
from rollout.flow.run import Run, fold
from rollout.model.inventory import Absent, RouterState, SlotState
from rollout.model.policy import CostModel, Policy
from rollout.model.release import Release
from rollout.model.roles import Role, Slot
from rollout.report.as_json import plain
from rollout.report.summary import Summary, summarise


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """One look at a stack.

    Attributes:
        standing: What should serve, as the newest settled run tells.
        slots: What the platform sees.
        router: What the router itself says.
        run: The run that is under way, folded and in summary.
    """

    stack: str
    standing: Standing | Absent
    slots: Mapping[Slot, SlotState | Absent]
    router: RouterState | Absent
    run: tuple[Run, Summary] | Absent
    now: float

    def status(self) -> Status:
        """Return the form that is printed."""
        known = self.standing
        until = known.standby_until if isinstance(known, Standing) else None
        hot = until is not None and until > self.now
        return Status(
            stack=self.stack,
            serving=known.serving if isinstance(known, Standing) else known,
            traffic=self.router.weights if isinstance(self.router, RouterState) else self.router,
            slots=tuple(self._row(slot) for slot in Slot),
            standby_s=until - self.now if until is not None and hot else Absent(reason="no standby is kept hot"),
            run=self.run if isinstance(self.run, Absent) else self.run[1],
        )

    def to_json(self) -> dict[str, Any]:
        """Return the machine-readable form."""
        known = self.standing
        serving = {"slot": known.serving.value, "release": known.release.name} if isinstance(known, Standing) else None
        return {
            "schema": "rollout.status/v1",
            "stack": self.stack,
            "serving": serving or plain(known),
            "slots": {slot.value: self._slot_json(slot) for slot in Slot},
            "router": plain(self.router),
            "run": plain(self.run) if isinstance(self.run, Absent) else _run_json(*self.run),
        }

    def _row(self, slot: Slot) -> SlotRow:
        state = self.slots[slot]
        name = self._release_name(slot)
        live = self.router.counters.get(slot) if isinstance(self.router, RouterState) else None
        counted = live if live is not None else Absent(reason="the router does not count it")
        if isinstance(state, Absent):
            return SlotRow(slot=slot, release=state, instances=0, ready=0, restarts=0, detail="", live=counted)
        return SlotRow(
            slot=slot,
            release=name,
            instances=len(state.instances),
            ready=sum(one.alive and one.ready for one in state.instances),
            restarts=sum(one.restarts for one in state.instances),
            detail="; ".join(one.detail for one in state.instances if one.detail),
            live=counted,
        )

    def _release_name(self, slot: Slot) -> str | Absent:
        state, known = self.slots[slot], self.standing
        if isinstance(state, SlotState) and isinstance(known, Standing):
            candidates = [one for one in (known.release, known.other) if isinstance(one, Release)]
            for one in candidates:
                if one.digest == state.release_digest:
                    return one.name
        return Absent(reason="not a release of the last settled run")

    def _slot_json(self, slot: Slot) -> dict[str, Any]:
        state = self.slots[slot]
        if isinstance(state, Absent):
            return {"absent": state.reason, "ready": False, "instances": []}
        instances = [plain(one) | {"address": str(one.address)} for one in state.instances]
        return {"release_digest": state.release_digest, "ready": state.ready, "instances": instances}


def survey(stack: LoadedStack, policy: Policy) -> Survey:
    """Look at a stack; nothing is written.

    Raises:
        EvidenceError: A journal is damaged.
        UnavailableError: The platform does not answer.
    """
    lease = build_lease(stack, policy)
    left = left_over(stack.state)
    try:
        router: RouterState | Absent = build_router(stack, lease).read()
    except UnavailableError as error:
        router = Absent(reason=str(error))
    under_way = left is not None and not left.terminal
    return Survey(
        stack=stack.stack.name,
        standing=standing(stack.state),
        slots=build_platform(stack, lease).observe(),
        router=router,
        run=_told(stack.state, left) if left is not None and under_way else Absent(reason="no run is under way"),
        now=time.time(),
    )


def past_runs(state: Path, *, limit: int) -> tuple[HistoryRow, ...]:
    """Return the newest runs, newest first.

    Raises:
        EvidenceError: A journal is damaged.
    """
    return tuple(history_row(_summary(state, run_id)[1]) for run_id in run_ids(state)[:limit])


def _told(state: Path, run: Run) -> tuple[Run, Summary]:
    return _summary(state, run.request.run_id)


def _summary(state: Path, run_id: str) -> tuple[Run, Summary]:
    folder = run_folder(state, run_id)
    records = read_journal(folder.journal, tolerate_torn=True)
    run = fold(records)
    objects = ObjectStore(folder.objects)
    digests = {Role.CANDIDATE: run.request.release, Role.INCUMBENT: run.request.incumbent_release}
    names = {role: str(objects.get_json(digest)["name"]) for role, digest in digests.items() if digest is not None}
    price = objects.get_json(run.request.policy).get("cost")
    cost = None if price is None else CostModel.model_validate(price)
    return run, summarise(run, records, names=names, cost=cost)


def _run_json(run: Run, summary: Summary) -> dict[str, Any]:
    verdicts = {stage: one.verdict.outcome.value for stage, one in run.verdicts.items()}
    told: dict[str, Any] = plain(summary)
    return told | {"paused": run.paused, "verdicts": verdicts}
