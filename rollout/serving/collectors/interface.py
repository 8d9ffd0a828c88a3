"""What a collector is: the fields it promises, and how it reads them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rollout.model.snapshot import Capability, failed

Fields = Mapping[str, Capability]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collector:
    """One place where facts are read.

    `fields` are the same for two instances of one release on like nodes; `measurements` vary between instances. What
    `read` does not return of them is told as failed, so that nothing is missing in silence.
    """

    name: str
    fields: frozenset[str]
    measurements: frozenset[str] = frozenset()
    read: Callable[[], Fields]
    isolated: bool = False
    """True where reading can hang or kill the process: a driver's library."""

    @property
    def promised(self) -> frozenset[str]:
        """All names."""
        return self.fields | self.measurements

    def complete(self, found: Fields) -> Fields:
        """Return what was found, with every promised name and no other."""
        absent = failed(f"collector {self.name}", "the collector returned nothing for it")
        return {name: found.get(name, absent) for name in sorted(self.promised)}

    def broken(self, reason: str) -> Fields:
        """Return every promised name as failed."""
        return {name: failed(f"collector {self.name}", reason) for name in sorted(self.promised)}
