import pytest

from rollout.errors import EvidenceError
from rollout.evidence.baselines import BaselineStore, read_baseline, write_baseline
from rollout.model.evidence import Baseline
from rollout.model.inventory import Absent
from rollout.model.snapshot import Capability, CapabilitySnapshot, CapabilityStatus

RELEASE = "sha256:" + "a" * 64
HEX = RELEASE[7:]


def _baseline(made_at, release=RELEASE):
    ok, error = CapabilityStatus.OK, CapabilityStatus.ERROR
    snapshot = CapabilitySnapshot(
        schema="rollout.snapshot/v1",
        fields={
            "gpu.count": Capability(value=1, source="nvml", status=ok),
            "gpu.share": Capability(value=1.0, source="nvml", status=ok),
            "gpu.mig": Capability(value=False, source="nvml", status=ok),
            "providers": Capability(value=["cuda", "cpu"], source="ort", status=ok),
            "driver": Capability(value=None, source="nvml", status=error, reason="no Gerät"),
        },
    )
    return Baseline(
        schema="rollout.baseline/v1",
        release_digest=release,
        snapshot=snapshot,
        prompts_digest="sha256:" + "b" * 64,
        protocol={"latency": "wall", "warmup": 2, "share": 2.0},
        made_at=made_at,
        made_by_run="r000001-x",
        aa_ratio=[1.0, 0.98],
        latency_s={"cat": [0.1, 2.0]},
    )


def test_a_release_without_baseline_is_absent_with_a_reason(tmp_path):
    absent = BaselineStore(tmp_path / "none").get(RELEASE)
    assert isinstance(absent, Absent)
    assert RELEASE in absent.reason


def test_the_newest_is_got_and_earlier_ones_are_kept_in_order(tmp_path):
    store = BaselineStore(tmp_path / "baselines")
    other = _baseline(0.5, release="sha256:" + "c" * 64)
    store.put(other)
    for made_at in (1.0, 2.0, 3.0):
        store.put(_baseline(made_at))
    assert store.get(RELEASE) == _baseline(3.0)
    assert store.get(other.release_digest) == other
    kept = sorted(path.name for path in (tmp_path / "baselines").glob(f"{HEX}.*.json"))
    assert kept == [f"{HEX}.1.json", f"{HEX}.2.json"]
    (tmp_path / "baselines" / f"{HEX}.2.json").replace(tmp_path / "baselines" / f"{HEX}.json")
    assert store.get(RELEASE) == _baseline(2.0)


def test_putting_the_same_again_changes_nothing(tmp_path):
    store = BaselineStore(tmp_path)
    store.put(_baseline(1.0))
    store.put(_baseline(1.0))
    assert [path.name for path in tmp_path.iterdir()] == [f"{HEX}.json"]


def test_a_put_that_crashed_after_keeping_the_old_one_keeps_it_once(tmp_path):
    store = BaselineStore(tmp_path)
    store.put(_baseline(1.0))
    (tmp_path / f"{HEX}.1.json").write_bytes((tmp_path / f"{HEX}.json").read_bytes())
    store.put(_baseline(2.0))
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{HEX}.1.json", f"{HEX}.json"]


def test_every_changed_byte_of_a_baseline_is_found(tmp_path, put):
    store = BaselineStore(tmp_path)
    store.put(_baseline(1.0))
    path = tmp_path / f"{HEX}.json"
    whole = path.read_bytes()
    for index, byte in enumerate(whole):
        for flip in (0x01, 0x10, 0x80):
            put(path, whole[:index] + bytes([byte ^ flip]) + whole[index + 1 :])
            with pytest.raises(EvidenceError, match=HEX):
                store.get(RELEASE)


def test_the_baseline_of_another_release_is_not_taken_for_this_one(tmp_path):
    store = BaselineStore(tmp_path)
    other = _baseline(1.0, release="sha256:" + "c" * 64)
    store.put(other)
    (tmp_path / f"{'c' * 64}.json").rename(tmp_path / f"{HEX}.json")
    with pytest.raises(EvidenceError, match="is the baseline of"):
        store.get(RELEASE)


def test_what_is_no_digest_never_becomes_a_path(tmp_path):
    with pytest.raises(EvidenceError, match="no digest"):
        BaselineStore(tmp_path).get("../x")


def test_every_version_is_listed_oldest_first_and_the_last_is_in_use(tmp_path):
    store = BaselineStore(tmp_path)
    other = "sha256:" + "c" * 64
    store.put(_baseline(9.0, release=other))
    for made_at in range(1, 13):
        store.put(_baseline(float(made_at)))
    versions = store.versions(RELEASE)
    assert [one.number for one in versions] == list(range(1, 13))
    assert [one.baseline.made_at for one in versions] == [float(one) for one in range(1, 13)]
    assert versions[-1].baseline == store.get(RELEASE)
    assert len({one.digest for one in versions}) == 12
    assert store.releases() == (RELEASE, other)


def test_baseline_that_a_crash_left_twice_is_one_version(tmp_path):
    store = BaselineStore(tmp_path)
    store.put(_baseline(1.0))
    (tmp_path / f"{HEX}.1.json").write_bytes((tmp_path / f"{HEX}.json").read_bytes())
    assert [one.number for one in store.versions(RELEASE)] == [1]


def test_store_without_a_baseline_lists_none(tmp_path):
    store = BaselineStore(tmp_path / "none")
    assert store.releases() == ()
    assert store.versions(RELEASE) == ()


def test_damaged_earlier_version_is_found_when_versions_are_read(tmp_path, put):
    store = BaselineStore(tmp_path)
    store.put(_baseline(1.0))
    store.put(_baseline(2.0))
    path = tmp_path / f"{HEX}.1.json"
    put(path, path.read_bytes().replace(b'"made_at":1.0', b'"made_at":1.5'))
    with pytest.raises(EvidenceError, match=f"{HEX}.1.json"):
        store.versions(RELEASE)
    assert store.get(RELEASE) == _baseline(2.0)


def test_a_baseline_outside_a_store_has_the_form_of_one_inside(tmp_path):
    store, lone = BaselineStore(tmp_path / "store"), tmp_path / "lone.json"
    store.put(_baseline(1.0))
    digest = write_baseline(lone, _baseline(1.0))
    assert lone.read_bytes() == (tmp_path / "store" / f"{HEX}.json").read_bytes()
    assert (read_baseline(lone).baseline, read_baseline(lone).digest) == (_baseline(1.0), digest)
    assert digest == store.versions(RELEASE)[-1].digest


def test_a_lone_baseline_with_any_byte_changed_is_refused(tmp_path):
    lone = tmp_path / "lone.json"
    write_baseline(lone, _baseline(1.0))
    data = lone.read_bytes()
    for place in range(0, len(data), 7):
        lone.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(EvidenceError, match=str(lone)):
            read_baseline(lone)


def test_a_lone_baseline_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(EvidenceError, match="does not exist"):
        read_baseline(tmp_path / "none.json")
