"""The loop: replay, observe, plan, journal the intent, execute, read back, journal the outcome.

A crash between any two lines is a journal prefix, and any prefix can be resumed: `drive` starts by folding what is
there. Reads need no intent; changes of the world have one.
"""

from typing import assert_never

from rollout.control.execute import Execution, described
from rollout.control.last_resort import send_home
from rollout.control.world import Interrupted, World
from rollout.errors import (
    ConfigError,
    ConflictError,
    EvidenceError,
    InvariantError,
    PlatformError,
    UnavailableError,
)
from rollout.evidence.dossier import Dossier
from rollout.evidence.journal import Journal
from rollout.flow.invariants import check
from rollout.flow.planner import plan
from rollout.flow.run import DRIFT, RECHECK, Run, advance, fold
from rollout.flow.sight import Sight, looked
from rollout.flow.steps import CHANGES_WORLD, Act, Conclude, Enter, Finished, Step, Wait
from rollout.flow.table import follow
from rollout.flow.view import View
from rollout.gates.jury import Jury
from rollout.model.inventory import Absent, Inventory, RouterState
from rollout.model.journal import (
    Body,
    CommandKind,
    CommandReceived,
    HistoryStored,
    PhaseEntered,
    StepFailed,
    StepIntended,
    VerdictGiven,
)
from rollout.model.verdict import Reason

RETRY_S = 0.2
"""Pause after a step that failed, so that a part that is down is not hammered."""

ROUTER_READS = 3
ROUTER_RETRY_S = 0.05
"""One unanswered question is no lost router."""

LOOKS_MAX = 100
"""A platform that cannot be seen for this many looks in a row, some 20 s, is lost."""


class Loop:
    """Drives one run to a terminal phase."""

    def __init__(self, *, world: World, dossier: Dossier, journal: Journal) -> None:
        self._world = world
        self._dossier = dossier
        self._journal = journal
        self._run = fold(journal.records)
        self._jury: Jury | None = None
        self._blind = 0
        self._sight = Sight()

    def drive(self) -> Run:
        """Run until a terminal phase.

        Raises:
            ConflictError: The lease was lost; this controller changes nothing more.
            RolloutError: The run cannot go on (a journal that cannot be written even with its reserve, damaged
                evidence, a bug); traffic was sent to the incumbent, and the run is left unfinished.
        """
        try:
            while not self._run.terminal:
                self._turn()
        except ConflictError:
            raise
        except Exception as error:
            send_home(self._world, self._run, error)
            raise
        return self._run

    def _turn(self) -> None:
        self._renew()
        self._take_commands()
        try:
            view = self._look()
        except UnavailableError as error:
            self._blind += 1
            if self._blind >= LOOKS_MAX:
                raise
            self._world.listener.waiting(Reason(code="platform_unavailable", text=str(error)))
            self._rest(RETRY_S)
            return
        self._blind = 0
        decision = plan(view)
        match decision:
            case Wait():
                self._world.listener.waiting(decision.reason)
                self._rest(decision.seconds)
            case Enter():
                phase = follow(self._run.phase, decision.event)
                self._append(PhaseEntered(phase=phase, event=decision.event, reasons=decision.reasons))
            case Conclude():
                verdict = self._dossier.conclude(self._seated(), self._run, decision.stage)
                fingerprint = "" if decision.stage in {DRIFT, RECHECK} else self._run.fingerprint()
                self._append(VerdictGiven(verdict=verdict, fingerprint=fingerprint))
            case Act():
                self._act(view, decision.step)
            case Finished():
                raise InvariantError(f"the planner ended in {self._run.phase}, which is not terminal")
            case _:
                assert_never(decision)

    def _take_commands(self) -> None:
        try:
            said = self._world.inbox.pending()
        except EvidenceError as error:
            # A word that cannot be read may be an abort: the safe reading is taken.
            said = ()
            self._abort(by="an unreadable command", reason=str(error))
        for command in said:
            if all(command.id != known.id for known in self._run.commands):
                self._append(command)
            self._world.inbox.remove(command.id)
        if self._world.signals.received:
            self._abort(by=self._world.signals.received, reason="asked to end")
        if self._journal.strained:
            self._abort(by="the journal", reason="the disk is full; free some space and run it again")

    def _abort(self, *, by: str, reason: str) -> None:
        """Say `abort` in the name of what makes going on unsafe, unless somebody said it already."""
        if self._run.aborted is None:
            id_ = f"{self._run.request.run_id}-{len(self._run.commands)}"
            self._append(CommandReceived(id=id_, command=CommandKind.ABORT, by=by, reason=reason))

    def _renew(self) -> None:
        try:
            self._world.lease.renew()
        except UnavailableError as error:
            self._abort(by="the lease", reason=str(error))

    def _look(self) -> View:
        slots = self._world.platform.observe()
        now = self._world.clock.now()
        self._sight = looked(self._sight, slots, deployed_at=self._run.deployed_at, now=now)
        return View(
            policy=self._dossier.policy,
            prompts=self._dossier.prompts,
            run=self._run,
            inventory=Inventory(slots=slots, router=self._read_router()),
            sight=self._sight,
            now=now,
        )

    def _read_router(self) -> RouterState | Absent:
        router = self._world.router
        if router is None:
            return Absent(reason="this command has no router")
        for attempt in range(ROUTER_READS):
            try:
                return router.read()
            except UnavailableError as error:
                lost = Absent(reason=str(error))
                if attempt + 1 < ROUTER_READS:
                    self._rest(ROUTER_RETRY_S)
        return lost

    def _act(self, view: View, step: Step) -> None:
        if isinstance(step, CHANGES_WORLD):
            check(view, step)
            self._append(StepIntended(step=type(step).__name__, args=described(step)))
        try:
            body = Execution(world=self._world, dossier=self._dossier, view=view, jury=self._seated).take(step)
        except Interrupted:
            return
        except (ConfigError, EvidenceError, PlatformError, OSError) as error:
            self._append(StepFailed(step=type(step).__name__, error=type(error).__name__, message=str(error)))
            self._rest(RETRY_S)
            return
        self._append(body)

    def _append(self, body: Body) -> None:
        record = self._journal.append(body, at=self._world.clock.now())
        self._run = advance(self._run, record)
        if isinstance(body, HistoryStored) and self._jury is not None:
            self._jury.use_history(self._dossier.baseline(body.baseline).history)
        self._world.listener.recorded(record, self._run)

    def _seated(self) -> Jury:
        """Return the jury, seated when it is first needed: a rollback must not wait for evidence to be readable."""
        if self._jury is None:
            self._jury = self._dossier.seat_jury(self._run)
        return self._jury

    def _rest(self, seconds: float) -> None:
        try:
            with self._world.signals.interruptible():
                self._world.clock.sleep(seconds)
        except Interrupted:
            return
