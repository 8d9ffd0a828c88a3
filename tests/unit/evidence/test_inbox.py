import pytest

from rollout.errors import ConfigError, EvidenceError
from rollout.evidence.inbox import Inbox
from rollout.model.journal import CommandKind


def test_commands_come_in_the_order_they_were_given(tmp_path):
    inbox = Inbox(tmp_path / "commands")
    ids = [inbox.post(kind, "me", f"because {kind}") for kind in CommandKind]
    assert [one.id for one in inbox.pending()] == ids
    assert [one.command for one in inbox.pending()] == list(CommandKind)
    assert inbox.pending()[0].reason == "because pause"


def test_an_inbox_that_nobody_wrote_to_is_empty(tmp_path):
    assert Inbox(tmp_path / "commands").pending() == ()


def test_a_removed_command_is_gone_and_its_id_never_comes_again(tmp_path):
    inbox = Inbox(tmp_path / "commands")
    first = inbox.post(CommandKind.PAUSE, "me", "x")
    inbox.remove(first)
    inbox.remove(first)
    assert inbox.pending() == ()
    assert inbox.post(CommandKind.PAUSE, "me", "x") != first


def test_order_outlives_more_than_a_million_commands(tmp_path):
    inbox = Inbox(tmp_path)
    last = inbox.post(CommandKind.PAUSE, "me", "x")
    old = f"999999-{last.split('-')[1]}"
    (tmp_path / f"{last}.json").rename(tmp_path / f"{old}.json")
    (tmp_path / f"{old}.json").write_text((tmp_path / f"{old}.json").read_text().replace(last, old))
    new = inbox.post(CommandKind.RESUME, "me", "x")
    assert [one.id for one in inbox.pending()] == [old, new]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.txt", "hello"),
        ("000001-0123456789abcdef.json", "{"),
        (
            "000001-0123456789abcdef.json",
            '{"type":"command_received","id":"x","command":"pause","by":"b","reason":"r"}',
        ),
        (
            "000001-0123456789abcdef.json",
            '{"type":"command_received","id":"000001-0123456789abcdef","command":"dance","by":"b","reason":"r"}',
        ),
    ],
)
def test_garbage_is_named(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(EvidenceError, match=name):
        Inbox(tmp_path).pending()


def test_a_half_written_command_is_not_seen(tmp_path):
    (tmp_path / ".000001-0123456789abcdef.json.12ab.part").write_text("{")
    assert Inbox(tmp_path).pending() == ()


def test_only_commands_can_be_removed(tmp_path):
    (tmp_path / "keep.json").write_text("x")
    with pytest.raises(ConfigError):
        Inbox(tmp_path / "commands").remove("../keep")
    assert (tmp_path / "keep.json").exists()
