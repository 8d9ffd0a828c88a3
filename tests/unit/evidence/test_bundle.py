import shutil

import pytest

from rollout.disk import write_file
from rollout.errors import ConflictError, EvidenceError, InvariantError
from rollout.evidence.bundle import check_bundle, seal_bundle
from rollout.evidence.journal import Journal
from rollout.evidence.objects import ObjectStore
from rollout.model.journal import BundleSealed

DERIVED = {"summary.md": b"# promoted\n", "junit.xml": b"<testsuites/>\n"}


@pytest.fixture
def unsealed(begun, said, snapshots_read):
    objects = ObjectStore(begun.path.parent / "objects")
    begun.append(snapshots_read(objects), at=2.0)
    begun.append(said("hello"), at=3.0)
    return begun


@pytest.fixture
def sealed(unsealed):
    seal_bundle(unsealed, DERIVED, at=4.0)
    return unsealed.path.parent


def _files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_sealed_bundle_is_whole_and_has_no_ballast(sealed):
    records = check_bundle(sealed)
    assert isinstance(records[-1].body, BundleSealed)
    assert check_bundle(sealed, unfinished_ok=True) == records
    names = sorted(path.name for path in sealed.iterdir())
    assert names == ["journal.jsonl", "junit.xml", "objects", "summary.md"]


def test_every_changed_byte_of_every_file_is_found(sealed, put):
    changed = 0
    for path in _files(sealed):
        whole = path.read_bytes()
        for index, byte in enumerate(whole):
            for flip in (0x01, 0x20, 0x80):
                put(path, whole[:index] + bytes([byte ^ flip]) + whole[index + 1 :])
                for unfinished_ok in (False, True):
                    with pytest.raises(EvidenceError):
                        check_bundle(sealed, unfinished_ok=unfinished_ok)
                changed += 1
        path.write_bytes(whole)
    check_bundle(sealed)
    assert changed > 5000


def test_every_added_or_missing_byte_at_an_end_is_found(sealed):
    for path in _files(sealed):
        whole = path.read_bytes()
        for content in (whole + b"\n", whole + b"\0", whole[:-1], b"\n" + whole):
            path.write_bytes(content)
            with pytest.raises(EvidenceError):
                check_bundle(sealed)
        path.write_bytes(whole)
    check_bundle(sealed)


def test_every_removed_file_is_missed(sealed):
    for path in _files(sealed):
        whole = path.read_bytes()
        path.unlink()
        for unfinished_ok in (False, True):
            with pytest.raises(EvidenceError):
                check_bundle(sealed, unfinished_ok=unfinished_ok)
        path.write_bytes(whole)
    check_bundle(sealed)


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        "report.html",
        "ballast",
        ".hidden",
        ".summary.md.12ab.part",
        "objects/x",
        f"objects/{'0' * 64}.json",
        "objects/.x.part",
        "folder/",
        "objects/folder/",
    ],
)
def test_everything_foreign_is_found(sealed, name):
    if name.endswith("/"):
        (sealed / name).mkdir()
    else:
        (sealed / name).write_bytes(b"x")
    for unfinished_ok in (False, True):
        with pytest.raises(EvidenceError, match=name.rstrip("/").split("/")[-1]):
            check_bundle(sealed, unfinished_ok=unfinished_ok)


def test_a_link_is_no_file_of_a_bundle(sealed, tmp_path):
    for path in _files(sealed)[1:]:
        moved = tmp_path / "elsewhere"
        path.rename(moved)
        path.symlink_to(moved)
        with pytest.raises(EvidenceError):
            check_bundle(sealed)
        path.unlink()
        moved.rename(path)
    check_bundle(sealed)


def test_an_intact_object_that_no_record_names_is_found(sealed):
    ObjectStore(sealed / "objects").put_json("late")
    for unfinished_ok in (False, True):
        with pytest.raises(EvidenceError, match="named by no record"):
            check_bundle(sealed, unfinished_ok=unfinished_ok)


def test_an_object_under_two_names_is_found(sealed):
    path = next((sealed / "objects").iterdir())
    shutil.copy(path, path.with_suffix(".png"))
    with pytest.raises(EvidenceError, match="twice"):
        check_bundle(sealed)


def test_two_swapped_lines_are_found(sealed):
    path = sealed / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    for index in range(len(lines) - 1):
        swapped = [*lines[:index], lines[index + 1], lines[index], *lines[index + 2 :]]
        path.write_bytes(b"".join(swapped))
        with pytest.raises(EvidenceError, match=rf"line {index + 1}"):
            check_bundle(sealed)


def test_a_sealed_journal_cut_after_any_line_is_called_unsealed(sealed):
    path = sealed / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    for count in range(1, len(lines)):
        path.write_bytes(b"".join(lines[:count]))
        with pytest.raises(EvidenceError, match="not sealed"):
            check_bundle(sealed)
        assert len(check_bundle(sealed, unfinished_ok=True)) == count
    path.write_bytes(b"")
    with pytest.raises(EvidenceError):
        check_bundle(sealed, unfinished_ok=True)


