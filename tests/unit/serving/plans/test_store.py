"""The plan store: every fault seeded and refused, nothing lost in a crash."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rollout.errors import ConfigError, EvidenceError, UnavailableError
from rollout.model.reasons import REASONS
from rollout.model.verdict import Reason, Severity
from rollout.serving.plans.disk import locked
from rollout.serving.plans.faults import PlanError, PlanFault
from rollout.serving.plans.manifest import MANIFEST_SCHEMA, PlanFile, PlanManifest
from rollout.serving.plans.store import PlanStore

ROOT = Path(__file__).parents[4]


def _object(store, plan, at=0):
    return store._objects / plan.files[at].digest.removeprefix("sha256:")


def _manifest(store, key):
    return store._manifests / f"{key.digest.removeprefix('sha256:')}.json"


def _codes(store):
    return [one.code for one in store.verify()]


def _forge(store, key, path, name=None):
    """Store a file whose digests are right under a key that it does not fit: what `add` would refuse."""
    file = store._put_object(name or path.name, path)
    manifest = PlanManifest(schema=MANIFEST_SCHEMA, key=key, files=(file,))
    store._manifests.mkdir(exist_ok=True)
    _manifest(store, key).write_bytes(manifest.to_bytes())
    return file


def test_every_fault_but_an_orphan_blocks():
    assert [fault for fault in PlanFault if REASONS[fault.value].severity is not Severity.BLOCK] == [PlanFault.ORPHAN]


def test_bare_plan_is_found_under_its_key(store, built, key_of):
    added = store.add(key_of(), built)
    assert store.find(key_of()) == added
    assert store.verify() == ()
    assert store.list_plans().plans == (added,)
    assert _object(store, added).read_bytes() == built.read_bytes()


def test_ep_context_model_is_kept_with_the_engines_and_weights_that_it_names(
    store, built, key_of, context_bytes, tmp_path
):
    path = built.with_name("m_ctx.onnx")
    path.write_bytes(context_bytes({"ep_cache_context": f"./{built.name}"}, external="rest.bin"))
    built.with_name("rest.bin").write_bytes(b"weights")
    added = store.add(key_of(), path)
    assert [file.name for file in added.files] == ["m_ctx.onnx", f"./{built.name}", "rest.bin"]
    assert store.verify() == ()
    placed = store.place(added, tmp_path / "deep" / "cache")
    assert placed.read_bytes() == path.read_bytes()
    assert sorted(one.name for one in placed.parent.iterdir()) == sorted([built.name, "m_ctx.onnx", "rest.bin"])
    assert placed.with_name(built.name).read_bytes() == built.read_bytes()


def test_embedded_engine_needs_one_file(store, tmp_path, key_of, context_bytes, plan_bytes):
    path = tmp_path / "m.onnx"
    path.write_bytes(context_bytes({"embed_mode": 1, "ep_cache_context": plan_bytes()}))
    assert len(store.add(key_of(), path).files) == 1
    assert store.verify() == ()


def test_same_bytes_under_two_keys_are_stored_once(store, built, key_of):
    store.add(key_of(), built)
    store.add(key_of(width=1024), built)
    assert len(list(store._objects.iterdir())) == 1


def test_missing_plan_names_the_wanted_key_and_the_nearest_with_what_differs(store, built, key_of):
    other = "sha256:" + "c" * 64
    store.add(key_of(model=other), built)
    store.add(key_of(width=1024, batch=4), built)
    found = store.find(key_of())
    assert isinstance(found, Reason)
    assert found.code == "plan_missing"
    assert key_of().text() in found.text
    assert found.text.endswith("the nearest has width 1024 instead of 512, batch 4 instead of 1")
    found = store.find(key_of(model=other, precision="int8", sm="89"))
    assert found.text.endswith("the nearest has precision fp16 instead of int8, sm 90 instead of 89")


def test_missing_plan_in_an_empty_store_says_so(store, built, key_of):
    store.add(key_of(), built)
    _manifest(store, key_of()).unlink()
    assert "the store is empty" in store.find(key_of()).text


def test_folder_that_is_no_store_is_refused_and_left_alone(tmp_path, key_of):
    store = PlanStore(tmp_path)
    (tmp_path / "precious").write_text("")
    for verb in (store.list_plans, store.verify, store.prune, lambda: store.find(key_of())):
        with pytest.raises(ConfigError, match="is no plan store"):
            verb()
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize(
    ("version", "age"), [("10.8.0.43", "older"), ("10.10.0.31", "newer"), ("8.6.1.6", "older"), ("10.9.0.35", "newer")]
)
def test_plan_of_another_tensorrt_is_refused(store, built, key_of, plan_bytes, version, age):  # noqa: PLR0917 - fixtures
    built.write_bytes(plan_bytes(version))
    with pytest.raises(PlanError, match=f"plan_tensorrt_mismatch: .* TensorRT {version}, {age} than"):
        store.add(key_of(), built)
    _forge(store, key_of(), built)
    assert _codes(store) == ["plan_tensorrt_mismatch"]
    with pytest.raises(PlanError, match="plan_tensorrt_mismatch"):
        store.find(key_of())


def test_plan_whose_name_says_another_sm_is_refused(store, built, key_of):
    for sm in ("89", "80+"):
        with pytest.raises(PlanError, match=f"plan_sm_mismatch: by its name, .* is for sm90, the key says sm{sm}"):
            store.add(key_of(sm=sm), built)
    _forge(store, key_of(sm="89"), built)
    assert _codes(store) == ["plan_sm_mismatch"]


def test_ep_context_for_another_sm_is_refused(store, context, key_of, context_bytes):
    context.write_bytes(context_bytes({"hardware_architecture": "86"}))
    with pytest.raises(PlanError, match=r"plan_sm_mismatch: an EPContext node .* is for sm86"):
        store.add(key_of(), context)


def test_plan_for_ampere_and_newer_has_a_key_of_its_own(store, tmp_path, key_of, plan_bytes):
    path = tmp_path / "x_sm80+.engine"
    path.write_bytes(plan_bytes())
    store.add(key_of(sm="80+"), path)
    assert store.verify() == ()
    assert "sm 80+ instead of 90" in store.find(key_of()).text


def test_ep_context_of_another_provider_is_foreign(store, context, key_of, context_bytes):
    context.write_bytes(context_bytes({"source": "QNNExecutionProvider"}))
    with pytest.raises(PlanError, match=r"plan_foreign: .* compiled by QNNExecutionProvider"):
        store.add(key_of(), context)


def test_ep_context_without_any_engine_is_damaged(store, context, key_of, context_bytes):
    context.write_bytes(context_bytes({"main_context": 0}))
    with pytest.raises(PlanError, match="ep_context_damaged"):
        store.add(key_of(), context)


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"PK\x03\x04" + bytes(50), "plan_foreign"), (b"ftrt", "plan_truncated"), (b"", "plan_truncated")],
)
def test_file_that_is_no_plan_is_refused(store, built, key_of, data, code):
    built.write_bytes(data)
    with pytest.raises(PlanError, match=code):
        store.add(key_of(), built)
    assert not store._folder.exists()
    _forge(store, key_of(), built)
    assert _codes(store) == [code]


def test_engine_that_a_model_names_must_be_there(store, context, built, key_of):
    built.unlink()
    with pytest.raises(PlanError, match="plan_object_missing"):
        store.add(key_of(), context)


def test_engine_behind_a_link_out_of_the_folder_is_refused(store, context, built, key_of, tmp_path):
    built.rename(tmp_path / "outside")
    built.symlink_to(tmp_path / "outside")
    with pytest.raises(PlanError, match=r"onnx_path_unsafe: .* leads out of"):
        store.add(key_of(), context)
    built.unlink()
    built.symlink_to(built)
    with pytest.raises(PlanError, match=r"onnx_path_unsafe|plan_object_missing"):
        store.add(key_of(), context)


def test_missing_object_is_found(store, context, key_of):
    added = store.add(key_of(), context)
    _object(store, added, 1).unlink()
    assert _codes(store) == ["plan_object_missing"]
    with pytest.raises(PlanError, match="plan_object_missing"):
        store.find(key_of())


def test_changed_byte_anywhere_is_found_and_never_placed(store, context, key_of, tmp_path):
    added = store.add(key_of(), context)
    for at in range(2):
        path = _object(store, added, at)
        good = path.read_bytes()
        for where in (0, len(good) // 2, len(good) - 1):
            path.write_bytes(good[:where] + bytes([good[where] ^ 1]) + good[where + 1 :])
            assert _codes(store) == ["plan_changed"]
            with pytest.raises(PlanError, match="plan_changed"):
                store.find(key_of())
            with pytest.raises(PlanError, match="plan_changed"):
                store.place(added, tmp_path / "cache")
        path.write_bytes(good)
    assert not (tmp_path / "cache" / "model_ctx.onnx").exists()


def test_longer_object_is_changed(store, built, key_of):
    added = store.add(key_of(), built)
    with _object(store, added).open("ab") as file:
        file.write(b"x")
    assert _codes(store) == ["plan_changed"]


@pytest.mark.parametrize("size", [0, 10, 499])
def test_truncated_object_is_found(store, built, key_of, size):
    added = store.add(key_of(), built)
    os.truncate(_object(store, added), size)
    assert _codes(store) == ["plan_truncated"]
    with pytest.raises(PlanError, match=f"plan_truncated: .* has {size} of 500 bytes"):
        store.find(key_of())


def test_adding_the_same_plan_again_mends_it(store, built, key_of):
    added = store.add(key_of(), built)
    _object(store, added).write_bytes(b"ftrt")
    assert store.add(key_of(), built) == added
    assert store.verify() == ()


def test_pinned_plan_is_replaced_on_demand_only(store, built, key_of, plan_bytes):
    first = store.add(key_of(), built)
    built.write_bytes(plan_bytes(seed=1))
    with pytest.raises(PlanError, match="plan_exists"):
        store.add(key_of(), built)
    assert store.find(key_of()) == first
    second = store.add(key_of(), built, replace=True)
    assert store.find(key_of()) == second
    assert first.digest != second.digest
    assert _codes(store) == ["plan_orphan"]
    assert store.prune().objects == (_object(store, first).name,)
    assert store.verify() == ()


def test_manifest_that_names_fewer_files_than_the_model_is_found(store, context, key_of):
    store.add(key_of(), context)
    _forge(store, key_of(), context)
    assert _codes(store) == ["plan_object_missing", "plan_orphan"]


def test_damaged_manifest_is_found_and_stops_prune_but_not_other_keys(store, built, key_of):
    store.add(key_of(), built)
    other = store.add(key_of(width=64), built)
    path = _manifest(store, key_of())
    good = path.read_bytes()
    for bad in (b"", good[:-1], good.replace(b'"width":512', b'"width":513'), good.replace(b"/v1", b"/v2")):
        path.write_bytes(bad)
        code = "plan_manifest_unknown" if b"/v2" in bad else "plan_manifest_damaged"
        assert _codes(store) == [code]
        assert store.find(key_of(width=64)) == other
        assert "1 manifests there cannot be read" in store.find(key_of(width=9)).text
        with pytest.raises(PlanError, match=code):
            store.find(key_of())
        with pytest.raises(PlanError, match=code):
            store.add(key_of(), built)
        with pytest.raises(EvidenceError, match=f"nothing was pruned.*{code}"):
            store.prune()
    store.add(key_of(), built, replace=True)
    assert store.verify() == ()


def test_manifest_under_another_name_and_a_folder_among_manifests_are_found(store, built, key_of):
    store.add(key_of(), built)
    (store._manifests / "README").write_bytes(_manifest(store, key_of()).read_bytes())
    (store._manifests / "sub").mkdir()
    assert _codes(store) == ["plan_manifest_damaged", "plan_manifest_damaged"]


def test_prune_removes_keys_of_other_tensorrt_versions_and_counts_bytes(store, built, key_of, plan_bytes):
    new = store.add(key_of(), built)
    built.write_bytes(plan_bytes("10.8.0.43", size=300))
    old = store.add(key_of(tensorrt="10.8.0.43"), built)
    manifest_bytes = _manifest(store, old.key).stat().st_size
    before = sorted(store._folder.rglob("*"))
    planned = store.prune(keep_tensorrt=["10.9.0.34"], dry_run=True)
    assert sorted(store._folder.rglob("*")) == before
    assert planned.keys == (old.key,)
    assert planned.bytes_freed == 300 + manifest_bytes
    assert store.prune(keep_tensorrt=["10.9.0.34"]) == planned
    assert store.list_plans().plans == (new,)
    assert store.verify() == ()
    assert store.prune().bytes_freed == 0


def test_prune_that_would_leave_nothing_is_refused(store, built, key_of):
    store.add(key_of(), built)
    with pytest.raises(ConfigError, match="would remove every plan"):
        store.prune(keep_tensorrt=["10.9.0.33"])
    assert store.prune(keep_tensorrt=["10.9.0.33", "10.9.0.34"]).keys == ()


def test_object_that_a_kept_key_shares_is_not_pruned(store, tmp_path, key_of, context_bytes, plan_bytes):
    for name, version in (("a", "10.9.0.34"), ("b", "10.8.0.43")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.engine").write_bytes(plan_bytes(version))
        (tmp_path / name / "rest.bin").write_bytes(b"shared")
        model = context_bytes({"ep_cache_context": "x.engine"}, external="rest.bin")
        (tmp_path / name / "m.onnx").write_bytes(model)
        store.add(key_of(tensorrt=version), tmp_path / name / "m.onnx")
    assert len(store.prune(keep_tensorrt=["10.9.0.34"]).objects) == 1
    assert store.verify() == ()


CRASH = """
import os, signal, sys
from pathlib import Path
from rollout.serving.plans import disk, store
from rollout.serving.plans.key import PlanKey
real = store.put_file
def put_file(chunks, folder, *, name_of):
    if folder.name == sys.argv[4]:
        if sys.argv[5] == "during":
            chunks = die_after(chunks)
        else:
            os.kill(os.getpid(), signal.SIGKILL)
    return real(chunks, folder, name_of=name_of)
