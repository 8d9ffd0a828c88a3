"""Reading one fact so that a failure to read it is told and not raised."""

from collections.abc import Callable

from rollout.model.snapshot import Capability, CapabilityValue, failed, ok


def read(source: str, reader: Callable[[], CapabilityValue]) -> Capability:
    """Return what the reader finds, or a field that says why it could not be read."""
    try:
        found = reader()
    except (OSError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        return failed(source, f"{type(error).__name__}: {error}")
    if found is None:
        return failed(source, "nothing was found there")
    return ok(found, source)
