"""Work that is done once, whatever interrupts it: stages, candidates, measurements, teachers, studies."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jetlit.errors import UserError
from jetlit.files import read_json, write_json
from jetlit.results import RESULT_FILE, Result, config_hash, read_result, write_result

MARKER = ".once.json"
_LOCK = ".lock"


def once(
    folder: str | Path,
    key: Mapping[str, Any],
    function: Callable[[], Result],
    say: Callable[[str], object] = lambda state: None,
) -> Result:
    """Return what `function` found for this key, now or in an earlier call.

    `folder/.once.json` names the hash that the folder's files belong to. It is written before the first of them, and
    result.json after the last. So a finished folder is read, an interrupted one resumes (`function` finds its files),
    and one of another key is emptied first, at whatever moment an earlier call was killed.

    Args:
        folder: where `function` leaves its files; result.json appears there.
        key: all that the outcome depends on, JSON values only; paths under its "run_dir" may move.
        function: does the work in `folder`. It must cope with the files of its own interrupted call.
        say: is told whether the work is skipped, resumed, redone or begun.

    Returns:
        The result as result.json holds it.

    Raises:
        UserError: the folder holds files that `once` did not make; they stay as they are.
    """
    folder, hash = Path(folder), config_hash(key)
    if is_finished(folder, hash):
        say("finished before, skipped")
    else:
        say(_make_ready(folder, hash))
        begun = time.monotonic()
        result = function()
        seconds = time.monotonic() - begun if result.seconds is None else result.seconds
        write_json(folder / MARKER, {"hash": hash, "files": sorted(path.name for path in folder.iterdir())})
        write_result(folder, replace(result, seconds=seconds), hash)
    content = read_result(folder)
    assert content is not None
    return Result.of(content)


def is_finished(folder: Path, hash: str) -> bool:
    """Return whether the folder holds the result of this hash."""
    result = read_result(folder)
    return result is not None and _is_ours(result) and result["hash"] == hash and _marked(folder) == hash


def keep_marker(folder: str | Path, successor: Path) -> None:
    """Copy the marker to a folder that is about to take the place of `folder`, where `once` calls for that."""
    if (Path(folder) / MARKER).exists():
        shutil.copyfile(Path(folder) / MARKER, successor / MARKER)


def disown(folder: str | Path) -> None:
    """Tell `once` that a folder's files come from elsewhere from now on, such as a fit started by hand."""
    (Path(folder) / MARKER).unlink(missing_ok=True)


def _is_ours(result: Any) -> bool:
    """Return whether this is what `write_result` writes, of whatever version."""
    return isinstance(result, dict) and {"stage", "hash", "metrics", "versions"} <= result.keys()


def _marked(folder: Path) -> str | None:
    """Return the hash that the folder's files belong to; None for none, or for files half removed."""
    marker = next((path for path in (folder / MARKER, _earlier_marker(folder)) if path.exists()), None)
    return None if marker is None else read_json(marker)["hash"]


def _earlier_marker(folder: Path) -> Path:
    # Version 0.1 kept the markers of a run's stages beside their folders.
    return folder.parent / ".stages" / f"{folder.name}.json"


def _make_ready(folder: Path, hash: str) -> str:
    """Leave only this hash's files in the folder, and return what is about to happen."""
    marker = folder / MARKER
    if _marked(folder) == hash:
        state = "resumes where it was interrupted"
    elif marker.exists() or _earlier_marker(folder).exists():
        state = "its configuration or input changed, redone"
        _check_files(folder)
        # From here on the files belong to no hash, however far their removal gets.
        write_json(marker, {"hash": None})
        _empty(folder)
    elif folder.exists() and any(map(_is_foreign, folder.iterdir())):
        raise UserError(
            f"{folder} holds files that this run did not make: move them away, delete them or choose another folder."
        )
    else:
        state = "begins"
    write_json(marker, {"hash": hash})
    return state


def _check_files(folder: Path) -> None:
    """Refuse to empty a finished folder that somebody put files into since."""
    marker = folder / MARKER
    known = read_json(marker).get("files") if marker.exists() else None
    if known is not None:
        names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
        foreign = sorted(names - {*known, RESULT_FILE})
        if foreign:
            raise UserError(f"{folder} has to be redone but holds {foreign[0]}, which no stage made: move it away.")


def _is_foreign(path: Path) -> bool:
    # Another process may be writing its marker for the same key at this moment.
    return path.name != _LOCK and not path.name.startswith(f".{MARKER}")


def _empty(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in (MARKER, _LOCK):
            path.unlink(missing_ok=True)
