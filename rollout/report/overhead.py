"""Client overhead: how much of a request's time lies outside the server, by the server's own account."""

import statistics
from dataclasses import dataclass

from rollout.flow.run import Run
from rollout.model.evidence import Sample, SampleStatus
from rollout.model.roles import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Overhead:
    """Wall time less the time that the server declares.

    A difference between the roles is a difference of the measurement, not of the servers.

    Attributes:
        share: Of the wall time, over all requests, in [0, 1].
    """

    role: Role
    requests: int
    median_s: float
    highest_s: float
    share: float


def overhead_of(run: Run) -> tuple[Overhead, ...]:
    """Return the overhead of each role that had an answer with a declared time."""
    pairs = [pair for stage in run.pairs.values() for pair in stage]
    samples = {
        Role.INCUMBENT: [one.incumbent for one in pairs] + [one.sample for one in run.samples],
        Role.CANDIDATE: [one.candidate for one in pairs],
    }
    found = []
    for role, all_of_them in samples.items():
        declared = [one for one in all_of_them if one.status is SampleStatus.OK and one.server_s > 0.0]
        if declared:
            found.append(_overhead(role, declared))
    return tuple(found)


def _overhead(role: Role, samples: list[Sample]) -> Overhead:
    outside = [max(one.wall_s - one.server_s, 0.0) for one in samples]
    return Overhead(
        role=role,
        requests=len(samples),
        median_s=statistics.median(outside),
        highest_s=max(outside),
        share=sum(outside) / max(sum(one.wall_s for one in samples), 1e-9),
    )
