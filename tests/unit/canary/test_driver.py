import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from rollout.canary import pictures as pictures_module
from rollout.canary.driver import CanaryDriver
from rollout.canary.interface import Answer, Target
from rollout.errors import InvariantError
from rollout.model.canonical import digest_bytes
from rollout.model.evidence import Pair, Sample, SampleStatus
from rollout.model.policy import LatencyMeasure
from rollout.model.prompts import Prompt, PromptSet
from rollout.model.roles import Address, Role

TIMEOUT_S = 30.0
PROMPT = Prompt(id="cat", text="a cat", seed=1, steps=4, size="16x16")
TARGETS = {
    Role.INCUMBENT: Target(address=Address(host="127.0.0.1", port=1), pod_uid="blue-0"),
    Role.CANDIDATE: Target(address=Address(host="127.0.0.1", port=2), pod_uid="green-0"),
}


def png(*, seed: int, flat: bool = False) -> bytes:
    image = (
        np.zeros((16, 16, 3), np.uint8) if flat else np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
    )
    out = io.BytesIO()
    Image.fromarray(image.astype(np.uint8)).save(out, format="PNG")
    return out.getvalue()


@dataclass(frozen=True)
class Plan:
    """How one request goes: seconds of queue and service, and what is drawn."""

    service_s: float = 1.0
    queue_s: float = 0.0
    error: bool = False
    pictures: tuple[bytes, ...] = (png(seed=1),)


class FakeProtocol:
    """A world with a clock of its own: a request ends by its plan, or earlier at a limit."""

    def __init__(self, plans: dict[str, Sequence[Plan]]) -> None:
        self._plans = {uid: list(queue) for uid, queue in plans.items()}
        self.asked: list[tuple[str, float]] = []

    def send(self, target, prompt, *, measure, timeout_s, stop_after_s) -> Answer:
        assert timeout_s > 0, "an impossible limit"
        assert stop_after_s > 0, "an impossible limit"
        assert prompt.size, "nothing to draw"
        self.asked.append((target.pod_uid, stop_after_s))
        plan = self._plans[target.pod_uid].pop(0)
        wall_s = plan.queue_s + plan.service_s
        if wall_s > min(timeout_s, stop_after_s):
            status = SampleStatus.STOPPED if stop_after_s < timeout_s else SampleStatus.TIMEOUT
            return Answer(sample=Sample(status=status, wall_s=min(timeout_s, stop_after_s), detail="late"))
        if plan.error:
            return Answer(sample=Sample(status=SampleStatus.ERROR, wall_s=wall_s, detail="status 500"))
        sample = Sample(
            status=SampleStatus.OK,
            wall_s=wall_s,
            queue_s=plan.queue_s if measure is LatencyMeasure.SERVICE else 0.0,
            pod_uid=target.pod_uid,
            pictures=tuple(digest_bytes(one) for one in plan.pictures),
        )
        return Answer(sample=sample, pictures=plan.pictures)

    def fetch_snapshot(self, address, *, timeout_s):
        raise NotImplementedError

    def close(self) -> None:
        self.asked.append(("closed", math.inf))


def drive(
    *,
    incumbent: Sequence[Plan],
    candidate: Sequence[Plan],
    first: Sequence[Role],
    measure: LatencyMeasure = LatencyMeasure.WALL,
    queue_allowance_s: float = 0.0,
) -> tuple[list[Pair], FakeProtocol, dict[str, bytes]]:
    fake = FakeProtocol({"blue-0": incumbent, "green-0": candidate})
    driver = CanaryDriver(fake, measure=measure, request_timeout_s=TIMEOUT_S)
    pairs, drawn = [], {}
    for number, role in enumerate(first):
        pair, more = driver.measure_pair(
            prompt=PROMPT,
            stage="canary",
            number=number,
            first=role,
            targets=TARGETS,
            give_up_factor=2.0,
            queue_allowance_s=queue_allowance_s,
        )
        pairs.append(pair)
        drawn |= more
    return pairs, fake, drawn


def test_a_pair_records_both_answers_and_keeps_every_picture():
    [pair], _, drawn = drive(
        incumbent=[Plan(pictures=(png(seed=1), png(seed=2)))],
        candidate=[Plan(service_s=1.5, pictures=(png(seed=1), png(seed=3)))],
        first=[Role.INCUMBENT],
    )
    assert (pair.incumbent.latency_s, pair.candidate.latency_s) == (1.0, 1.5)
    assert set(drawn) == {*pair.incumbent.pictures, *pair.candidate.pictures}
    assert all(digest_bytes(data) == digest for digest, data in drawn.items())


