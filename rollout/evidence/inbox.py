"""The inbox: what people said to a run, until the loop has journaled it."""

import re
import secrets
from pathlib import Path

from pydantic import ValidationError

from rollout.disk import is_temp, list_folder, make_folder, read_file, remove_file, write_file
from rollout.errors import ConfigError, EvidenceError
from rollout.model.canonical import canonical_bytes
from rollout.model.journal import CommandKind, CommandReceived

# The number orders; the random part keeps an id unique for ever, though numbers start again when the inbox is empty.
_ID = re.compile(r"(\d{6,})-[0-9a-f]{16}")
_ADVICE = "it is no command: move it away and give the command again"


class Inbox:
    """Commands in the order they were given, one file each. Anybody may post; only the holder of the lease removes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def post(self, command: CommandKind, by: str, reason: str) -> str:
        """Leave a command for the loop and return its id.

        Args:
            command: What to do.
            by: Who says so.
            reason: Why, in words.

        Raises:
            UnavailableError: The disk is full or failed.
        """
        make_folder(self._folder)
        numbers = [int(match[1]) for path in list_folder(self._folder) if (match := _ID.fullmatch(path.stem))]
        name = f"{max(numbers, default=0) + 1:06d}-{secrets.token_hex(8)}"
        received = CommandReceived(id=name, command=command, by=by, reason=reason)
        write_file(self._folder / f"{name}.json", canonical_bytes(received.model_dump(mode="json")))
        return name

    def pending(self) -> tuple[CommandReceived, ...]:
        """Return the commands that were not removed yet, oldest first.

        Raises:
            EvidenceError: A file is no command.
            UnavailableError: The folder could not be read.
        """
        paths = [path for path in list_folder(self._folder) if not is_temp(path.name)]
        commands = [_read(path) for path in paths]
        return tuple(sorted(commands, key=lambda one: (int(one.id.split("-")[0]), one.id)))

    def remove(self, command_id: str) -> None:
        """Remove a command that was journaled; one that is gone stays gone.

        Raises:
            ConfigError: This is no id of a command.
            UnavailableError: The disk failed.
        """
        if _ID.fullmatch(command_id) is None:
            raise ConfigError(f"{command_id!r} is no id of a command")
        remove_file(self._folder / f"{command_id}.json")


def _read(path: Path) -> CommandReceived:
    """Return the command in a file named after it."""
    data = read_file(path, missing="it was removed while the inbox was read; run again")
    try:
        received = CommandReceived.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "(the whole file)"
        raise EvidenceError(f"{path}, key {key}: {first['msg']}; {_ADVICE}") from error
    if path.name != f"{received.id}.json" or _ID.fullmatch(received.id) is None:
        raise EvidenceError(f"{path}, key id: {received.id!r} does not fit the file's name; {_ADVICE}")
    return received
