"""The driver: sends canary prompts to both roles and makes records of what came back."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import assert_never

from rollout.canary.interface import Answer, ServingProtocol, Target
from rollout.canary.pictures import Picture, PictureComparer
from rollout.errors import InvariantError
from rollout.model.evidence import Pair, Sample, SampleStatus
from rollout.model.policy import LatencyMeasure
from rollout.model.prompts import Prompt, PromptSet
from rollout.model.roles import Address, Role

WARMUP_FAILURES_MAX = 3
"""A warm-up ends after so many failures: a hung instance must not cost the timeout once per request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmUpCount:
    """Warm-up requests of one instance."""

    sent: int
    failed: int


class CanaryDriver:
    """Sends one request at a time, so that the canary itself never makes a queue.

    A request that is hung up on goes on in the server, and the next one would wait behind it: one slow answer would
    look like two. So before the next measured request to that instance one settling request is sent, which is neither
    timed nor counted, and which is itself hung up on after the same limit, so that an instance that is slow throughout
    costs no more than one limit. A request that timed out is not followed by one: waiting for a hung server again
    would double its price.

    Args:
        protocol: How the instances are spoken to.
        measure: Which time is compared.
        request_timeout_s: Limit of every request.
    """

    def __init__(self, protocol: ServingProtocol, *, measure: LatencyMeasure, request_timeout_s: float) -> None:
        self._protocol = protocol
        self._measure = measure
        self._request_timeout_s = request_timeout_s
        self._comparer = PictureComparer()
        self._unsettled: dict[Address, float] = {}

    def measure_pair(
        self,
        *,
        prompt: Prompt,
        stage: str,
        number: int,
        first: Role,
        targets: Mapping[Role, Target],
        give_up_factor: float,
        queue_allowance_s: float,
    ) -> tuple[Pair, Mapping[str, bytes]]:
        """Send one prompt to both roles, one after the other, and compare their pictures.

        A candidate that comes second, after an answer of the incumbent, is timed no longer than `give_up_factor` times
        the incumbent's latency, then it is STOPPED. That limit is about the latency that is compared. With the measure
        `wall` this is the time that passes here. With `service` the server's queue does not count, but how long it was
        is known only with the answer: the limit then is longer by `queue_allowance_s`, and a request that is stopped is
        proven slow only if it queued for less. So the allowance must be above every queue that a healthy candidate can
        have. A second or two will do while it has no live traffic; with live traffic take the request timeout, which
        in effect stops nothing.

        Args:
            prompt: What both draw.
            stage: Where the pair belongs.
            number: Its position in the stage, from 0.
            first: Who is asked first.
            targets: One instance for each role.
            give_up_factor: The ratio beyond which no gate hears more, which the sequential test gives before each pair
                (`stop_ratio`); infinite to stop nothing, as for an A/A history.
            queue_allowance_s: 0 or more; not looked at for `wall`.

        Returns:
            The pair, and the encoded pictures of both sides by digest.
        """
        self._settle(targets.values(), prompt)
        answers = {first: self._ask(targets[first], prompt, stop_after_s=math.inf)}
        if first is Role.INCUMBENT:
            limit_s = self._stop_after_s(
                answers[first].sample, give_up_factor=give_up_factor, queue_allowance_s=queue_allowance_s
            )
            answers[Role.CANDIDATE] = self._ask(targets[Role.CANDIDATE], prompt, stop_after_s=limit_s)
        else:
            answers[Role.INCUMBENT] = self._ask(targets[Role.INCUMBENT], prompt, stop_after_s=math.inf)
        incumbent, candidate = (self._inspected(answers[role]) for role in (Role.INCUMBENT, Role.CANDIDATE))
        pair = Pair(
            stage=stage,
            number=number,
            prompt_id=prompt.id,
            first=first,
            incumbent_uid=targets[Role.INCUMBENT].pod_uid,
            candidate_uid=targets[Role.CANDIDATE].pod_uid,
            incumbent=incumbent.sample,
            candidate=candidate.sample,
            psnr_db=self._lowest_psnr_db(incumbent, candidate),
            flat=any(self._comparer.inspect(one).flat for one in _pictures(candidate)),
        )
        return pair, {one.digest: one.data for answer in (incumbent, candidate) for one in _pictures(answer)}

    def measure_single(self, *, prompt: Prompt, target: Target) -> tuple[Sample, Mapping[str, bytes]]:
        """Send one prompt to one instance; return the sample and the encoded pictures by digest."""
        self._settle((target,), prompt)
        answer = self._inspected(self._ask(target, prompt, stop_after_s=math.inf))
        return answer.sample, {one.digest: one.data for one in _pictures(answer)}

    def warm_up(
        self,
        target: Target,
        prompts: PromptSet,
        *,
        requests_per_shape: int,
        between: Callable[[], None] = lambda: None,
    ) -> WarmUpCount:
        """Send the declared number of requests of every tensor shape; nothing of them is measured.

        Args:
            target: The instance.
            prompts: One prompt of each shape is taken.
            requests_per_shape: At least 0.
            between: Called before each request, each of which may take as long as any: to keep a lease.

        Returns:
            How many were sent and how many of them failed. Fewer than declared are sent only after three failures.
        """
        sent = failed = 0
        for prompt in prompts.shapes():
            for _ in range(requests_per_shape):
                between()
                answer = self._inspected(self._ask(target, prompt, stop_after_s=math.inf))
                sent += 1
                failed += answer.sample.status is not SampleStatus.OK
                if failed >= WARMUP_FAILURES_MAX:
                    return WarmUpCount(sent=sent, failed=failed)
        return WarmUpCount(sent=sent, failed=failed)

    def close(self) -> None:
        """Close every connection."""
        self._protocol.close()

    def _ask(self, target: Target, prompt: Prompt, *, stop_after_s: float) -> Answer:
        answer = self._protocol.send(
            target, prompt, measure=self._measure, timeout_s=self._request_timeout_s, stop_after_s=stop_after_s
        )
        if answer.sample.status is SampleStatus.STOPPED:
            if not math.isfinite(stop_after_s):
                raise InvariantError(f"the protocol stopped a request to {target.address} that had no limit to stop at")
            self._unsettled[target.address] = stop_after_s
        return answer

    def _settle(self, targets: Iterable[Target], prompt: Prompt) -> None:
        for target in targets:
            limit_s = self._unsettled.pop(target.address, None)
            if limit_s is not None:
                self._protocol.send(
                    target, prompt, measure=self._measure, timeout_s=self._request_timeout_s, stop_after_s=limit_s
                )

    def _stop_after_s(self, incumbent: Sample, *, give_up_factor: float, queue_allowance_s: float) -> float:
        if incumbent.status is not SampleStatus.OK:
            return math.inf
        limit_s = give_up_factor * incumbent.latency_s
        match self._measure:
            case LatencyMeasure.WALL:
                return limit_s
            case LatencyMeasure.SERVICE:
                return limit_s + queue_allowance_s
            case _:
                assert_never(self._measure)

    def _inspected(self, answer: Answer) -> Answer:
        """Return the answer, or an error in its place when one of its pictures cannot be decoded."""
        for number, picture in enumerate(_pictures(answer)):
            problem = self._comparer.inspect(picture).problem
            if problem:
                sample = answer.sample
                return Answer(
                    sample=Sample(
                        status=SampleStatus.ERROR,
                        wall_s=sample.wall_s,
                        pod_uid=sample.pod_uid,
                        snapshot_digest=sample.snapshot_digest,
                        detail=f"picture {number}: {problem}",
                    )
                )
        return answer

    def _lowest_psnr_db(self, incumbent: Answer, candidate: Answer) -> float | None:
        if not incumbent.pictures or not candidate.pictures:
            return None
        both = zip(_pictures(incumbent), _pictures(candidate), strict=True)
        return min(self._comparer.psnr_db(a, b) for a, b in both)


def _pictures(answer: Answer) -> list[Picture]:
    return [
        Picture(digest=digest, data=data) for digest, data in zip(answer.sample.pictures, answer.pictures, strict=True)
    ]
