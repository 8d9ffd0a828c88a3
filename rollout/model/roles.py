"""Slots, roles and weights: who stands where, and how much traffic each takes."""

from dataclasses import dataclass
from enum import StrEnum

from rollout.errors import InvariantError


class Slot(StrEnum):
    """A place for one stack. Slots never move; roles swap."""

    BLUE = "blue"
    GREEN = "green"

    @property
    def other(self) -> "Slot":
        """Return the opposite slot."""
        return Slot.GREEN if self is Slot.BLUE else Slot.BLUE


class Role(StrEnum):
    """What a slot's stack is to the current run: it serves now, or it wants to."""

    INCUMBENT = "incumbent"
    CANDIDATE = "candidate"

    @property
    def other(self) -> "Role":
        """Return the opposite role."""
        return Role.CANDIDATE if self is Role.INCUMBENT else Role.INCUMBENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where one instance listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read HOST:PORT.

        Raises:
            ValueError: It is something else.
        """
        host, colon, port = text.rpartition(":")
        if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:  # noqa: PLR2004 - TCP ports
            raise ValueError(f"{text!r} is not HOST:PORT")
        return cls(host=host, port=int(port))


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Per cent of live traffic for each slot; whole numbers that sum to 100."""

    blue: int
    green: int

    def __post_init__(self) -> None:
        if self.blue < 0 or self.green < 0 or self.blue + self.green != 100:  # noqa: PLR2004 - per cent
            raise InvariantError(f"weights must be whole per cents that sum to 100, not {self.blue} and {self.green}")

    def of(self, slot: Slot) -> int:
        """Return the share of one slot."""
        return self.blue if slot is Slot.BLUE else self.green


def all_on(slot: Slot) -> Weights:
    """Return the weights that send everything to one slot."""
    return share(slot, 100)


def share(slot: Slot, percent: int) -> Weights:
    """Return the weights that give one slot this share and the other the rest."""
    rest = 100 - percent
    return Weights(blue=percent, green=rest) if slot is Slot.BLUE else Weights(blue=rest, green=percent)
