"""Reading pairs that were measured elsewhere: CSV or Parquet, from whatever load generator wrote them.

The contract is told in docs/judge.md. Every fault names file, line and column; nothing is guessed and nothing left out.
"""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from rollout.errors import ConfigError
from rollout.stats.series import Array

UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6}
"""How many make a second."""

FAILED_WORDS = frozenset({"inf", "+inf", "infinity", "timeout", "error", "failed"})
"""What stands for a request that was not answered well."""

DELIMITERS = ",;\t"

SEATS = ("blue", "green", "aa_first", "aa_second")
"""Who a latency column may belong to; the last two are both blue."""

PARQUET_INSTALL = 'pip install "rollout[parquet]"'

Cells: TypeAlias = Sequence[Any]
"""One column: strings from CSV, numbers or strings from Parquet; None and "" are empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Names that the caller gave; empty where the file's own are to be found."""

    blue: str = ""
    green: str = ""
    aa: str = ""
    unit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairsFile:
    """Pairs of one file, in the order measured.

    Attributes:
        blue_s: Shape (n,), seconds; +inf for a failed request.
        green_s: Shape (n,), likewise.
        aa_ratio: Shape (N,), blue / blue; empty where the file holds no A/A history.
    """

    blue_s: Array
    green_s: Array
    aa_ratio: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """The columns of a file that matter; `lines` are the rows' line numbers (row numbers in Parquet)."""

    name: str
    header: tuple[str, ...]
    columns: dict[str, Cells]
    lines: Sequence[int]

    def fault(self, row: int, column: str, text: str) -> ConfigError:
        place = f"{self.name}:{self.lines[row]}:{self.header.index(column) + 1}"
        return ConfigError(f"{place}: column {column}: {text}")

    def header_fault(self, column: str, text: str) -> ConfigError:
        return ConfigError(f"{self.name}:1:{self.header.index(column) + 1}: column {column}: {text}")


def read_pairs(path: Path, columns: Columns) -> PairsFile:
    """Read pairs, and the A/A history where the same file holds it.

    Raises:
        ConfigError: The file cannot be used; the message names line and column.
    """
    table = _read(path, columns)
    blue, green = (_latency_column(table, colour, given, columns) for colour, given in _given(columns))
    blue_s, green_s = _both(table, blue, green, columns)
    if len(blue_s) == 0:
        raise ConfigError(f"{path}: the file holds no pair below its header")
    return PairsFile(blue_s=blue_s, green_s=green_s, aa_ratio=_aa_of(table, columns))


def read_history(path: Path, columns: Columns) -> Array:
    """Read an A/A history from a file of its own: a ratio column, or blue measured in both seats.

    Raises:
        ConfigError: The file cannot be used; the message names line and column.
    """
    table = _read(path, columns)
    ratio = _aa_of(table, columns)
    if len(ratio) == 0:
        names = Columns(unit=columns.unit)
        blue, green = (_latency_column(table, colour, "", names) for colour in ("blue", "green"))
        ratio = _ratios(*_both(table, blue, green, names))
    if len(ratio) == 0:
        raise ConfigError(f"{path}: the file holds no pair below its header")
    return ratio


def _given(columns: Columns) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("blue", columns.blue), ("green", columns.green)


