import pytest

from rollout.errors import ConflictError, EvidenceError, InvariantError, UnavailableError
from rollout.evidence.objects import ObjectStore
from rollout.model.canonical import digest_bytes, digest_json

VALUE = {"b": [1, 2.5, None], "a": "ä"}


def test_what_was_put_is_got_back_under_its_digest(tmp_path):
    store = ObjectStore(tmp_path / "objects")
    assert store.put_json(VALUE) == digest_json(VALUE)
    assert store.get_json(digest_json(VALUE)) == VALUE
    picture = store.put_bytes(b"\x89PNG...", ".png")
    assert store.get_bytes(picture) == b"\x89PNG..."
    names = {path.name for path in (tmp_path / "objects").iterdir()}
    assert names == {f"{digest_json(VALUE)[7:]}.json", f"{picture[7:]}.png"}


def test_a_second_put_writes_nothing(tmp_path):
    digest = ObjectStore(tmp_path).put_json(VALUE)
    path = tmp_path / f"{digest[7:]}.json"
    before = path.stat()
    assert ObjectStore(tmp_path).put_json(VALUE) == digest
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_changed_object_is_not_returned_nor_accepted_as_put(tmp_path):
    store = ObjectStore(tmp_path)
    digest = store.put_json(VALUE)
    (tmp_path / f"{digest[7:]}.json").write_bytes(b"{}")
    with pytest.raises(EvidenceError, match="was changed"):
        store.get_json(digest)
    with pytest.raises(EvidenceError, match="was changed"):
        ObjectStore(tmp_path).put_json(VALUE)


def test_a_missing_object_is_told(tmp_path):
    with pytest.raises(EvidenceError, match="is not in"):
        ObjectStore(tmp_path / "none").get_bytes(digest_bytes(b"x"))


def test_an_object_that_is_no_json_is_told(tmp_path):
    store = ObjectStore(tmp_path)
    with pytest.raises(EvidenceError, match="is not JSON"):
        store.get_json(store.put_bytes(b"\x89PNG", ".png"))


@pytest.mark.parametrize(
    "name", ["sha256:../../etc/passwd", "sha256:" + "A" * 64, "f" * 64, "sha256:" + "0" * 64 + "\n"]
)
def test_what_is_no_digest_never_becomes_a_path(tmp_path, name):
    with pytest.raises(EvidenceError, match="no digest"):
        ObjectStore(tmp_path).get_bytes(name)


def test_only_known_suffixes_are_stored(tmp_path):
    with pytest.raises(InvariantError, match="suffix"):
        ObjectStore(tmp_path).put_bytes(b"x", ".exe")


def test_a_controller_that_lost_its_lease_puts_nothing(tmp_path, fence):
    fence.lost = True
    with pytest.raises(ConflictError):
        ObjectStore(tmp_path / "objects", fence=fence).put_json(VALUE)
    assert not (tmp_path / "objects").exists()


def test_a_put_on_a_full_disk_leaves_nothing_behind(small_disk, fill):
    store = ObjectStore(small_disk / "objects")
    store.put_json(VALUE)
    fill(small_disk)
    with pytest.raises(UnavailableError, match="0 bytes are free"):
        store.put_bytes(b"x" * 5000, ".png")
    assert len(list((small_disk / "objects").iterdir())) == 1
