import pytest

from rollout.errors import InvariantError
from rollout.evidence.runs import highest_generation, last_run, name_run, run_folder, run_ids
from rollout.model.inventory import Absent


def _begin(state, run_id):
    folder = run_folder(state, run_id)
    folder.path.mkdir(parents=True)
    folder.journal.write_bytes(b"")
    return folder


def test_runs_are_listed_newest_first_also_beyond_six_digits(tmp_path):
    ids = ["r000002-b", "r1000000-a", "r000010-a", "r999999-z"]
    for run_id in ids:
        _begin(tmp_path, run_id)
    assert run_ids(tmp_path) == ("r1000000-a", "r999999-z", "r000010-a", "r000002-b")
    assert last_run(tmp_path) == run_folder(tmp_path, "r1000000-a")
    assert highest_generation(tmp_path, journals=False) == 1_000_000


def test_a_state_without_runs_says_so(tmp_path):
    assert run_ids(tmp_path) == ()
    assert isinstance(last_run(tmp_path), Absent)
    assert highest_generation(tmp_path, journals=True) == 0


def test_a_run_that_crashed_before_its_first_record_is_no_run_but_used_its_generation(tmp_path):
    _begin(tmp_path, "r000001-a")
    folder = run_folder(tmp_path, "r000002-b")
    folder.objects.mkdir(parents=True)
    folder.ballast.write_bytes(b"x")
    (folder.path / ".journal.jsonl.12ab.part").write_bytes(b"{")
    assert run_ids(tmp_path) == ("r000001-a",)
    assert highest_generation(tmp_path, journals=False) == 2


def test_a_run_that_lost_its_journal_is_still_listed(tmp_path):
    folder = _begin(tmp_path, "r000001-a")
    (folder.path / "summary.md").write_text("x")
    folder.journal.unlink()
    assert run_ids(tmp_path) == ("r000001-a",)


def test_names_are_checked(tmp_path):
    assert name_run(generation=7, name="verify") == "r000007-verify"
    for name in ("../x", "", "A", "a/b"):
        with pytest.raises(InvariantError):
            name_run(generation=7, name=name)
    with pytest.raises(InvariantError):
        run_folder(tmp_path, "../../etc")


def test_generations_are_found_inside_the_journals_of_resumed_runs(tmp_path, begun, fence, said):
    fence.generation = 9
    begun.append(said('"generation":77,"hash":"sha256:'), at=1.0)
    assert highest_generation(tmp_path, journals=False) == 3
    assert highest_generation(tmp_path, journals=True) == 9
