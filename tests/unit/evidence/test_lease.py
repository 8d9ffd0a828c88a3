import fcntl
import json
import os

import pytest

from rollout.errors import ConfigError, ConflictError, EvidenceError, UnavailableError
from rollout.evidence.lease import FileLease

TTL_S = 30.0


@pytest.fixture
def lease(tmp_path, clock):
    def make(holder="one", sleep=lambda _: None):
        return FileLease(tmp_path, holder=holder, ttl_s=TTL_S, clock=clock, sleep=sleep)

    return make


def _stored(tmp_path):
    return json.loads((tmp_path / "lease.json").read_text())


def _change(tmp_path, **values):
    (tmp_path / "lease.json").write_text(json.dumps({**_stored(tmp_path), **values}))


def test_asking_whether_it_is_free_spends_no_generation_and_is_refused_as_taking_it_is(lease):
    one, other = lease("one"), lease("other")
    one.check_free()
    assert one.acquire() == 1
    with pytest.raises(ConflictError, match="held by one"):
        other.check_free()
    one.release()
    other.check_free()
    assert other.acquire() == 2


def test_generations_count_up(lease):
    for expected in (1, 2, 3):
        one = lease()
        assert one.acquire() == expected
        with one.hold() as generation:
            assert generation == expected
        one.release()


def test_a_held_lease_is_refused_with_everything_needed_to_find_its_holder(lease):
    lease("anna").acquire()
    with pytest.raises(ConflictError) as caught:
        lease("bert").acquire()
    text = str(caught.value)
    for part in ("anna", f"pid {os.getpid()}", os.uname().nodename, "1970-01-12T13:46:40", "1970-01-12T13:47:10"):
        assert part in text


def test_an_expired_lease_is_free_and_its_holder_is_fenced_off(lease, clock):
    one, two = lease("one"), lease("two")
    one.acquire()
    clock.now += TTL_S
    assert two.acquire() == 2
    for act in (one.renew, lambda: one.hold().__enter__()):
        with pytest.raises(ConflictError, match="taken from one by two"):
            act()
    one.release()
    with two.hold() as generation:
        assert generation == 2


def test_an_expired_lease_that_nobody_took_is_still_ours_and_renewed(lease, clock, tmp_path):
    one = lease()
    one.acquire()
    clock.now += 10 * TTL_S
    with one.hold() as generation:
        assert generation == 1
        assert _stored(tmp_path)["expires_at"] == clock.now + TTL_S
    with pytest.raises(ConflictError):
        lease("two").acquire()


def test_hold_renews_only_when_less_than_half_is_left(lease, clock, tmp_path):
    one = lease()
    one.acquire()
    first = _stored(tmp_path)["expires_at"]
    clock.now += TTL_S / 2
    with one.hold():
        assert _stored(tmp_path)["expires_at"] == first
    clock.now += 1.0
    with one.hold():
        assert _stored(tmp_path)["expires_at"] == clock.now + TTL_S


def test_renew_moves_the_expiry(lease, clock, tmp_path):
    one = lease()
    one.acquire()
    clock.now += 1.0
    one.renew()
    assert _stored(tmp_path)["expires_at"] == clock.now + TTL_S


def test_holds_nest_and_the_lock_is_kept_until_the_outermost_ends(lease):
    one, two = lease("one"), lease("two")
    one.acquire()
    with one.hold() as outer:
        with one.hold() as inner:
            assert inner == outer
            one.renew()
        with pytest.raises(UnavailableError, match=r"may be stopped: last seen one \(pid"):
            two.acquire()
    with pytest.raises(ConflictError):
        two.acquire()


def test_an_error_inside_a_hold_unlocks(lease):
    one = lease()
    one.acquire()
    with pytest.raises(ZeroDivisionError), one.hold(), one.hold():
        raise ZeroDivisionError
    with one.hold() as generation:
        assert generation == 1


def test_a_lock_that_is_freed_while_waiting_is_taken(lease):
    one = lease("one")
    one.acquire()
    held = one.hold()
    held.__enter__()
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            held.__exit__(None, None, None)
            one.release()

    assert lease("two", sleep=sleep).acquire() == 2
    assert len(waits) == 3


def test_the_lock_is_waited_for_five_seconds(lease):
    one = lease("one")
    one.acquire()
    waits = []
    with one.hold(), pytest.raises(UnavailableError):
        lease("two", sleep=waits.append).acquire()
    assert sum(waits) == pytest.approx(5.0)


