"""The files that this process has mapped, as the kernel lists them."""

from pathlib import Path

MAPS = Path("/proc/self/maps")

_COLUMNS = 6
"""The path is the last; anonymous memory has none."""


def mapped_files(maps: Path = MAPS) -> tuple[Path, ...]:
    """Return each mapped file once, in the order of addresses.

    Source: proc_pid_maps(5).
    """
    columns = (line.split(maxsplit=_COLUMNS - 1) for line in maps.read_text().splitlines())
    return tuple(dict.fromkeys(Path(one[-1]) for one in columns if len(one) == _COLUMNS and one[-1].startswith("/")))