def test_an_unfinished_bundle_may_hold_what_a_crash_leaves_and_sealing_sweeps_it(unsealed, fence):
    folder = unsealed.path.parent
    ObjectStore(folder / "objects").put_json("never named by a record")
    (folder / ".summary.md.12ab.part").write_bytes(b"# pro")
    (folder / "objects" / f".{'0' * 64}.json.12ab.part").write_bytes(b"{")
    (folder / "summary.md").write_bytes(b"# from a seal that did not end\n")
    with unsealed.path.open("ab") as file:
        file.write(b'{"at":4.0,"bo')
    with pytest.raises(EvidenceError):
        check_bundle(folder)
    assert check_bundle(folder, unfinished_ok=True) == unsealed.records
    resumed = Journal.open(unsealed.path, fence=fence)
    assert resumed.cut == '{"at":4.0,"bo'
    seal_bundle(resumed, DERIVED, at=5.0)
    assert check_bundle(folder) == resumed.records
    assert len(_files(folder / "objects")) == 4


@pytest.mark.parametrize("name", ["notes", "objects/x", "core.1234", ".hidden"])
def test_an_unfinished_bundle_may_not_hold_foreign_files(unsealed, name):
    (unsealed.path.parent / name).write_bytes(b"x")
    with pytest.raises(EvidenceError, match="move it away"):
        check_bundle(unsealed.path.parent, unfinished_ok=True)
    with pytest.raises(EvidenceError, match="move it away"):
        seal_bundle(unsealed, DERIVED, at=4.0)
    assert not unsealed.sealed


def test_every_changed_byte_of_an_unfinished_bundle_is_found(unsealed, put):
    folder = unsealed.path.parent
    for path in (*_files(folder / "objects"), unsealed.path):
        whole = path.read_bytes()
        for index, byte in enumerate(whole):
            put(path, whole[:index] + bytes([byte ^ 0x01]) + whole[index + 1 :])
            with pytest.raises(EvidenceError):
                check_bundle(folder, unfinished_ok=True)
        path.write_bytes(whole)
    (folder / "ballast").write_bytes(b"other")
    with pytest.raises(EvidenceError, match="ballast"):
        check_bundle(folder, unfinished_ok=True)
    (folder / "ballast").unlink()
    check_bundle(folder, unfinished_ok=True)


def test_a_run_that_lacks_an_object_is_not_sealed(unsealed):
    next((unsealed.path.parent / "objects").iterdir()).unlink()
    with pytest.raises(EvidenceError, match="lacks 1 object"):
        seal_bundle(unsealed, DERIVED, at=4.0)
    assert not unsealed.sealed


def test_a_controller_that_lost_its_lease_seals_nothing(unsealed, fence):
    before = {path: path.read_bytes() for path in _files(unsealed.path.parent)}
    fence.lost = True
    with pytest.raises(ConflictError):
        seal_bundle(unsealed, DERIVED, at=4.0)
    assert {path: path.read_bytes() for path in _files(unsealed.path.parent)} == before


@pytest.mark.parametrize("name", ["journal.jsonl", "ballast", "../x.md", "objects/x.json", "objects", ".x.md", "X.md"])
def test_a_derived_file_cannot_take_another_files_name(unsealed, name):
    with pytest.raises(InvariantError, match="no report is named"):
        seal_bundle(unsealed, {name: b"x"}, at=4.0)


def test_a_bundle_is_sealed_once(unsealed):
    seal_bundle(unsealed, DERIVED, at=4.0)
    with pytest.raises(InvariantError, match="already"):
        seal_bundle(unsealed, DERIVED, at=5.0)


def test_a_copy_of_a_bundle_proves_the_same(sealed, tmp_path):
    shutil.copytree(sealed, tmp_path / "copy")
    assert check_bundle(tmp_path / "copy") == check_bundle(sealed)


def test_a_seal_killed_at_every_write_can_be_repeated(unsealed, fence, monkeypatch):
    folder = unsealed.path.parent
    saved = folder.parent / "saved"
    shutil.copytree(folder, saved)
    for survivors in range(6):
        shutil.rmtree(folder)
        shutil.copytree(saved, folder)
        journal = Journal.open(unsealed.path, fence=fence)
        with monkeypatch.context() as patch:
            patch.setattr("rollout.evidence.bundle.write_file", _dying(write_file, survivors))
            patch.setattr(Journal, "give_back_ballast", _dying(Journal.give_back_ballast, survivors - len(DERIVED)))
            patch.setattr(Journal, "append", _dying(Journal.append, survivors - len(DERIVED) - 1))
            if survivors < len(DERIVED) + 2:
                with pytest.raises(KeyboardInterrupt):
                    seal_bundle(journal, DERIVED, at=4.0)
                check_bundle(folder, unfinished_ok=True)
        resumed = Journal.open(unsealed.path, fence=fence)
        seal_bundle(resumed, DERIVED, at=5.0)
        check_bundle(folder)


def _dying(real, survivors):
    """Return the real function that stops the program once it was called this often."""
    calls = []

    def call(*args, **kwargs):
        calls.append(args)
        if len(calls) > survivors:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    return call
