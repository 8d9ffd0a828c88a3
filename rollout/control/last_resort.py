"""When nothing else can be done any more: send traffic to the incumbent, without a journal."""

from rollout.control.world import World
from rollout.flow.run import Run
from rollout.model.inventory import Absent
from rollout.model.journal import Phase, RunKind
from rollout.model.roles import all_on

MOVED = frozenset({Phase.SHIFT, Phase.SOAK, Phase.ROLLBACK})
"""Phases in which traffic may stand elsewhere than on the incumbent."""


def send_home(world: World, run: Run, cause: Exception) -> None:
    """Send all traffic to the incumbent's live instances, as well as that can be done.

    Does nothing where traffic never moved, or where no incumbent lives: a dead slot serves nobody. What goes wrong is
    added to `cause` as a note, which the caller raises again.
    """
    incumbent = run.request.incumbent
    if world.router is None or run.phase not in MOVED or run.request.kind is RunKind.BOOTSTRAP:
        return
    try:
        state = world.platform.observe()[incumbent]
        alive = () if isinstance(state, Absent) else tuple(one.address for one in state.instances if one.alive)
        if alive:
            world.router.apply(weights=all_on(incumbent), targets={incumbent: alive})
        else:
            cause.add_note(f"no instance of the incumbent in {incumbent} is alive; traffic was left where it is")
    except Exception as error:  # noqa: BLE001 - the first error is the one to raise; this one is told beside it
        cause.add_note(f"traffic could not be sent back to {incumbent} either: {error}")
