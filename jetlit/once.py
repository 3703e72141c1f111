"""Work that is done once, whatever interrupts it: stages, candidates, measurements, teachers, studies."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jetlit.errors import UserError
from jetlit.files import (
    MARK,
    check_folder,
    check_place,
    digest,
    entries,
    files_in,
    foreign_file,
    mark_of,
    read_mapping,
    remove,
    remove_temporaries,
    write_json,
)
from jetlit.results import Result, config_hash, read_result, relative_to_run, write_result

MARKER = ".once.json"
UNREAD = ("run_dir", "out_dir", "cache")
"""Keys of a config whose paths are not read for its result."""
_LOCK = ".lock"


def once(
    folder: str | Path,
    key: Mapping[str, Any],
    function: Callable[[], Result],
    say: Callable[[str], object] = lambda state: None,
    *,
    inputs: Collection[str] = (),
    made: Collection[str] = (),
    artifacts: Collection[str] = (),
) -> Result:
    """Return what `function` found for this key, now or in an earlier call.

    `folder/.once.json` names the hash that the folder's files belong to. It is written before the first of them, and
    result.json after the last. So a finished folder is read, an interrupted one resumes (`function` finds its files),
    and one of another key or of other inputs is emptied first, at whatever moment an earlier call was killed.

    Args:
        folder: where `function` leaves its files; result.json appears there.
        key: all that the outcome depends on, JSON values only; paths under its "run_dir" may move.
        function: does the work in `folder`. It must cope with the files of its own interrupted call.
        say: is told whether the work is skipped, resumed, redone or begun.
        inputs: files and folders that `function` reads. Their content counts, as `digest` sees it.
        made: patterns of the paths that `function` writes in the folder (`jetlit.files.foreign_file`). A folder with
            any other file is not emptied.
        artifacts: those that later work reads, as patterns for `Path.glob`, "." for the whole folder. A finished folder
            that lost one resumes.

    Returns:
        The result as result.json holds it.

    Raises:
        UserError: the folder holds files that `once` did not make, or an artifact was changed; they stay as they are.
    """
    folder, hash = Path(folder), config_hash(key)
    read = digests(inputs, key)
    if is_finished(folder, hash, read):
        say("finished before, skipped")
    else:
        say(_make_ready(folder, hash, read, key.get("config"), made))
        begun = time.monotonic()
        result = function()
        seconds = time.monotonic() - begun if result.seconds is None else result.seconds
        marker = {"hash": hash, "inputs": read, "files": files_in(folder), "artifacts": _digests(folder, artifacts)}
        write_json(folder / MARKER, marker)
        write_result(folder, replace(result, seconds=seconds), hash)
    content = read_result(folder)
    assert content is not None
    return Result.of(content)


def digests(inputs: Collection[str], key: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the digest of each input, by its path relative to the key's "run_dir"."""
    return {relative_to_run(path, key.get("run_dir")): digest(path) for path in inputs}


def is_finished(folder: Path, hash: str, read: Mapping[str, str | None] | None = None) -> bool:
    """Return whether the folder holds the result of this hash, found from inputs of these digests.

    Raises:
        UserError: it does, but an artifact is not what the work wrote.
    """
    result = _result(folder)
    if result is None or result["hash"] != hash:
        return False
    marker = _marker(folder)
    if marker is None or marker["hash"] != hash or _changed(marker, read or {}):
        return False
    written = marker.get("artifacts", {})
    found = {name: digest(folder / name) for name in written}
    if None in found.values():
        return False
    changed = next((name for name in written if found[name] != written[name]), None)
    if changed is not None:
        raise UserError(
            f"{folder / changed} is not what its stage wrote: bring that file back, or delete {folder} to have the "
            "stage redone."
        )
    return True


def keep_marker(folder: str | Path, successor: Path) -> None:
    """Copy the marker to a folder that is about to take the place of `folder`, where `once` calls for that."""
    if (Path(folder) / MARKER).exists():
        write_json(successor / MARKER, read_mapping(Path(folder) / MARKER))