def _read(path: Path, columns: Columns) -> _Table:
    if path.suffix.lower() in {".parquet", ".pq"}:
        return _read_parquet(path, columns)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _read_csv(path, file, columns)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file (looked in {Path.cwd()})") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path}: a folder, not a file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); is it CSV?") from error
    except csv.Error as error:
        raise ConfigError(f"{path}: cannot be read as CSV: {error}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def _read_csv(path: Path, file: Iterator[str], names: Columns) -> _Table:
    first = next(file, "")
    delimiter = max(DELIMITERS, key=first.count)
    header = tuple(cell.strip() for cell in next(csv.reader([first], delimiter=delimiter), []))
    if not any(header):
        raise ConfigError(f"{path}:1:1: the file is empty; a header with the names of the columns is expected")
    wanted = _wanted(path, header, names)
    if not wanted:
        raise _no_column(str(path), header, "blue")
    places = [header.index(name) for name in wanted]
    pick = itemgetter(*places, places[0])
    reader = csv.reader(file, delimiter=delimiter)
    rows, lines, blank = [], [], 0
    for row in reader:
        if not row:
            blank = blank or reader.line_num + 1
            continue
        if blank:
            raise ConfigError(f"{path}:{blank}:1: the line is empty, and lines with cells follow it")
        if len(row) != len(header):
            raise ConfigError(
                f"{path}:{reader.line_num + 1}:{min(len(row), len(header)) + 1}: {len(row)} cells, and the header "
                f"names {len(header)}"
            )
        rows.append(pick(row))
        lines.append(reader.line_num + 1)
    columns: list[Cells] = list(zip(*rows, strict=True)) if rows else [()] * (len(wanted) + 1)
    return _Table(name=str(path), header=header, columns=dict(zip(wanted, columns, strict=False)), lines=lines)


def _read_parquet(path: Path, names: Columns) -> _Table:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError(
            f"{path}: reading Parquet needs pyarrow, which is not installed: {PARQUET_INSTALL}"
        ) from error
    try:
        header = tuple(parquet.read_schema(path).names)
        read = parquet.read_table(path, columns=_wanted(path, header, names))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file (looked in {Path.cwd()})") from error
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{path}: cannot be read as Parquet: {error}") from error
    columns = {name: read.column(name).to_pylist() for name in read.column_names}
    return _Table(name=str(path), header=header, columns=columns, lines=range(1, read.num_rows + 1))


def _wanted(path: Path, header: tuple[str, ...], columns: Columns) -> list[str]:
    """Return the names of the columns that can matter; no name may occur twice."""
    for name in header:
        if header.count(name) > 1:
            raise ConfigError(f"{path}:1:{header.index(name) + 1}: two columns are named {name!r}")
    known = {columns.blue, columns.green, columns.aa, "aa_ratio"} - {""}
    known |= {f"{seat}{unit}" for seat in SEATS for unit in ("", *(f"_{one}" for one in UNITS))}
    return [name for name in header if name in known or _is_status_of(name, known)]


def _is_status_of(name: str, known: set[str]) -> bool:
    stem = name.removesuffix("_status")
    return stem != name and not known.isdisjoint({stem, *(f"{stem}_{unit}" for unit in UNITS)})


def _latency_column(table: _Table, colour: str, given: str, columns: Columns) -> str:
    """Return the name of a colour's column."""
    if given:
        return _present(table, given)
    found = [name for name in table.header if name in {f"{colour}_{unit}" for unit in UNITS}]
    if len(found) == 1:
        return found[0]
    if found:
        raise table.header_fault(found[1], f"{found[0]} is there too; name the one that counts with --{colour}-column")
    bare = colour if columns.unit and colour in table.header else ""
    if bare:
        return bare
    raise _no_column(table.name, table.header, colour)


def _no_column(name: str, header: tuple[str, ...], colour: str) -> ConfigError:
    return ConfigError(
        f"{name}:1:1: no column {colour}_s, {colour}_ms or {colour}_us; the header names {', '.join(header)}; name "
        "yours with --blue-column, --green-column or --aa-column and, where a name does not end in the unit, --unit"
    )


def _present(table: _Table, name: str) -> str:
    if name not in table.header:
        raise ConfigError(f"{table.name}:1:1: no column {name!r}; the header names {', '.join(table.header)}")
    return name


def _both(table: _Table, blue: str, green: str, columns: Columns) -> tuple[Array, Array]:
    """Return two latency columns of one unit in seconds, cut where both end."""
    units = [_unit(table, name, columns.unit) for name in (blue, green)]
    if units[0] != units[1]:
        raise table.header_fault(green, f"in {units[1]}, and {blue} is in {units[0]}; give both in one unit")
    names = [blue, green]
    statuses = [_status_column(table, name, units[0]) for name in names]
    cells = [
        table.columns[name] if not status else _failed_by_status(table, name, status)
        for name, status in zip(names, statuses, strict=True)
    ]
    count = _filled(table, [*names, *(one for one in statuses if one)])
    return tuple(  # type: ignore[return-value] # Two names in, two arrays out.
        _numbers(table, name, column[:count], zero_allowed=False) / UNITS[units[0]]
        for name, column in zip(names, cells, strict=True)
    )


def _unit(table: _Table, name: str, given: str) -> str:
    suffix = name.rpartition("_")[2]
    named = suffix if suffix in UNITS and suffix != name else ""
    if named and given and named != given:
        raise table.header_fault(name, f"its name says {named} and --unit says {given}")
    if not named and not given:
        raise table.header_fault(name, "its name does not end in _s, _ms or _us; give the unit with --unit")
    return named or given


def _status_column(table: _Table, name: str, unit: str) -> str:
    """Return the status column beside a latency column; empty where there is none."""
    status = f"{name.removesuffix(f'_{unit}')}_status"
    return status if status in table.header else ""


def _failed_by_status(table: _Table, name: str, status: str) -> Cells:
    """Return the latency cells with those of failed requests replaced; a status is ok, a failure, or an HTTP code."""
    cells = list(table.columns[name])
    for row, said in enumerate(table.columns[status]):
        word = "" if said is None else str(said).strip().lower()
        if word.isdigit():
            word = "ok" if 200 <= int(word) < 300 else "error"  # noqa: PLR2004 - HTTP's codes of success
        if word in FAILED_WORDS:
            cells[row] = math.inf
        elif word not in {"ok", ""} or (not word and not _is_empty(cells[row])):
            raise table.fault(row, status, f"{said!r} is no status; ok, timeout, error or an HTTP code is expected")
    return cells


def _aa_of(table: _Table, columns: Columns) -> Array:
    """Return the A/A history that a file holds; empty where it holds none."""
    if columns.aa:
        name = _present(table, columns.aa)
    elif "aa_ratio" in table.header:
        name = "aa_ratio"
    else:
        seats = ("aa_first", "aa_second")
        if not any(one in {f"{seat}_{unit}" for seat in seats for unit in UNITS} for one in table.header):
            return np.empty(0)
        first, second = (_latency_column(table, seat, "", Columns()) for seat in seats)
        return _ratios(*_both(table, first, second, Columns()))
    return _numbers(table, name, table.columns[name][: _filled(table, [name])], zero_allowed=True)


def _ratios(first_s: Array, second_s: Array) -> Array:
    """Return second / first, without the pairs in which both failed."""
    sound = np.isfinite(first_s) | np.isfinite(second_s)
    ratio: Array = second_s[sound] / first_s[sound]
    return ratio


def _filled(table: _Table, names: list[str]) -> int:
    """Return how many rows columns that belong together have; they may end before the file does, all at once."""
    count = len(table.lines)
    while count and all(_is_empty(table.columns[name][count - 1]) for name in names):
        count -= 1
    if count < len(table.lines) and all(_is_empty(column[count]) for column in table.columns.values()):
        raise table.fault(count, names[0], "empty, as is the whole row; leave it out")
    return count


def _numbers(table: _Table, name: str, cells: Cells, *, zero_allowed: bool) -> Array:
    try:
        values = np.array(cells, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.array([_number(table, name, row, cell) for row, cell in enumerate(cells)], dtype=np.float64)
    wrong = np.isnan(values) | ((values < 0.0) if zero_allowed else (values <= 0.0))
    if wrong.any():
        row = int(np.argmax(wrong))
        if _is_empty(cells[row]):
            raise _empty(table, row, name)
        least = "0 or more" if zero_allowed else "above 0"
        raise table.fault(row, name, f"{cells[row]} is no measurement: {least}, or inf, timeout or error, is expected")
    return values


def _number(table: _Table, name: str, row: int, cell: object) -> float:
    if _is_empty(cell):
        raise _empty(table, row, name)
    if isinstance(cell, str) and cell.strip().lower() in FAILED_WORDS:
        return math.inf
    try:
        return float(cell)  # type: ignore[arg-type] # What is no number says so.
    except (TypeError, ValueError):
        hint = "; write a point, not a comma" if isinstance(cell, str) and "," in cell else ""
        raise table.fault(row, name, f"{str(cell)[:40]!r} is no number{hint}") from None


def _empty(table: _Table, row: int, name: str) -> ConfigError:
    return table.fault(row, name, "empty; write inf, timeout or error where the request failed")


def _is_empty(cell: object) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip())