def test_the_role_drawn_first_is_asked_first():
    for role, order in (
        (Role.INCUMBENT, ["blue-0", "green-0"]),
        (Role.CANDIDATE, ["green-0", "blue-0"]),
    ):
        [pair], fake, _ = drive(incumbent=[Plan()], candidate=[Plan()], first=[role])
        assert [uid for uid, _ in fake.asked] == order
        assert pair.first is role


def test_a_pair_names_the_instances_that_were_asked_also_when_none_answered():
    for role in Role:
        lost = Plan(error=True)
        [pair], _, _ = drive(incumbent=[lost], candidate=[lost], first=[role])
        assert (pair.incumbent_uid, pair.candidate_uid) == ("blue-0", "green-0")


def test_the_lowest_psnr_of_the_pair_is_recorded():
    [pair], _, _ = drive(
        incumbent=[Plan(pictures=(png(seed=1), png(seed=2)))],
        candidate=[Plan(pictures=(png(seed=1), png(seed=3)))],
        first=[Role.INCUMBENT],
    )
    assert pair.psnr_db is not None
    assert pair.psnr_db < 20.0


def test_equal_pictures_have_the_highest_psnr():
    [pair], _, _ = drive(incumbent=[Plan()], candidate=[Plan()], first=[Role.CANDIDATE])
    assert pair.psnr_db == 99.0
    assert not pair.flat


def test_a_flat_picture_counts_only_against_the_candidate():
    flat = (png(seed=0, flat=True),)
    [theirs], _, _ = drive(incumbent=[Plan()], candidate=[Plan(pictures=flat)], first=[Role.INCUMBENT])
    [ours], _, _ = drive(incumbent=[Plan(pictures=flat)], candidate=[Plan()], first=[Role.INCUMBENT])
    assert theirs.flat
    assert not ours.flat


@pytest.mark.parametrize("side", list(Role))
def test_a_picture_that_cannot_be_decoded_is_an_error_of_its_side(side):
    broken = Plan(pictures=(png(seed=1)[:-30],))
    plans = {role: [broken if role is side else Plan()] for role in Role}
    [pair], _, drawn = drive(incumbent=plans[Role.INCUMBENT], candidate=plans[Role.CANDIDATE], first=[Role.INCUMBENT])
    bad, good = (pair.incumbent, pair.candidate) if side is Role.INCUMBENT else (pair.candidate, pair.incumbent)
    assert bad.status is SampleStatus.ERROR
    assert "cannot be decoded" in bad.detail
    assert bad.latency_s == math.inf
    assert good.status is SampleStatus.OK
    assert pair.psnr_db is None
    assert set(drawn) == set(good.pictures)


def test_equal_pictures_are_decoded_once_over_many_pairs(monkeypatch):
    decoded = []
    real = pictures_module.decode
    monkeypatch.setattr(pictures_module, "decode", lambda picture: decoded.append(picture.digest) or real(picture))
    plans = [Plan(pictures=(png(seed=1),)), Plan(pictures=(png(seed=2),))] * 10
    drive(incumbent=plans, candidate=plans, first=[Role.INCUMBENT] * 20)
    # Of each picture: once to look at it, twice to compare it with itself.
    assert len(decoded) == 6


def test_a_candidate_that_comes_second_is_stopped_at_the_factor():
    [pair], fake, _ = drive(incumbent=[Plan(service_s=1.0)], candidate=[Plan(service_s=20.0)], first=[Role.INCUMBENT])
    assert pair.candidate.status is SampleStatus.STOPPED
    assert pair.candidate.latency_s == math.inf
    assert fake.asked[-1] == ("green-0", 2.0)


def test_a_candidate_that_comes_first_is_never_stopped():
    [pair], fake, _ = drive(incumbent=[Plan(service_s=1.0)], candidate=[Plan(service_s=20.0)], first=[Role.CANDIDATE])
    assert pair.candidate.latency_s == 20.0
    assert [limit for _, limit in fake.asked] == [math.inf, math.inf]


def test_the_incumbent_is_never_stopped():
    [pair], _, _ = drive(incumbent=[Plan(service_s=25.0)], candidate=[Plan(service_s=1.0)], first=[Role.CANDIDATE])
    assert pair.incumbent.status is SampleStatus.OK


