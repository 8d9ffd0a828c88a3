import errno
import json
import os
import subprocess
import sys

import pytest

from rollout.errors import ConflictError, EvidenceError, InvariantError, UnavailableError
from rollout.evidence.journal import Journal, ballast_bytes, read_journal
from rollout.evidence.objects import ObjectStore
from rollout.model.canonical import canonical_bytes
from rollout.model.journal import GENESIS, BundleSealed, seal


def _line(record):
    return canonical_bytes(record.model_dump(mode="json")) + b"\n"


def _append_until_full(journal, body):
    while True:
        journal.append(body, at=4.0)


@pytest.fixture
def four(begun, said):
    for number, text in enumerate(["eins", 'zwei "und" {"x":1}', "drei ä\n\u2028"]):
        begun.append(said(text), at=2.0 + number)
    return begun


@pytest.fixture
def first(requested, tmp_path):
    return requested(ObjectStore(tmp_path / "objects"))


def test_what_was_appended_is_read_back(four):
    assert read_journal(four.path) == four.records
    assert [record.seq for record in four.records] == [0, 1, 2, 3]
    assert four.records[0].prev == GENESIS


def test_a_whole_number_as_time_does_not_break_the_chain(begun, said):
    begun.append(said("x"), at=7)
    assert read_journal(begun.path)[-1].at == 7.0


def test_a_journal_cut_after_every_byte_keeps_every_acknowledged_record(four, fence, said, put):
    whole = four.path.read_bytes()
    ends = [index for index, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole)):
        put(four.path, whole[:cut])
        acknowledged = sum(1 for end in ends if end < cut)
        if cut < ends[0]:
            with pytest.raises(EvidenceError, match="line 1"):
                Journal.open(four.path, fence=fence)
            assert four.path.read_bytes() == whole[:cut]
            continue
        opened = Journal.open(four.path, fence=fence)
        kept = acknowledged + (1 if cut in ends else 0)
        assert opened.records == four.records[:kept]
        at_end = cut in ends or cut - 1 in ends
        assert bool(opened.cut) == (not at_end)
        assert four.path.read_bytes() == whole[: ends[kept - 1] + 1]
        opened.append(said("weiter"), at=9.0)
        assert len(read_journal(four.path)) == kept + 1


def test_a_torn_tail_is_told_and_left_out_where_tolerated(four, fence):
    whole = four.path.read_bytes()
    four.path.write_bytes(whole[:-10])
    with pytest.raises(EvidenceError, match=r"line 4: the last line is torn"):
        read_journal(four.path)
    assert read_journal(four.path, tolerate_torn=True) == four.records[:3]
    assert four.path.read_bytes() == whole[:-10]
    assert Journal.open(four.path, fence=fence).cut == whole.splitlines()[-1][:-9].decode()


def test_a_tail_of_zeros_after_a_power_cut_is_torn(four, fence):
    with four.path.open("ab") as file:
        file.write(b"\0" * 300)
    assert Journal.open(four.path, fence=fence).records == four.records


def test_a_missing_last_newline_is_told_and_mended_without_losing_the_record(four, fence):
    whole = four.path.read_bytes()
    four.path.write_bytes(whole[:-1])
    with pytest.raises(EvidenceError, match="newline"):
        read_journal(four.path)
    assert read_journal(four.path, tolerate_torn=True) == four.records
    opened = Journal.open(four.path, fence=fence)
    assert opened.records == four.records
    assert four.path.read_bytes() == whole


@pytest.mark.parametrize("after", [b" ", b"x", b"\0", b"{", b"\r"])
def test_a_complete_record_followed_by_anything_but_newline_is_damage(four, fence, after):
    damaged = four.path.read_bytes()[:-1] + after
    four.path.write_bytes(damaged)
    with pytest.raises(EvidenceError, match="line 4"):
        Journal.open(four.path, fence=fence)
    with pytest.raises(EvidenceError, match="line 4"):
        read_journal(four.path, tolerate_torn=True)
    assert four.path.read_bytes() == damaged


