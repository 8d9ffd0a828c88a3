"""Measuring two servers that nobody rolls out: `rollout compare`."""

import math
from collections.abc import Callable

import httpx

from rollout.canary.driver import CanaryDriver
from rollout.canary.interface import Target
from rollout.canary.openai_images import OpenAIImages
from rollout.errors import EvidenceError, UnavailableError
from rollout.flow.run import CANARY, HISTORY
from rollout.flow.schedule import first_role, prompt_at
from rollout.gates.jury import Jury
from rollout.model.evidence import AaHistory, Pair, history_of
from rollout.model.policy import Policy
from rollout.model.prompts import PromptSet
from rollout.model.roles import Address, Role
from rollout.model.verdict import Outcome, Verdict, combine
from rollout.model.wire import HEADER_POD_UID, PATH_HEALTH


def identity(address: Address) -> str:
    """Return the uid of whoever answers at an address.

    Raises:
        UnavailableError: Nobody answers.
        EvidenceError: Whoever answers does not say who it is.
    """
    try:
        answer = httpx.get(f"http://{address}{PATH_HEALTH}", timeout=5.0, trust_env=False)
    except httpx.HTTPError as error:
        raise UnavailableError(f"GET {PATH_HEALTH} at {address}: {error}; is a server running there?") from error
    uid = answer.headers.get(HEADER_POD_UID, "")
    if not uid:
        raise EvidenceError(
            f"{address} answers without the header {HEADER_POD_UID}: nobody could tell who was measured"
        )
    return str(uid)


def compare_servers(
    policy: Policy, prompts: PromptSet, *, blue: Target, green: Target, seed: str, say: Callable[[str], None]
) -> Verdict:
    """Measure blue against itself, then green against blue, until the gates decide or the budget is spent.

    Raises:
        EvidenceError: Blue answers too seldom for a history.
    """
    driver = CanaryDriver(OpenAIImages(), measure=policy.latency.measure, request_timeout_s=policy.deadlines.request_s)
    same, other = {Role.INCUMBENT: blue, Role.CANDIDATE: blue}, {Role.INCUMBENT: blue, Role.CANDIDATE: green}

    def pair(targets: dict[Role, Target], stage: str, number: int, give_up_factor: float) -> Pair:
        measured, _ = driver.measure_pair(
            prompt=prompt_at(prompts, run_id=seed, stage=stage, number=number),
            stage=stage,
            number=number,
            first=first_role(run_id=seed, stage=stage, number=number),
            targets=targets,
            give_up_factor=give_up_factor,
            queue_allowance_s=policy.deadlines.request_s,
        )
        return measured

    try:
        for target in (blue, green):
            driver.warm_up(target, prompts, requests_per_shape=policy.warmup_requests)
        say(f"history: {policy.history.pairs} pairs of blue against itself")
        history = [pair(same, HISTORY, number, math.inf) for number in range(policy.history.pairs)]
        jury = Jury(
            policy=policy,
            prompts=prompts,
            history=_history(history),
            proving_stage=CANARY,
            later_stages=1,
            pods=1,
        )
        verdict = combine(CANARY, ())
        for number in range(policy.latency.pairs_max):
            verdict = jury.hear(pair(other, CANARY, number, jury.stop_ratio(CANARY)))
            if verdict.outcome is not Outcome.INCONCLUSIVE:
                break
        say(f"canary: {number + 1} pairs")
        return verdict
    finally:
        driver.close()


def _history(pairs: list[Pair]) -> AaHistory:
    failed = [pair for pair in pairs if not pair.sound]
    if failed:
        details = [one.detail for pair in failed for one in (pair.incumbent, pair.candidate) if one.detail]
        raise EvidenceError(f"blue failed in {len(failed)} of {len(pairs)} pairs: {details[0]}")
    return history_of(pairs)