def test_a_failed_incumbent_sets_no_limit_for_the_candidate():
    [pair], fake, _ = drive(incumbent=[Plan(error=True)], candidate=[Plan(service_s=9.0)], first=[Role.INCUMBENT])
    assert pair.candidate.status is SampleStatus.OK
    assert fake.asked[-1][1] == math.inf


def test_service_time_is_not_stopped_while_it_may_have_queued():
    [pair], fake, _ = drive(
        incumbent=[Plan(service_s=1.0, queue_s=5.0)],
        candidate=[Plan(service_s=1.0, queue_s=2.5)],
        first=[Role.INCUMBENT],
        measure=LatencyMeasure.SERVICE,
        queue_allowance_s=3.0,
    )
    assert fake.asked[-1][1] == pytest.approx(2.0 * 1.0 + 3.0)
    assert pair.candidate.status is SampleStatus.OK
    assert pair.candidate.latency_s == pytest.approx(1.0)


def test_wall_time_has_no_allowance_for_a_queue():
    _, fake, _ = drive(
        incumbent=[Plan(service_s=1.0, queue_s=0.5)],
        candidate=[Plan()],
        first=[Role.INCUMBENT],
        queue_allowance_s=3.0,
    )
    assert fake.asked[-1][1] == pytest.approx(3.0)


def test_after_a_stop_one_settling_request_goes_before_the_next_pair():
    pairs, fake, _ = drive(
        incumbent=[Plan()] * 3,
        candidate=[Plan(service_s=20.0), Plan(service_s=1.9), Plan(), Plan()],
        first=[Role.INCUMBENT, Role.INCUMBENT, Role.INCUMBENT],
    )
    assert [uid for uid, _ in fake.asked] == ["blue-0", "green-0", "green-0", "blue-0", "green-0", "blue-0", "green-0"]
    assert fake.asked[2] == ("green-0", 2.0)
    assert [pair.candidate.latency_s for pair in pairs] == [math.inf, 1.0, 1.0]


def test_after_a_timeout_the_hung_server_is_not_waited_for_again():
    _, fake, _ = drive(
        incumbent=[Plan()] * 2,
        candidate=[Plan(service_s=99.0), Plan()],
        first=[Role.CANDIDATE, Role.CANDIDATE],
    )
    assert [uid for uid, _ in fake.asked] == ["green-0", "blue-0", "green-0", "blue-0"]


def test_a_single_request_has_no_limit_but_the_timeout():
    fake = FakeProtocol({"blue-0": [Plan(service_s=29.0)], "green-0": []})
    driver = CanaryDriver(fake, measure=LatencyMeasure.WALL, request_timeout_s=TIMEOUT_S)
    sample, drawn = driver.measure_single(prompt=PROMPT, target=TARGETS[Role.INCUMBENT])
    assert sample.latency_s == 29.0
    assert set(drawn) == set(sample.pictures)


def prompts_of_two_shapes() -> PromptSet:
    prompts = [
        PROMPT,
        PROMPT.model_copy(update={"id": "dog"}),
        PROMPT.model_copy(update={"id": "big", "size": "32x16"}),
    ]
    return PromptSet.model_validate(
        {"schema": "rollout.prompts/v1", "prompts": [one.model_dump(mode="json") for one in prompts]}
    )


def warm(plans: Sequence[Plan], *, requests_per_shape: int):
    fake = FakeProtocol({"blue-0": plans})
    driver = CanaryDriver(fake, measure=LatencyMeasure.WALL, request_timeout_s=TIMEOUT_S)
    count = driver.warm_up(TARGETS[Role.INCUMBENT], prompts_of_two_shapes(), requests_per_shape=requests_per_shape)
    return (count.sent, count.failed), len(fake.asked)


def test_warm_up_sends_the_declared_number_for_every_shape():
    assert warm([Plan()] * 10, requests_per_shape=3) == ((6, 0), 6)
    assert warm([], requests_per_shape=0) == ((0, 0), 0)


def test_warm_up_counts_failures_and_ends_at_the_third():
    assert warm([Plan(error=True), *[Plan()] * 5], requests_per_shape=3) == ((6, 1), 6)
    assert warm([Plan(service_s=99.0)] * 10, requests_per_shape=5) == ((3, 3), 3)


def test_closing_the_driver_closes_its_connections():
    fake = FakeProtocol({})
    CanaryDriver(fake, measure=LatencyMeasure.WALL, request_timeout_s=TIMEOUT_S).close()
    assert fake.asked == [("closed", math.inf)]


def test_a_target_without_a_uid_is_a_bug():
    with pytest.raises(InvariantError):
        Target(address=Address(host="h", port=1), pod_uid="")