def test_damage_in_the_middle_names_file_and_line(four):
    lines = four.path.read_bytes().splitlines(keepends=True)
    four.path.write_bytes(b"".join([lines[0], lines[1][:50], b"\n", *lines[2:]]))
    with pytest.raises(EvidenceError, match=r"journal\.jsonl, line 2, .*restore"):
        read_journal(four.path, tolerate_torn=True)


def test_an_empty_line_is_damage(four):
    with four.path.open("ab") as file:
        file.write(b"\n")
    with pytest.raises(EvidenceError, match="line 5"):
        read_journal(four.path)


def test_equal_content_in_other_bytes_is_damage(four):
    lines = four.path.read_bytes().splitlines()
    spaced = json.dumps(json.loads(lines[1]), sort_keys=True, ensure_ascii=False).encode()
    four.path.write_bytes(b"\n".join([lines[0], spaced, *lines[2:], b""]))
    with pytest.raises(EvidenceError, match="line 2: the bytes are not the canonical form"):
        read_journal(four.path)


def test_a_record_that_was_taken_out_is_found(four):
    lines = four.path.read_bytes().splitlines(keepends=True)
    four.path.write_bytes(b"".join(lines[:1] + lines[2:]))
    with pytest.raises(EvidenceError, match="line 2, key prev"):
        read_journal(four.path)


def test_a_journal_that_begins_with_another_record_is_damage(four, said):
    record = seal(seq=0, at=1.0, generation=3, prev=GENESIS, body=said("x"))
    four.path.write_bytes(_line(record))
    with pytest.raises(EvidenceError, match="must be run_requested"):
        read_journal(four.path)


def test_a_wrong_count_is_damage_even_in_a_correct_chain(four, said):
    record = seal(seq=5, at=1.0, generation=3, prev=four.records[-1].hash, body=said("x"))
    with four.path.open("ab") as file:
        file.write(_line(record))
    with pytest.raises(EvidenceError, match="line 5, key seq: must be 4, is 5"):
        read_journal(four.path)


def test_a_falling_generation_is_damage_even_in_a_correct_chain(four, said):
    record = seal(seq=4, at=1.0, generation=2, prev=four.records[-1].hash, body=said("x"))
    with four.path.open("ab") as file:
        file.write(_line(record))
    with pytest.raises(EvidenceError, match="generation: falls from 3 to 2"):
        read_journal(four.path)


def test_a_record_of_an_older_generation_is_refused(four, fence, said):
    before = four.path.read_bytes()
    fence.generation = 2
    with pytest.raises(ConflictError, match="generation 3, ours is 2"):
        four.append(said("late"), at=9.0)
    assert four.path.read_bytes() == before


def test_a_controller_that_lost_its_lease_changes_nothing(four, fence, said):
    before = four.path.read_bytes()
    fence.lost = True
    with pytest.raises(ConflictError):
        four.append(said("late"), at=9.0)
    with pytest.raises(ConflictError):
        Journal.open(four.path, fence=fence)
    assert four.path.read_bytes() == before
    assert len(four.records) == 4


def test_two_writers_cannot_both_append(four, fence, said):
    other = Journal.open(four.path, fence=fence)
    other.append(said("from the other"), at=9.0)
    before = four.path.read_bytes()
    with pytest.raises(ConflictError, match="another controller wrote"):
        four.append(said("from us"), at=9.0)
    assert four.path.read_bytes() == before


def test_a_journal_that_was_cut_or_rewritten_behind_our_back_is_not_continued(four, said):
    whole = four.path.read_bytes()
    for changed in (whole[:-40], whole[:-5] + b'0"}}\n'):
        four.path.write_bytes(changed)
        with pytest.raises(EvidenceError, match="no longer ends with"):
            four.append(said("x"), at=9.0)
        assert four.path.read_bytes() == changed


