"""Beginning a run, or taking up one that was left unfinished."""

from dataclasses import dataclass
from pathlib import Path

from rollout.control.standing import Standing, standing
from rollout.control.world import World
from rollout.errors import ConfigError, EvidenceError
from rollout.evidence.dossier import Dossier, open_dossier
from rollout.evidence.journal import Journal
from rollout.evidence.objects import ObjectStore
from rollout.evidence.runs import name_run, run_folder
from rollout.flow.run import Run
from rollout.gates.capabilities import fallen
from rollout.model.canonical import digest_json
from rollout.model.evidence import Baseline
from rollout.model.inventory import Absent, SlotState
from rollout.model.journal import Phase, RunKind, RunRequested
from rollout.model.policy import Policy
from rollout.model.prompts import PromptSet
from rollout.model.release import Release
from rollout.model.roles import Slot
from rollout.model.snapshot import CapabilitySnapshot
from rollout.model.verdict import Reason
from rollout.model.waiver import day_of, stale

SNAPSHOT_S = 5.0
"""How long an incumbent that is ready may take to tell what it proves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a command asks for.

    Attributes:
        release: The candidate; None for kinds that have none of their own.
        stay: For a rollback: keep the stack that should serve, and only restore it.
    """

    kind: RunKind
    stack: str
    policy: Policy
    prompts: PromptSet
    release: Release | None
    stay: bool
    requested_by: str
    environment: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRun:
    """A run that is ready to be driven."""

    journal: Journal
    dossier: Dossier
    resumed: bool


def resume(state: Path, run: Run, world: World) -> OpenRun:
    """Take up a run that was left unfinished, with the inputs it began with.

    Raises:
        EvidenceError: Its bundle is damaged.
        ConflictError: The lease was lost.
    """
    folder = run_folder(state, run.request.run_id)
    journal = Journal.open(folder.journal, fence=world.lease)
    if journal.cut:
        text = f"the crash cut off the journal's last line, which was never acknowledged: {journal.cut[:80]}"
        world.listener.waiting(Reason(code="journal_cut", text=text))
    dossier = open_dossier(ObjectStore(folder.objects, fence=world.lease), run.request)
    return OpenRun(journal=journal, dossier=dossier, resumed=True)


def begin(state: Path, wish: Wish, world: World, *, generation: int) -> OpenRun:
    """Begin a run; no earlier one may be left over.

    Raises:
        ConfigError: The wish does not fit what stands, the release can never start here, or a waiver has ended.
        ConflictError: The lease was lost.
        EvidenceError: The journal that tells what stands is damaged.
    """
    # One moment for all: a waiver that holds when the run is let in holds for its verdicts.
    now = world.clock.now()
    roles = _cast(standing(state), wish)
    prompts, budget = len(wish.prompts.prompts), wish.policy.latency.pairs_max
    if wish.kind is RunKind.PROMOTE and prompts > budget:
        raise ConfigError(f"{prompts} prompts cannot all be compared in latency.pairs_max {budget} pairs; use fewer")
    if wish.kind in {RunKind.PROMOTE, RunKind.BOOTSTRAP}:
        refuse_stale_waivers(wish.policy, now=now)
        world.platform.check(roles.release)
    name = f"{wish.kind.value}-{roles.release.name}" if wish.kind is not RunKind.PROMOTE else roles.release.name
    folder = run_folder(state, name_run(generation=generation, name=name))
    objects = ObjectStore(folder.objects, fence=world.lease)
    baseline = _fitting_baseline(world, roles, wish, now=now)
    request = RunRequested(
        run_id=folder.run_id,
        kind=wish.kind,
        stack=wish.stack,
        incumbent=roles.incumbent,
        candidate=roles.incumbent.other,
        policy=objects.put_json(_plain(wish.policy)),
        prompts=objects.put_json(_plain(wish.prompts)),
        release=objects.put_json(_plain(roles.release)),
        incumbent_release=objects.put_json(_plain(roles.incumbent_release)) if roles.incumbent_release else None,
        baseline=objects.put_json(_plain(baseline)) if baseline is not None else None,
        standby_until=roles.standby_until,
        requested_by=wish.requested_by,
        environment=wish.environment,
    )
    _forget_stale_commands(world, rescue=wish.kind is RunKind.ROLLBACK)
    journal = Journal.create(folder.journal, fence=world.lease, first=request, at=now)
    return OpenRun(journal=journal, dossier=open_dossier(objects, request), resumed=False)


