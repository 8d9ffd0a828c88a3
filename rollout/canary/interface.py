"""What the driver needs of a serving protocol."""

from dataclasses import dataclass
from typing import Protocol

from rollout.canary.exchange import Reply
from rollout.errors import InvariantError
from rollout.model.evidence import Sample
from rollout.model.policy import LatencyMeasure
from rollout.model.prompts import Prompt
from rollout.model.roles import Address
from rollout.model.snapshot import CapabilitySnapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One instance, and who must answer there.

    Args:
        address: Where the instance listens.
        pod_uid: The uid that every answer must carry.
        snapshot_digest: The digest that every answer must carry; empty before admission, when none is known yet.
    """

    address: Address
    pod_uid: str
    snapshot_digest: str = ""

    def __post_init__(self) -> None:
        if not self.pod_uid:
            raise InvariantError(f"the target {self.address} has no pod uid: nobody could tell who answered")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of one request.

    Attributes:
        sample: The record of it; its `pictures` are the digests of the bytes below, in the same order.
        pictures: The pictures as they came, encoded; empty unless the sample is OK.
    """

    sample: Sample
    pictures: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One POST.

    Attributes:
        path: Starts with a slash.
        body: JSON.
        answer_bytes_max: Largest body of an answer.
    """

    path: str
    body: bytes
    answer_bytes_max: int


class ServingProtocol(Protocol):
    """Speaks one API of image servers. Requests are sent one at a time and never repeated."""

    def send(
        self, target: Target, prompt: Prompt, *, measure: LatencyMeasure, timeout_s: float, stop_after_s: float
    ) -> Answer:
        """Send one prompt and wait for all of the answer.

        A request that fails is a result: this raises nothing for what a server does.

        Args:
            target: The instance, and who must answer there.
            prompt: What to draw. Its text appears in no detail.
            measure: SERVICE demands that the answer declares its time in the queue.
            timeout_s: Limit of the whole request, connecting included; beyond it the sample is TIMEOUT.
            stop_after_s: Limit from the first byte sent; beyond it the connection is closed and the sample is
                STOPPED. Infinite where there is none.
        """

    def fetch_snapshot(self, address: Address, *, timeout_s: float) -> CapabilitySnapshot:
        """Read the capability snapshot of one instance.

        Raises:
            UnavailableError: No answer in time, or the instance says that it is not ready.
            EvidenceError: The answer is not a valid snapshot.
        """

    def request_of(self, prompt: Prompt) -> Request:
        """Return the POST that asks for a prompt, for a driver that keeps connections of its own."""

    def check(self, reply: Reply, *, target: Target, prompt: Prompt) -> None:
        """Check an answer to `request_of` as `send` does, but for the pictures, which are counted and not decoded.

        Raises:
            EvidenceError: It is not a good answer; the message does not hold the prompt's text.
        """

    def close(self) -> None:
        """Close every connection. The next request opens a new one."""
