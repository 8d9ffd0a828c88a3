"""Having one server prove itself: the effects of `rollout smoke`. What they amount to, `gates/smoke.py` says."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from rollout.canary.driver import CanaryDriver
from rollout.canary.interface import Target
from rollout.canary.openai_images import OpenAIImages
from rollout.cli.commands.measure import parse_address
from rollout.cli.signals import ProcessSignals
from rollout.cli.smoke_servers import RunningServer, Server, StartedServer
from rollout.control.open_run import refuse_stale_waivers
from rollout.control.world import Interrupted
from rollout.errors import ConfigError, EvidenceError, InvariantError, UnavailableError
from rollout.evidence.baselines import Version, read_baseline, write_baseline
from rollout.files.load import load_matrix, load_policy, load_prompts, load_release
from rollout.flow.schedule import prompt_at
from rollout.gates.admission import Came, Start, refusals
from rollout.gates.messages import Heard
from rollout.gates.smoke import SMOKE, SmokeEvidence, Yardstick, fails, judge_smoke, latencies
from rollout.model.evidence import Baseline, protocol_of
from rollout.model.inventory import Absent, Instance
from rollout.model.journal import SampleMeasured
from rollout.model.policy import Policy
from rollout.model.prompts import PromptSet
from rollout.model.release import Release
from rollout.model.snapshot import CapabilitySnapshot
from rollout.model.verdict import Outcome, Reason
from rollout.model.waiver import day_of
from rollout.report import words
from rollout.report.smoke import Smoked
from rollout.serving.messages import fallback_signs

POLL_S = 0.1

TOLD_EVERY_S = 5.0
"""CI systems end a job that is silent for minutes; a line for each request would drown the rest."""

LAST_WORDS = 20
"""Lines of the log that are shown where the server was not admitted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The command's options; see `rollout smoke --help`."""

    release: Path | None
    server: str | None
    log: Path | None
    policy: Path
    prompts: Path
    baseline: Path | None
    written: Path | None
    matrix: Path | None
    junit: Path | None
    requests: int | None

    @property
    def subject(self) -> str:
        """What is looked at, before its file is read."""
        return self.server or str(self.release)


