"""One command from lease to sealed bundle."""

from dataclasses import dataclass
from pathlib import Path

from rollout.control.last_resort import send_home
from rollout.control.loop import Loop
from rollout.control.open_run import OpenRun, Wish, begin, resume, same_wish
from rollout.control.standing import left_over
from rollout.control.world import World
from rollout.errors import ConflictError, EvidenceError, PlatformError, RolloutError
from rollout.evidence.bundle import seal_bundle
from rollout.evidence.runs import run_folder
from rollout.flow.run import Run
from rollout.model.journal import CommandKind, CommandReceived, Record, RunKind
from rollout.model.verdict import Reason
from rollout.report.junit import junit_xml
from rollout.report.markdown import markdown
from rollout.report.summary import Summary, summarise


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A run that has come to its end, and where its evidence lies."""

    run: Run
    records: tuple[Record, ...]
    summary: Summary
    folder: Path
    resumed: bool


def carry_out(state: Path, wish: Wish, world: World) -> Ended:
    """Begin a run, or take it up where the same command left it, and drive it to its end.

    Raises:
        ConflictError: Another controller is at work, or another command left a run unfinished.
        RolloutError: See `begin` and `Loop.drive`.
    """
    # A generation that is spent fences off a controller that lives and is late.
    world.lease.check_free()
    _refuse_beside(state, left_over(state), wish)
    generation = world.lease.acquire()
    try:
        left = left_over(state)
        _refuse_beside(state, left, wish)
        if left is not None:
            if same_wish(state, left, wish):
                return _finish(state, _take_up(state, left, world), world)
            _clear(state, left, wish, world)
        return _finish(state, begin(state, wish, world, generation=generation), world)
    finally:
        world.lease.release()


def carry_on(state: Path, world: World) -> Ended | None:
    """Take up whatever run was left unfinished and drive it to its end; None where none was.

    Raises:
        ConflictError: Its controller is alive.
        RolloutError: See `Loop.drive`.
    """
    world.lease.acquire()
    try:
        left = left_over(state)
        if left is None:
            return None
        return _finish(state, _take_up(state, left, world), world)
    finally:
        world.lease.release()


def _take_up(state: Path, left: Run, world: World) -> OpenRun:
    """Take up a run; where its bundle is too damaged for that, at least send traffic home."""
    try:
        return resume(state, left, world)
    except EvidenceError as error:
        send_home(world, left, error)
        raise


def _refuse_beside(state: Path, left: Run | None, wish: Wish) -> None:
    """Refuse to begin beside an unfinished run of another command; only a drift check may be ended by whoever comes.

    Raises:
        ConflictError: There is one.
    """
    if left is None or left.terminal or left.request.kind is RunKind.VERIFY or same_wish(state, left, wish):
        return
    raise ConflictError(
        f"run {left.request.run_id} ({left.request.kind}) is unfinished in phase {left.phase}: "
        "repeat its command to finish it, or `rollout abort` to roll it back"
    )


def _clear(state: Path, left: Run, wish: Wish, world: World) -> None:
    """Bring what another command left over to its end, so that this one can begin."""
    try:
        opened = resume(state, left, world)
        if not left.terminal:
            # A drift check changes nothing, so whoever comes next may end it.
            id_ = f"{left.request.run_id}-superseded"
            word = CommandReceived(id=id_, command=CommandKind.ABORT, by=wish.requested_by, reason="superseded")
            opened.journal.append(word, at=world.clock.now())
        _finish(state, opened, world)
    except (RolloutError, OSError) as error:
        if wish.kind is not RunKind.ROLLBACK or isinstance(error, ConflictError):
            raise
        # Untidy evidence of an earlier run must not keep people from rolling back.
        world.listener.waiting(Reason(code="earlier_bundle_not_sealed", text=str(error)))


def _finish(state: Path, opened: OpenRun, world: World) -> Ended:
    run = Loop(world=world, dossier=opened.dossier, journal=opened.journal).drive()
    records = opened.journal.records
    summary = summarise(run, records, names=opened.dossier.names, cost=opened.dossier.policy.cost)
    if not opened.journal.sealed:
        derived = {"summary.md": markdown(summary).encode(), "junit.xml": junit_xml(summary)}
        try:
            seal_bundle(opened.journal, derived, at=world.clock.now())
        except (EvidenceError, PlatformError) as error:
            # How the run ended stands in its journal; the next command seals what is left.
            text = f"{run.request.run_id} has ended and its bundle is not sealed yet: {error}"
            world.listener.waiting(Reason(code="bundle_not_sealed", text=text))
    return Ended(
        run=run,
        records=records,
        summary=summary,
        folder=run_folder(state, run.request.run_id).path,
        resumed=opened.resumed,
    )
