"""What was asked of a folder that fills over many runs: written when it is begun, compared when it goes on."""

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from weft import artifacts
from weft.errors import ArtifactError, ConfigError

REQUEST = "request.json"


def keep_request(folder: Path, kind: str, request: Struct) -> None:
    """Write the request into a new folder, or compare it with the one that lies there.

    Args:
        folder: An empty or missing folder, or one that was begun with a request.
        kind: What the folder holds, for messages.
        request: All that decides what is computed there.

    Raises:
        ArtifactError: The folder holds something else.
        ConfigError: It was begun with another request.
    """
    path = folder / REQUEST
    if not path.is_file():
        artifacts.write_json(path, request)
        return
    before, now = _read(path, kind), msgspec.json.decode(msgspec.json.encode(request))
    for key in now:
        if before.get(key) != now[key]:
            raise ConfigError(
                f"the {kind} {str(folder)!r} was begun with {key} {before.get(key)!r}, not with {now[key]!r}; "
                "ask the same again to go on with it, or choose another folder"
            )


def refuse_foreign(folder: Path, kind: str) -> None:
    """ArtifactError when a folder is in the way: neither empty nor begun with a request."""
    if not (folder / REQUEST).is_file() and not (folder / artifacts.LOCK).is_file():
        artifacts.refuse_existing(folder, kind)


def _read(path: Path, kind: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise ArtifactError(f"{str(path)!r} cannot be read ({error}); begin the {kind} in another folder") from error