@contextlib.contextmanager
def by_hand(folder: str | Path) -> Iterator[None]:
    """Do work in a folder without `once`, which does not know its files from then on and refuses it.

    Work that fails before it changed anything leaves the folder to `once`.

    Raises:
        UserError: the folder may not be written into.
    """
    folder = Path(folder)
    check_folder(folder)
    marker = folder / MARKER
    kept, before = marker.read_bytes() if marker.is_file() else None, _state(folder)
    marker.unlink(missing_ok=True)
    try:
        yield
    except BaseException:
        if kept is not None and _state(folder) == before:
            marker.write_bytes(kept)
        raise


def helps(folder: str | Path, config: Mapping[str, Any]) -> bool:
    """Return whether a search by hand only helps a run that is at work on the same search in the folder.

    Raises:
        UserError: the run searches with other settings.
    """
    marker = _marker(Path(folder))
    if marker is None or marker["hash"] is None or _result(Path(folder)) is not None:
        return False
    if marker.get("config") != config_hash(config):
        raise UserError(f"A run searches in {folder} with other settings: use the same ones, or another out_dir.")
    return True


def _state(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of each file of a folder."""
    names = [name for name in files_in(folder) if name != MARKER]
    return {name: (found.st_size, found.st_mtime_ns) for name in names for found in [os.lstat(folder / name)]}


def _digests(folder: Path, artifacts: Collection[str]) -> dict[str, str | None]:
    paths = [path for name in artifacts for path in ([folder] if name == "." else folder.glob(name))]
    return {str(path.relative_to(folder)): digest(path) for path in sorted(paths)}


def _result(folder: Path) -> dict[str, Any] | None:
    """Return what `write_result` wrote; None for nothing or something else."""
    try:
        return read_result(folder)
    except UserError:
        return None


def _marker(folder: Path) -> dict[str, Any] | None:
    """Return the marker of the folder; None for none.

    Raises:
        UserError: it is damaged.
    """
    # Version 0.1 kept the markers of a run's stages beside their folders.
    for path in (folder / MARKER, folder.parent / ".stages" / f"{folder.name}.json"):
        if path.exists():
            try:
                return read_mapping(path, "hash")
            except UserError:
                raise UserError(
                    f"{path} is damaged, so that nobody knows whose files {folder} holds: delete {folder} to have its "
                    "work redone, or move it away."
                ) from None
    return None


def _changed(marker: Mapping[str, Any], read: Mapping[str, str | None]) -> list[str]:
    """Return the inputs whose content is not what it was; one that is gone has not changed."""
    return [name for name, found in (marker.get("inputs") or {}).items() if read.get(name) not in (None, found)]


def _make_ready(
    folder: Path, hash: str, read: Mapping[str, str | None], config: Mapping[str, Any] | None, made: Collection[str]
) -> str:
    """Leave only this hash's files in the folder, and return what is about to happen."""
    marker = _marker(folder)
    searched = None if config is None else config_hash(config)
    if marker is None and mark_of(folder).get("search") == searched is not None and _result(folder) is None:
        state = "resumes what a search by hand began"
    elif marker is None:
        check_place(folder)
        if any(path.name not in (_LOCK, MARK) for path in entries(folder)):
            raise UserError(
                f"{folder} holds files that this run did not make: move them away, delete them or choose another "
                "folder."
            )
        state = "begins"
    elif marker["hash"] == hash and not _changed(marker, read):
        state = "resumes where it was interrupted"
        remove_temporaries(folder)
    else:
        changed = _changed(marker, read)
        state = f"its input {changed[0]} changed, redone" if changed else "its configuration or input changed, redone"
        _empty(folder, {*made, *marker.get("files", ())})
    write_json(folder / MARKER, {"hash": hash, "inputs": dict(read), "config": searched})
    return state


def _empty(folder: Path, made: Collection[str]) -> None:
    """Remove what `once` made; refuse where somebody put a file since."""
    foreign = foreign_file(folder, made)
    if foreign is not None:
        raise UserError(f"{folder} has to be redone but holds {foreign}, which no stage made: move it away.")
    # From here on the files belong to no hash, however far their removal gets.
    write_json(folder / MARKER, {"hash": None})
    for path in entries(folder):
        if path.name not in (MARKER, _LOCK):
            remove(path)