def refuse_stale_waivers(policy: Policy, *, now: float) -> None:
    """Refuse to prove a candidate by a policy that excuses what nobody excuses any more.

    A check or a rollback of what serves goes on without the waiver.

    Raises:
        ConfigError: A waiver has ended.
    """
    found = stale(policy.capabilities.waivers, today=day_of(now))
    if found:
        raise ConfigError("\n".join(f"capabilities.waivers[{place}]: {text}" for place, text in found.items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cast:
    """Who plays which role."""

    incumbent: Slot
    release: Release
    incumbent_release: Release | None
    standby_until: float | None


def _cast(now: Standing | Absent, wish: Wish) -> _Cast:
    if wish.kind is RunKind.BOOTSTRAP:
        if isinstance(now, Standing):
            raise ConfigError(f"{now.release.name} already serves from {now.serving}; promote without --bootstrap")
        return _Cast(incumbent=Slot.GREEN, release=_demanded(wish.release), incumbent_release=None, standby_until=None)
    if isinstance(now, Absent):
        raise ConfigError(now.reason)
    match wish.kind:
        case RunKind.PROMOTE:
            return _Cast(
                incumbent=now.serving,
                release=_demanded(wish.release),
                incumbent_release=now.release,
                standby_until=now.standby_until,
            )
        case RunKind.VERIFY:
            return _Cast(incumbent=now.serving, release=now.release, incumbent_release=now.release, standby_until=None)
        case RunKind.CALIBRATE:
            return _Cast(
                incumbent=now.serving,
                release=now.release,
                incumbent_release=now.release,
                standby_until=now.standby_until,
            )
        case RunKind.ROLLBACK:
            return _cast_rollback(now, stay=wish.stay)


def _cast_rollback(now: Standing, *, stay: bool) -> _Cast:
    """Return to the earlier stack, or restore the one that serves.

    An earlier rollback that is asked for again, or that could not be finished, is restored rather than undone.
    """
    again = now.run.request.kind is RunKind.ROLLBACK or now.run.phase is Phase.ROLLBACK_INCOMPLETE
    if stay or again:
        return _Cast(incumbent=now.serving, release=now.release, incumbent_release=now.release, standby_until=None)
    if isinstance(now.earlier, Absent):
        raise ConfigError(f"{now.earlier.reason}; `rollout rollback --stay` restores {now.release.name}, which serves")
    return _Cast(incumbent=now.serving.other, release=now.release, incumbent_release=now.earlier, standby_until=None)


def _demanded(release: Release | None) -> Release:
    if release is None:
        raise ConfigError("a release file is needed")
    return release


def _forget_stale_commands(world: World, *, rescue: bool) -> None:
    """Remove what was said to earlier runs; whoever speaks to this one does so after its first record."""
    try:
        for stale in world.inbox.pending():
            world.inbox.remove(stale.id)
    except EvidenceError:
        # A word that cannot be read must not keep people from rolling back.
        if not rescue:
            raise


def same_wish(state: Path, left: Run, wish: Wish) -> bool:
    """True when a command is repeated that left its run unfinished, or ended it without sealing the bundle.

    A promotion that has ended is the answer to the same command. A drift check or a rollback that has ended is not:
    whoever asks again wants the world looked at again. A rollback goes on under any policy, but not to another stack.
    """
    if left.request.kind is wish.kind is RunKind.ROLLBACK:
        return not left.terminal and _leads_back_to_the_same(state, left, wish)
    if left.request.kind is not wish.kind or left.request.policy != _digest(wish.policy):
        return False
    if wish.release is None:
        return not left.terminal
    return left.request.release == _digest(wish.release)


def _leads_back_to_the_same(state: Path, left: Run, wish: Wish) -> bool:
    """Tell whether a rollback that is wanted would restore what an unfinished one restores."""
    try:
        roles = _cast(standing(state), wish)
    except ConfigError:
        return False
    except EvidenceError:
        # What cannot be read must not keep an unfinished rollback from its end.
        return True
    wanted = None if roles.incumbent_release is None else _digest(roles.incumbent_release)
    return (left.request.incumbent, left.request.incumbent_release) == (roles.incumbent, wanted)


def _fitting_baseline(world: World, roles: _Cast, wish: Wish, *, now: float) -> Baseline | None:
    """Return the stored baseline of the incumbent, if it was measured as this run would measure it.

    For a promotion it must hold a whole A/A history of the capabilities that the incumbent proves right now. For a
    drift check it is the yardstick, whatever the incumbent proves today.

    Raises:
        EvidenceError: The incumbent has lost a capability that it was promoted with, or tells none that can be read.
        UnavailableError: It is ready and does not tell what it proves.
    """
    if roles.incumbent_release is None or wish.kind in {RunKind.ROLLBACK, RunKind.CALIBRATE}:
        return None
    stored = world.baselines.get(roles.incumbent_release.digest)
    if isinstance(stored, Absent):
        return None
    if wish.kind is RunKind.VERIFY:
        return stored if stored.measured_as(wish.policy, wish.prompts) else None
    seen = _proven_now(world, roles.incumbent)
    if seen is None:
        # Whether it is ready at all is the preflight's question.
        return None
    capabilities = wish.policy.capabilities
    problem = fallen(capabilities, proven=stored.snapshot, now=seen, today=day_of(now)) if stored.latency_s else ""
    if problem:
        raise EvidenceError(problem)
    fits = stored.usable(wish.policy, wish.prompts, now=now)
    return stored if fits and seen.digest == stored.snapshot.digest else None


def _proven_now(world: World, slot: Slot) -> CapabilitySnapshot | None:
    state = world.platform.observe()[slot]
    if not isinstance(state, SlotState) or not state.ready:
        return None
    return world.protocol.fetch_snapshot(state.instances[0].address, timeout_s=SNAPSHOT_S)


def _plain(model: Policy | PromptSet | Release | Baseline) -> object:
    return model.model_dump(mode="json", by_alias=True)


def _digest(model: Policy | Release) -> str:
    return digest_json(_plain(model))