def test_nothing_follows_a_seal(four, fence, said):
    four.append(BundleSealed(files={}), at=9.0)
    with pytest.raises(InvariantError, match="sealed"):
        four.append(said("x"), at=9.0)
    record = seal(seq=5, at=1.0, generation=3, prev=four.records[-1].hash, body=said("x"))
    with four.path.open("ab") as file:
        file.write(_line(record))
    with pytest.raises(EvidenceError, match="follows the seal"):
        Journal.open(four.path, fence=fence)


def test_a_journal_is_never_created_over_another(four, fence):
    before = four.path.read_bytes()
    with pytest.raises(ConflictError, match="exists already"):
        Journal.create(four.path, fence=fence, first=four.records[0].body, at=1.0)
    assert four.path.read_bytes() == before


def test_a_journal_begins_with_the_request(tmp_path, fence, said):
    with pytest.raises(InvariantError):
        Journal.create(tmp_path / "run" / "journal.jsonl", fence=fence, first=said("x"), at=1.0)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("raised", [OSError(errno.EIO, "broken"), KeyboardInterrupt()])
def test_an_append_that_is_not_acknowledged_leaves_the_journal_as_it_was(four, said, monkeypatch, raised):
    before = four.path.read_bytes()
    real = os.fsync
    calls = []

    def fsync(fd):
        calls.append(fd)
        if len(calls) == 1:
            raise raised
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(UnavailableError if isinstance(raised, OSError) else KeyboardInterrupt):
        four.append(said("x"), at=9.0)
    assert four.path.read_bytes() == before
    assert not four.strained
    four.append(said("y"), at=9.0)
    assert read_journal(four.path) == four.records


def test_a_spent_ballast_is_replaced_when_the_run_is_resumed(four, fence):
    ballast = four.path.parent / "ballast"
    assert ballast.read_bytes() == ballast_bytes()
    ballast.unlink()
    assert not Journal.open(four.path, fence=fence).strained
    assert ballast.read_bytes() == ballast_bytes()


def test_on_a_full_disk_the_ballast_buys_room_for_a_hundred_records(small_disk, fence, first, said, fill):
    path = small_disk / "run" / "journal.jsonl"
    journal = Journal.create(path, fence=fence, first=first, at=1.0)
    fill(small_disk)
    number = 0
    while not journal.strained:
        journal.append(said(f"record {number}"), at=2.0)
        number += 1
    assert not (path.parent / "ballast").exists()
    for _ in range(100):
        journal.append(said("rolling back"), at=3.0)
    with pytest.raises(UnavailableError, match=rf"append to {path}.*0 bytes are free"):
        _append_until_full(journal, said("x" * 1000))
    assert read_journal(path) == journal.records
    resumed = Journal.open(path, fence=fence)
    assert resumed.records == journal.records
    assert resumed.strained
    (small_disk / "filler").unlink()
    journal.append(said("there is room again"), at=5.0)
    assert read_journal(path) == journal.records


def test_no_journal_begins_on_a_full_disk(small_disk, fence, first, fill):
    fill(small_disk)
    with pytest.raises(UnavailableError, match="make room"):
        Journal.create(small_disk / "run" / "journal.jsonl", fence=fence, first=first, at=1.0)
    assert not (small_disk / "run" / "journal.jsonl").exists()


LIMITED = """
import resource, sys
from contextlib import contextmanager
from pathlib import Path
from rollout.errors import UnavailableError
from rollout.evidence.journal import Journal, read_journal
from rollout.model.journal import Retired
from rollout.model.roles import Slot

class Fence:
    @contextmanager
    def hold(self):
        yield 3

path = Path(sys.argv[1])
journal = Journal.open(path, fence=Fence())
size = path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
try:
    journal.append(Retired(slot=Slot.GREEN), at=9.0)
except UnavailableError as error:
    print(error)
assert journal.strained
assert not (path.parent / "ballast").exists()
assert path.stat().st_size == size
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.append(Retired(slot=Slot.GREEN), at=9.0)
assert len(read_journal(path)) == 5
"""


def test_a_write_cut_short_by_a_file_size_limit_is_taken_back(four):
    done = subprocess.run([sys.executable, "-c", LIMITED, str(four.path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "even without the ballast" in done.stdout
    assert "File too large" in done.stdout
