"""A cache folder that changes across warm-up."""

import os

import pytest

from rollout.errors import UnavailableError
from rollout.serving.plans.cache_watch import cache_changes, read_cache


@pytest.fixture
def cache(tmp_path):
    folder = tmp_path / "cache"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.engine").write_bytes(b"one")
    (folder / "sub" / "b.engine").write_bytes(b"two")
    return folder


def test_cache_that_nobody_touched_is_equal(cache):
    before = read_cache(cache)
    os.utime(cache / "a.engine", (1, 1))  # Reading may touch times; content decides.
    after = read_cache(cache)
    assert cache_changes(before, after) == []
    assert before.digest == after.digest
    assert set(before.files) == {"a.engine", "sub/b.engine"}


def test_every_added_changed_and_removed_file_is_named(cache):
    before = read_cache(cache)
    (cache / "a.engine").write_bytes(b"eno")
    (cache / "sub" / "b.engine").unlink()
    (cache / "sub" / "c.engine").write_bytes(b"")
    changes = cache_changes(before, read_cache(cache))
    assert changes == ["added sub/c.engine", "changed a.engine", "removed sub/b.engine"]
    assert before.digest != read_cache(cache).digest


def test_folder_that_the_runtime_makes_during_warm_up_was_rebuilt(tmp_path, cache):
    before = read_cache(tmp_path / "later")
    cache.rename(tmp_path / "later")
    assert cache_changes(before, read_cache(tmp_path / "later")) == ["added a.engine, sub/b.engine"]


def test_file_that_becomes_a_link_to_other_bytes_is_changed(cache, tmp_path):
    before = read_cache(cache)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "b.engine").write_bytes(b"2")
    (cache / "sub" / "b.engine").unlink()
    (cache / "sub" / "b.engine").symlink_to(tmp_path / "other" / "b.engine")
    (cache / "linked").symlink_to(tmp_path / "other")
    (cache / "broken").symlink_to(tmp_path / "nothing")
    assert cache_changes(before, read_cache(cache)) == ["added broken, linked", "changed sub/b.engine"]


def test_cache_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "cache").write_bytes(b"")
    with pytest.raises(UnavailableError, match="engine cache"):
        read_cache(tmp_path / "cache")
