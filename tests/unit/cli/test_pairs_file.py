"""The file contract of `rollout judge`: what is read, and how each fault is told."""

import math
import sys

import numpy as np
import pytest

from rollout.cli.pairs_file import Columns, read_history, read_pairs
from rollout.errors import ConfigError


@pytest.fixture
def file(tmp_path):
    def write(text, name="pairs.csv"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_pairs_and_history_of_one_file_are_read_in_seconds_and_in_order(file):
    found = read_pairs(file("prompt,blue_ms,green_ms,aa_ratio\na,100,110,1.01\nb,200,250,0.99\n,,,1.02\n"), Columns())
    assert found.blue_s.tolist() == [0.1, 0.2]
    assert found.green_s.tolist() == [0.11, 0.25]
    assert found.aa_ratio.tolist() == [1.01, 0.99, 1.02]


@pytest.mark.parametrize("word", ["inf", "timeout", "error", "Timeout", "FAILED"])
def test_a_failed_request_is_infinite(file, word):
    found = read_pairs(file(f"blue_s,green_s\n0.1,{word}\n0.1,0.1\n"), Columns())
    assert found.green_s.tolist() == [math.inf, 0.1]


def test_a_status_column_decides_whether_a_latency_counts(file):
    text = "blue_s,green_s,green_status\n0.1,0.2,200\n0.1,0.001,503\n0.1,,timeout\n0.1,0.3,ok\n"
    assert read_pairs(file(text), Columns()).green_s.tolist() == [0.2, math.inf, math.inf, 0.3]


def test_own_column_names_a_semicolon_and_a_byte_order_mark_are_read(file):
    path = file("﻿stable;canary;noise\n5;6;1.5\n")
    columns = Columns(blue="stable", green="canary", aa="noise", unit="us")
    found = read_pairs(path, columns)
    assert found.blue_s.tolist() == [5e-6]
    assert found.aa_ratio.tolist() == [1.5]


def test_history_is_two_blue_seats_of_the_same_file_or_of_a_file_of_pairs(file):
    both = file("blue_s,green_s,aa_first_s,aa_second_s\n1,1,2,3\n1,1,timeout,timeout\n1,1,1,timeout\n")
    assert read_pairs(both, Columns()).aa_ratio.tolist() == [1.5, math.inf]
    assert read_history(file("blue_ms,green_ms\n10,11\n", "aa.csv"), Columns()) == pytest.approx([1.1])
    assert read_history(file("aa_ratio\n1.1\n", "ratio.csv"), Columns()).tolist() == [1.1]


@pytest.mark.parametrize(
    ("text", "where", "says"),
    [
        ("", ":1:1:", "the file is empty"),
        ("blue_s,green_s\n", "pairs.csv:", "holds no pair"),
        ("before,after\n1,2\n", ":1:1:", "no column blue_s"),
        ("blue_s,blue_ms,green_s\n1,1,1\n", ":1:2:", "blue_s is there too"),
        ("blue_s,green_ms\n1,1\n", ":1:2:", "in ms, and blue_s is in s"),
        ("blue_s,blue_s,green_s\n1,1,1\n", ":1:1:", "two columns are named"),
        ("blue_s,green_s\n1,1\n1\n", ":3:2:", "1 cells, and the header names 2"),
        ("blue_s,green_s\n1,1\n1,\n", ":3:2:", "empty; write inf, timeout or error"),
        ("blue_s,green_s\n1,1\n,\n", ":3:1:", "empty, as is the whole row"),
        ("blue_s,green_s\n1,1\n,\n1,1\n", ":3:1:", "empty"),
        ("blue_s,green_s\n1,1\n\n1,1\n", ":3:1:", "the line is empty"),
        ("blue_s,green_s\n1,1\n1,nan\n", ":3:2:", "nan is no measurement"),
        ("blue_s,green_s\n1,1\n0,1\n", ":3:1:", "0 is no measurement"),
        ("blue_s,green_s\n1,1\n-1,1\n", ":3:1:", "-1 is no measurement"),
        ("blue_s,green_s\n1,12ms\n", ":2:2:", "'12ms' is no number"),
        ("blue_s;green_s\n1;0,5\n", ":2:2:", "write a point, not a comma"),
        ("blue_s,green_s,green_status\n1,1,maybe\n", ":2:3:", "'maybe' is no status"),
        ("blue_s,green_s,green_status\n1,1,\n", ":2:3:", "is no status"),
        ("blue_s,green_s,aa_ratio\n1,1,1\n1,1,-2\n", ":3:3:", "0 or more"),
        ("blue_s,green_s,aa_first_s\n1,1,1\n", ":1:1:", "no column aa_second_s"),
    ],
)
def test_a_fault_is_told_with_line_and_column(file, text, where, says):
    with pytest.raises(ConfigError) as told:
        read_pairs(file(text), Columns())
    assert where in str(told.value)
    assert says in str(told.value)


def test_a_unit_that_contradicts_the_columns_name_is_refused(file):
    with pytest.raises(ConfigError, match=r":1:1: column blue_s: its name says s and --unit says ms"):
        read_pairs(file("blue_s,green_s\n1,1\n"), Columns(unit="ms"))


def test_a_column_without_a_unit_is_refused(file):
    with pytest.raises(ConfigError, match="give the unit with --unit"):
        read_pairs(file("a,b\n1,1\n"), Columns(blue="a", green="b"))


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_bytes(b"blue_s,green_s\n\xff\xfe,1\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_pairs(path, Columns())
    with pytest.raises(ConfigError, match="a folder"):
        read_pairs(tmp_path, Columns())
    with pytest.raises(ConfigError, match="no such file"):
        read_pairs(tmp_path / "none.csv", Columns())


def test_parquet_says_the_same_as_csv(file, tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "pairs.parquet"
    table = arrow.table(
        {"blue_ms": [100.0, 200.0, None], "green_ms": ["110", "timeout", None], "aa_ratio": [1.0, 2.0, 3.0]}
    )
    parquet.write_table(table, path)
    same = file("blue_ms,green_ms,aa_ratio\n100,110,1\n200,timeout,2\n,,3\n")
    found, expected = read_pairs(path, Columns()), read_pairs(same, Columns())
    for name in ("blue_s", "green_s", "aa_ratio"):
        assert np.array_equal(getattr(found, name), getattr(expected, name))


def test_a_null_and_a_broken_parquet_file_are_refused(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "pairs.parquet"
    parquet.write_table(arrow.table({"blue_s": [1.0, None], "green_s": [1.0, 1.0]}), path)
    with pytest.raises(ConfigError, match=r":2:1: column blue_s: empty"):
        read_pairs(path, Columns())
    path.write_bytes(b"PAR1 nothing")
    with pytest.raises(ConfigError, match="cannot be read as Parquet"):
        read_pairs(path, Columns())


def test_without_pyarrow_the_message_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r'pip install "rollout\[parquet\]"'):
        read_pairs(tmp_path / "pairs.parquet", Columns())