def die_after(chunks):
    yield from chunks
    os.kill(os.getpid(), signal.SIGKILL)
store.put_file = put_file
store.PlanStore(Path(sys.argv[1])).add(PlanKey.model_validate_json(sys.argv[2]), Path(sys.argv[3]))
"""


def _die_in_add(store, key, path, where, when):
    arguments = [str(store._folder), key.model_dump_json(), str(path), where, when]
    died = subprocess.run([sys.executable, "-c", CRASH, *arguments], cwd=ROOT, check=False, timeout=60)
    assert died.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("where", "when", "orphans"),
    [("objects", "during", 1), ("manifests", "before", 2), ("manifests", "during", 3)],
)
def test_crash_in_the_middle_of_add_leaves_a_sound_store_and_what_prune_removes(  # noqa: PLR0917 - fixtures
    store, context, built, key_of, plan_bytes, where, when, orphans
):
    kept = store.add(key_of(width=64), built)
    built.write_bytes(plan_bytes(seed=9))
    _die_in_add(store, key_of(), context, where, when)
    assert _codes(store) == ["plan_orphan"] * orphans
    assert store.list_plans().plans == (kept,)
    assert store.find(key_of(width=64)) == kept
    assert store.find(key_of()).code == "plan_missing"
    assert len(store.prune().objects) == orphans
    assert store.verify() == ()
    store.add(key_of(), context)
    assert store.verify() == ()


def test_crash_in_the_very_first_add_leaves_a_store(store, built, key_of):
    _die_in_add(store, key_of(), built, "objects", "before")
    assert store.verify() == ()
    assert "the store is empty" in store.find(key_of()).text
    _die_in_add(store, key_of(), built, "manifests", "before")
    assert _codes(store) == ["plan_orphan"]
    store.add(key_of(), built)
    assert store.verify() == ()


def test_readers_see_the_old_plan_or_the_new_one_while_it_is_replaced(store, tmp_path, key_of, plan_bytes):
    paths = [tmp_path / "a.engine", tmp_path / "b.engine"]
    for seed, path in enumerate(paths):
        path.write_bytes(plan_bytes(size=200_000, seed=seed))
    known = {store.add(key_of(), path, replace=True).digest for path in paths}
    done, seen, wrong = threading.Event(), set(), []

    def read():
        reader = PlanStore(store._folder)
        while not done.is_set():
            try:
                seen.add(reader.find(key_of()).digest)
                wrong.extend(reader.verify())
            except PlanError as error:
                wrong.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for one in readers:
        one.start()
    for turn in range(60):
        store.add(key_of(), paths[turn % 2], replace=True)
    done.set()
    for one in readers:
        one.join(timeout=30)
    assert {getattr(one, "code", one) for one in wrong} <= {"plan_orphan"}
    assert seen
    assert seen <= known


def test_writer_waits_for_another_writer_and_then_gives_up(store, built, key_of, monkeypatch):
    store.add(key_of(), built)
    monkeypatch.setattr("rollout.serving.plans.disk._LOCK_WAIT_S", 0.1)
    with locked(store._folder / "lock", exclusive=True):
        with pytest.raises(UnavailableError, match="another process held"):
            store.add(key_of(width=64), built)
        with pytest.raises(UnavailableError, match="another process held"):
            store.verify()
        assert store.find(key_of()).key == key_of()


def test_store_on_a_full_disk_is_as_it_was(store, built, key_of, monkeypatch):
    kept = store.add(key_of(), built)

    def full(_fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rollout.serving.plans.disk.os.fsync", full)
    with pytest.raises(UnavailableError, match="No space left"):
        store.add(key_of(width=64), built)
    monkeypatch.undo()
    assert store.list_plans().plans == (kept,)
    assert store.verify() == ()


def test_manifest_of_a_file_with_an_escaping_digest_cannot_be_made():
    with pytest.raises(ValueError, match="digest"):
        PlanFile(name="x", digest="sha256:../../etc/passwd", size_bytes=1)