def prove(asked: Asked, say: Callable[[str], None]) -> Smoked:
    """Watch a server, judge it, and write the baseline that it earned.

    Raises:
        ConfigError: A file or an address cannot be used, or a waiver has ended.
        EvidenceError: The baseline is damaged or was measured in another way.
        PlatformError: The server could not be started or ended, or the disk failed.
    """
    _check_targets(asked)
    policy, prompts = load_policy(asked.policy), load_prompts(asked.prompts)
    refuse_stale_waivers(policy, now=time.time())
    matrix = None if asked.matrix is None else load_matrix(asked.matrix)
    stored = None if asked.baseline is None else _stored(asked.baseline, policy, prompts)
    release = None if asked.release is None else load_release(asked.release)
    signals = ProcessSignals(doing="ending the server; nothing is proven")
    signals.install()
    begun = time.monotonic()
    requests = asked.requests or policy.drift.requests
    with ExitStack() as held:
        server = _running(asked) if release is None else _started(release, held)
        witness = Witness(policy=policy, prompts=prompts, requests=requests, signals=signals, say=say)
        witnessed = witness.watch(server)
    evidence = witnessed.evidence
    yardstick = Yardstick(baseline=stored.baseline if stored else None, first=asked.written is not None, matrix=matrix)
    verdict = judge_smoke(policy, evidence, yardstick, today=day_of(time.time()))
    digest: str | Absent = stored.digest if stored else Absent(reason="none was given")
    written = ""
    if asked.written is not None and release is not None:
        digest = Absent(reason=f"{asked.written} is not written: not everything passed")
        if verdict.outcome is Outcome.PASS:
            digest = write_baseline(asked.written, _measured(release, policy, prompts, evidence))
            written = str(asked.written)
    if evidence.start.came in {Came.ENDED, Came.LATE}:
        for line in _last_words(witnessed.log):
            say(f"server: {words.printable(line)}")
    return Smoked(
        subject=asked.subject if release is None else release.name,
        policy=policy.name,
        verdict=verdict,
        release=Absent(reason="a running server does not say its release") if release is None else release.digest,
        snapshot=Absent(reason="it was not read") if evidence.snapshot is None else evidence.snapshot.digest,
        baseline=digest,
        written=written,
        requests=len(evidence.samples),
        seconds=time.monotonic() - begun,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Witnessed:
    """What was seen, and the whole log behind it."""

    evidence: SmokeEvidence
    log: str | Absent


@dataclass(slots=True, kw_only=True)
class _Seen:
    """Fills up while the server is watched, so that an interruption loses nothing."""

    came: Came = Came.UNSEEN
    seconds: float = 0.0
    detail: str = ""
    snapshot: CapabilitySnapshot | None = None
    snapshot_problem: str = ""
    samples: list[SampleMeasured] = field(default_factory=list)
    unfinished: str = ""


class Witness:
    """Watches one server come up, prove itself and draw.

    Args:
        policy: Deadlines, warm-up and margins.
        prompts: What is sent, in shuffled cycles.
        requests: How many are measured.
        signals: A signal ends the watching, and nothing else.
        say: Takes a line of progress.
    """

    def __init__(
        self,
        *,
        policy: Policy,
        prompts: PromptSet,
        requests: int,
        signals: ProcessSignals,
        say: Callable[[str], None],
    ) -> None:
        self._policy = policy
        self._prompts = prompts
        self._requests = requests
        self._signals = signals
        self._say = say
        self._protocol = OpenAIImages()
        self._driver = CanaryDriver(
            self._protocol, measure=policy.latency.measure, request_timeout_s=policy.deadlines.request_s
        )

    def watch(self, server: Server) -> Witnessed:
        """Start the server, watch it, end it whatever happens, then read its whole log.

        Raises:
            ConfigError: It can never start here, or its log cannot be read.
            PlatformError: It could not be started or ended.
        """
        seen = _Seen()
        try:
            server.start()
            try:
                with self._signals.interruptible():
                    self._follow(server, seen)
            except Interrupted:
                seen.unfinished = f"interrupted by {self._signals.received}"
            self._look_again(server, seen)
        finally:
            try:
                self._driver.close()
            finally:
                server.end()
        log = server.log()
        start = Start(
            came=seen.came,
            seconds=seen.seconds,
            detail=seen.detail or seen.unfinished,
            refusals=() if isinstance(log, Absent) else tuple(refusals(log)),
        )
        evidence = SmokeEvidence(
            start=start,
            snapshot=seen.snapshot,
            snapshot_problem=seen.snapshot_problem,
            samples=tuple(seen.samples),
            heard=log if isinstance(log, Absent) else _heard(log),
            unfinished=seen.unfinished,
        )
        return Witnessed(evidence=evidence, log=log)

    def _follow(self, server: Server, seen: _Seen) -> None:
        begun = time.monotonic()
        instance = self._wait_ready(server, seen, begun)
        if seen.came is not Came.READY:
            seen.unfinished = "the server was not admitted"
            return
        self._say(f"ready after {words.seconds(seen.seconds)}")
        try:
            limit_s = self._policy.deadlines.request_s
            seen.snapshot = self._protocol.fetch_snapshot(instance.address, timeout_s=limit_s)
        except (EvidenceError, UnavailableError) as error:
            seen.snapshot_problem = str(error)
            seen.unfinished = "its snapshot could not be read"
            return
        # From here on every answer must carry the digest: a server that loses its path while serving is found.
        digest = seen.snapshot.digest
        target = Target(address=instance.address, pod_uid=instance.uid, snapshot_digest=digest)
        warm = self._driver.warm_up(target, self._prompts, requests_per_shape=self._policy.warmup_requests)
        self._say(f"warm after {warm.sent} requests, {warm.failed} failed; measuring {self._requests}")
        self._measure(target, seen, until=begun + self._policy.deadlines.run_s)

    def _wait_ready(self, server: Server, seen: _Seen, begun: float) -> Instance:
        self._say(f"waiting up to {words.seconds(self._policy.deadlines.ready_s)} for the server to prove itself")
        while True:
            instance = server.look()
            seen.seconds = time.monotonic() - begun
            if instance.ready:
                seen.came = Came.READY
            elif not instance.alive:
                seen.came, seen.detail = Came.ENDED, instance.detail
            elif seen.seconds >= self._policy.deadlines.ready_s:
                seen.came, seen.detail = Came.LATE, instance.detail
            else:
                time.sleep(POLL_S)
                continue
            return instance

    def _measure(self, target: Target, seen: _Seen, *, until: float) -> None:
        told = time.monotonic()
        for number in range(self._requests):
            prompt = prompt_at(self._prompts, run_id=SMOKE, stage=SMOKE, number=number)
            sample, _ = self._driver.measure_single(prompt=prompt, target=target)
            seen.samples.append(SampleMeasured(number=number, prompt_id=prompt.id, sample=sample))
            now = time.monotonic()
            if now - told >= TOLD_EVERY_S:
                told = now
                self._say(f"measured {number + 1} of {self._requests}")
            if sample.failed and fails(self._policy, seen.samples):
                seen.unfinished = f"requests fail; measured {number + 1} of {self._requests}"
                return
            if now > until and number + 1 < self._requests:
                seen.unfinished = f"deadlines.run_s passed; measured {number + 1} of {self._requests}"
                return

    def _look_again(self, server: Server, seen: _Seen) -> None:
        """Find out whether it lived to the end."""
        last = server.look()
        if not last.alive and seen.came is Came.READY:
            seen.came, seen.detail = Came.ENDED, f"while it served: {last.detail}"
            seen.unfinished = seen.unfinished or "the server ended"


def _heard(log: str) -> Heard:
    signs = tuple(Reason(code=one.code, text=one.line) for one in fallback_signs(log))
    return Heard(lines=sum(bool(line.strip()) for line in log.splitlines()), signs=signs)


def _check_targets(asked: Asked) -> None:
    """Refuse before minutes are spent on what could not be written.

    Raises:
        ConfigError: A file exists that would be lost, or a folder does not.
    """
    if asked.written is not None and asked.written.exists():
        raise ConfigError(
            f"{asked.written} exists: compare with it by --baseline, or move it away to make today's latency the "
            "standard"
        )
    for path in (asked.written, asked.junit):
        if path is not None and not path.absolute().parent.is_dir():
            raise ConfigError(f"{path}: there is no folder {path.absolute().parent}; make it")


def _stored(path: Path, policy: Policy, prompts: PromptSet) -> Version:
    """Read the baseline. That it is another release's is what it is for.

    Raises:
        EvidenceError: It is damaged, or was measured in another way.
    """
    stored = read_baseline(path)
    if stored.baseline.measured_as(policy, prompts):
        return stored
    then, now = stored.baseline.protocol, protocol_of(policy)
    differs = [f"{key} {then.get(key)}, now {now[key]}" for key in now if then.get(key) != now[key]]
    if stored.baseline.prompts_digest != prompts.digest:
        differs.insert(0, "other prompts")
    raise EvidenceError(
        f"{path} was measured in another way ({'; '.join(differs)}): nothing can be compared; measure a new one with "
        "--write-baseline"
    )


def _started(release: Release, held: ExitStack) -> Server:
    """Return a server that is to be started; its folder is removed with `held`."""
    return StartedServer(release, Path(held.enter_context(TemporaryDirectory(prefix="rollout-smoke-"))))


def _running(asked: Asked) -> Server:
    if asked.log is not None and not asked.log.is_file():
        raise ConfigError(f"{asked.log}: no such file; the server's output must go there while it runs")
    return RunningServer(parse_address(asked.server or ""), asked.log)


def _measured(release: Release, policy: Policy, prompts: PromptSet, evidence: SmokeEvidence) -> Baseline:
    """Return the baseline that a server which passed everything makes."""
    if evidence.snapshot is None:
        raise InvariantError("a server without a snapshot passed")
    return Baseline(
        schema="rollout.baseline/v1",
        release_digest=release.digest,
        snapshot=evidence.snapshot,
        prompts_digest=prompts.digest,
        protocol=protocol_of(policy),
        made_at=time.time(),
        made_by_run=SMOKE,
        aa_ratio=[],
        latency_s=dict(latencies(evidence.samples)),
        cold_start_s=[evidence.start.seconds],
    )


def _last_words(log: str | Absent) -> list[str]:
    return [] if isinstance(log, Absent) else [line for line in log.splitlines() if line.strip()][-LAST_WORDS:]