def test_what_was_never_acquired_or_was_released_holds_nothing(lease):
    one = lease()
    with pytest.raises(ConflictError, match="not acquired"), one.hold():
        pass
    one.acquire()
    one.release()
    one.release()
    with pytest.raises(ConflictError, match="not acquired"), one.hold():
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema":"rollout.lease/v9"}', "\0" * 512])
def test_a_damaged_lease_is_told_and_never_read_as_none(lease, tmp_path, content):
    one = lease()
    one.acquire()
    (tmp_path / "lease.json").write_text(content)
    for act in (lease("two").acquire, one.renew, lambda: one.hold().__enter__()):
        with pytest.raises(EvidenceError, match=r"lease\.json, key .*make sure that no controller runs"):
            act()
    assert (tmp_path / "lease.json").read_text() == content


def test_generations_do_not_fall_when_the_lease_file_is_removed(lease, tmp_path, begun, fence, said):
    one = lease()
    one.acquire()
    (tmp_path / "lease.json").unlink()
    with pytest.raises(ConflictError, match="was removed"), one.hold():
        pass
    assert lease("two").acquire() == 4
    fence.generation = 12
    begun.append(said("resumed"), at=2.0)
    (tmp_path / "lease.json").unlink()
    assert lease("three").acquire() == 13


def test_a_run_folder_of_a_higher_generation_counts_even_beside_a_lease(lease, tmp_path):
    one = lease()
    one.acquire()
    one.release()
    (tmp_path / "runs" / "r000040-x").mkdir(parents=True)
    assert lease().acquire() == 41


def test_a_dead_process_of_this_machine_frees_its_lease_at_once(lease, tmp_path):
    lease().acquire()
    _change(tmp_path, pid=4_194_305)  # Above the highest process id that Linux gives.
    assert lease("two").acquire() == 2


def test_a_process_id_that_was_given_again_frees_the_lease(lease, tmp_path):
    lease().acquire()
    _change(tmp_path, process_started="1")
    assert lease("two").acquire() == 2


@pytest.mark.parametrize("other", [{"boot_id": "another"}, {"pid_namespace": "pid:[1]"}, {"process_started": ""}])
def test_what_cannot_be_known_to_be_dead_keeps_its_lease_until_expiry(lease, clock, tmp_path, other):
    lease().acquire()
    _change(tmp_path, **{"pid": 4_194_305, **other})
    with pytest.raises(ConflictError):
        lease("two").acquire()
    clock.now += TTL_S
    assert lease("two").acquire() == 2


def test_a_lock_on_a_file_that_was_replaced_meanwhile_is_not_trusted(lease, tmp_path, monkeypatch):
    one = lease()
    one.acquire()
    real = fcntl.flock
    calls = []

    def flock(fd, how):
        calls.append(fd)
        if len(calls) == 1:
            (tmp_path / "lease.lock").unlink()
            (tmp_path / "lease.lock").touch()
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with one.hold(), pytest.raises(UnavailableError):
        lease("two").acquire()


def test_a_lease_without_time_to_live_is_refused(tmp_path, clock):
    for ttl_s in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError):
            FileLease(tmp_path, holder="x", ttl_s=ttl_s, clock=clock)


def test_a_full_disk_keeps_nobody_from_renewing_releasing_and_taking_over(small_disk, clock, fill):
    one = FileLease(small_disk, holder="one", ttl_s=TTL_S, clock=clock)
    one.acquire()
    fill(small_disk)
    clock.now += TTL_S - 1.0
    one.renew()
    assert _stored(small_disk)["expires_at"] == clock.now + TTL_S
    clock.now += TTL_S - 1.0
    with one.hold() as generation:
        assert generation == 1
    assert _stored(small_disk)["expires_at"] == clock.now + TTL_S
    one.release()
    two = FileLease(small_disk, holder="two", ttl_s=TTL_S, clock=clock)
    assert two.acquire() == 2
    with pytest.raises(ConflictError), one.hold():
        pass


def test_a_first_lease_on_a_full_disk_is_refused(small_disk, clock, fill):
    fill(small_disk)
    with pytest.raises(UnavailableError, match="make room"):
        FileLease(small_disk, holder="one", ttl_s=TTL_S, clock=clock).acquire()
    assert not (small_disk / "lease.json").exists()
