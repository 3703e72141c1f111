"""Files and folders that jetlit writes: whole or not there at all, and never in place of somebody else's."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from jetlit.errors import UserError

MARK = ".jetlit.json"
"""Says that jetlit made the folder it lies in and, of a folder that appeared as a whole, with which files."""

# Files that say that jetlit made their folder, those of earlier versions included, and keys that each has.
_SIGNATURES = {
    MARK: {"made_by"},
    ".once.json": {"hash"},
    "result.json": {"stage", "hash", "metrics", "versions"},
    "corpus.json": {"format", "splits"},
    "report.json": {"stages", "models"},
}
_ADDED = (MARK, ".once.json", "result.json", ".lock")  # to a folder that appeared as a whole
_BESIDE_STAGES = (".lock", ".stages")  # in the folder of a run of an earlier version
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp(\..+)?")
_SAMPLES, _SAMPLE_BYTES = 64, 2**16
_MANY_FILES = 1000
# What libraries that write a file themselves raise in place of OSError.
_WRITE_ERRORS = re.compile(
    r"No space left on device|File too large|Read-only file system|Disk quota|failed writing file"
)
_checks: list[Callable[[], None]] = []


@contextlib.contextmanager
def fenced(check: Callable[[], None]) -> Iterator[None]:
    """Call `check` before a file or folder takes its place, in every thread; what it raises keeps it from there."""
    _checks.append(check)
    try:
        yield
    finally:
        _checks.remove(check)


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on any error it is removed.

    Raises:
        UserError: The file system refused the write (a full disk, a read-only folder).
    """
    path = Path(path)
    temporary = None
    with _said(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=f".tmp{path.suffix}")
            os.close(handle)
            temporary = Path(name)
            yield temporary
            with open(temporary, "rb") as written:
                os.fsync(written.fileno())
            _follow_umask(temporary)
            _take_place(temporary, path)
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | Path, *inputs: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; on success it replaces `path`, on any error it is removed.

    An existing folder is renamed before the new one takes its place and deleted afterward, so that `path` never holds
    part of a folder, whenever the process is killed. The permissions follow the umask.

    Args:
        path: The folder; of a link, the folder that it points to.
        *inputs: Files and folders that the new one is made from.

    Raises:
        UserError: `path` may not be replaced (`check_replaceable`), or the file system refused the write.
    """
    check_replaceable(path, *inputs)
    path = Path(path).resolve()
    with _said(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp") as temporary:
            written, replaced = Path(temporary) / "written", Path(temporary) / "replaced"
            written.mkdir()  # not the temporary folder itself, which only its owner may read
            yield written
            write_json(written / MARK, {"made_by": "jetlit", "files": files_in(written)})
            for made in written.rglob("*"):
                _follow_umask(made)
            if path.is_dir():
                check_replaceable(path, *inputs)  # it may have been filled meanwhile
                os.replace(path, replaced)
            try:
                _take_place(written, path)
            except BaseException:
                if replaced.exists():
                    os.replace(replaced, path)
                raise


def check_replaceable(folder: str | Path, *inputs: str | Path) -> None:
    """Check that a folder may be replaced as a whole: it is new, empty, or holds nothing but what jetlit wrote there.

    Raises:
        UserError: It is a file, or holds another file, an input or the current folder.
    """
    folder = Path(folder)
    check_place(folder)
    place = folder.resolve()
    for read in inputs:
        if Path(read).resolve().is_relative_to(place):
            raise UserError(f"{folder} is the place that {read} is read from: choose another folder to write to.")
    if Path.cwd().is_relative_to(place):
        raise UserError(f"{folder} holds the current folder and would be replaced: choose another folder.")
    foreign = foreign_file(folder)
    if foreign is not None:
        raise UserError(
            f"{folder} holds {foreign}, which jetlit did not write there: choose an empty folder or move it away."
        )


def check_folder(folder: str | Path, *inputs: str | Path) -> None:
    """Check that files may be written into a folder: it is new, empty, or one that jetlit made.

    Raises:
        UserError: It is a file, an input, or a folder that jetlit did not make.
    """
    folder = Path(folder)
    check_place(folder)
    if any(folder.resolve() == Path(read).resolve() for read in inputs):
        raise UserError(f"{folder} is what is read: choose another folder to write to.")
    if entries(folder) and not is_ours(folder):
        raise UserError(f"{folder} holds files and was not made by jetlit: choose a new or an empty folder.")


def claim_folder(folder: str | Path, **facts: Any) -> None:
    """Make a folder, or check that files may be written into it (`check_folder`); mark it as jetlit's.

    Args:
        folder: The folder.
        **facts: What its mark says beside that, JSON values.

    Raises:
        UserError: It may not be written into, or the file system refused the write.
    """
    folder = Path(folder)
    check_folder(folder)
    if not any(_signature(folder, name) for name in (MARK, ".once.json")):
        write_json(folder / MARK, {"made_by": "jetlit", **facts})


def is_ours(folder: Path) -> bool:
    """Return whether jetlit made a folder: it says so itself, or holds nothing but folders that do."""
    if any(_signature(folder, name) for name in _SIGNATURES):
        return True
    inside = [path for path in entries(folder) if path.name not in _BESIDE_STAGES]
    return bool(inside) and all(path.is_dir() and is_ours(path) for path in inside)


def mark_of(folder: Path) -> dict[str, Any]:
    """Return what a folder's mark says; nothing of a folder without."""
    return _signature(folder, MARK) or {}


def foreign_file(folder: Path, made: Collection[str] = ()) -> str | None:
    """Return the path in a folder of a file that jetlit did not write there; None if there is none.

    Args:
        folder: It may be missing. Folders in it that appeared as a whole know themselves with which files.
        made: Patterns of the paths that jetlit writes there, `*` for any characters; a folder's stands for all in it.
    """
    files = mark_of(folder).get("files", ())
    known = (
        {*_ADDED, *made, *files} if made or any(_signature(folder, name) for name in (MARK, ".once.json")) else set()
    )
    return next(_foreign(folder, "", known), None)


def _foreign(folder: Path, prefix: str, known: Collection[str]) -> Iterator[str]:
    for path in entries(folder):
        name = prefix + path.name
        if path.is_dir() and "files" in mark_of(path):
            inside = foreign_file(path)
            if inside is not None:
                yield f"{name}/{inside}"
        elif name in known or any(fnmatchcase(name, pattern) for pattern in known):
            continue
        elif path.is_dir() and not folder.resolve().is_relative_to(path.resolve()):
            yield from _foreign(path, f"{name}/", known)
        else:
            yield name


def files_in(folder: Path) -> list[str]:
    """Return the paths of all files in a folder, relative to it."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def remove_temporaries(folder: Path) -> None:
    """Remove what writes that were killed left in a folder and in those inside."""
    for path in [path for path in folder.rglob(".*") if _TEMPORARY.fullmatch(path.name)]:
        remove(path)


def remove(path: Path) -> None:
    """Remove a file or a folder. Of a link to a folder, what the folder holds; the link stays."""
    if path.is_symlink() and path.is_dir():
        for inside in path.iterdir():
            remove(inside)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def digest(path: str | Path) -> str | None:
    """Return a digest of what a file or a folder holds, wherever it lies and whenever it was written; None for nothing.

    Of a file over 4 MiB it covers the size and 64 parts of 64 KiB, among them the beginning and the end: enough to tell
    the headers and weights of one model from another's without reading all. Of a folder of over 1,000 files, sizes and
    times stand for the content. A corpus is told by its corpus.json, which holds the digests of its chunks. Hidden
    files and result.json do not count.
    """
    path = Path(path)
    if path.is_file():
        return _file_digest(path)
    if not path.is_dir():
        return None
    names = [name for name in files_in(path) if not f"/{name}".count("/.") and name != "result.json"]
    corpora = [name.removesuffix("corpus.json") for name in names if f"/{name}".endswith("/corpus.json")]
    names = [name for name in names if name.endswith("corpus.json") or not name.startswith(tuple(corpora))]
    one = _file_digest if len(names) <= _MANY_FILES else _file_state
    found = hashlib.sha256()
    for name in names:
        found.update(f"{name}\0{one(path / name)}\0".encode())
    return found.hexdigest()


def existing_paths(values: Any, *without: str, words: bool = False) -> list[str]:
    """Return the files and folders that the texts in a config name.

    Args:
        values: JSON values.
        *without: Keys whose values are left out.
        words: Whether a word alone, without a slash, may name one.
    """
    if isinstance(values, Mapping):
        parts = [value for key, value in values.items() if key not in without]
    elif isinstance(values, list | tuple):
        parts = list(values)
    else:
        named = isinstance(values, str) and (words or os.sep in values) and "\0" not in values and len(values) < 4096
        return [values] if named and Path(values).exists() else []
    return sorted({path for part in parts for path in existing_paths(part, *without, words=words)})


def _file_state(path: Path) -> str:
    found = path.stat()
    return f"{found.st_size} {found.st_mtime_ns}"


def _file_digest(path: Path) -> str:
    with _readable(path), open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= _SAMPLES * _SAMPLE_BYTES:
            return hashlib.file_digest(file, "sha256").hexdigest()
        found = hashlib.sha256(str(size).encode())
        for number in range(_SAMPLES):
            file.seek(number * (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
            found.update(file.read(_SAMPLE_BYTES))
    return found.hexdigest()


def write_text(path: str | Path, text: str) -> None:
    """Write `text` (UTF-8) to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON to `path` atomically; refuses NaN, which JSON cannot hold."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: The file is missing, cannot be read, or is not JSON.
    """
    with _readable(path):
        return json.loads(Path(path).read_text(encoding="utf-8"))


def read_mapping(path: str | Path, *keys: str) -> dict[str, Any]:
    """Read a JSON file that holds a mapping with certain keys.

    Raises:
        UserError: The file is missing, cannot be read, or holds something else.
    """
    values = read_json(path)
    if not isinstance(values, dict) or not values.keys() >= set(keys):
        raise UserError(f"{path} does not hold what its stage writes: delete it and run that again.")
    return values


def write_error(path: str | Path, error: BaseException) -> UserError | None:
    """Return the sentence for a write that the file system refused; None for another error."""
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
    else:
        found = _WRITE_ERRORS.search(str(error))
        if found is None:
            return None
        reason = found[0]
    return UserError(f"Could not write {path} ({reason}): free some space or choose another folder.")


@contextlib.contextmanager
def _said(path: Path) -> Iterator[None]:
    """Say in a sentence that a write was refused."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        refused = write_error(path, error)
        if refused is None:
            raise
        raise refused from error


@contextlib.contextmanager
def _readable(path: str | Path) -> Iterator[None]:
    """Say in a sentence that a file cannot be read, or is no JSON."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run the stage that writes it, or correct the path.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): correct the path or its permissions.") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): delete it and run its stage again.") from None


def shipped_configs() -> Path:
    """Return the folder of the configs that jetlit brings."""
    package = Path(__file__).parent
    folder = package / "configs"  # in a wheel
    return folder if folder.is_dir() else package.parent / "configs"  # in a checkout


def check_place(folder: Path) -> None:
    """Check that a folder is none that is a file, or in one."""
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if there.exists() and not there.is_dir():
        raise UserError(f"{there} is a file: choose a folder to write to.")


def entries(folder: Path) -> list[Path]:
    """Return what a folder holds beside the temporary files of writes that are under way; nothing if it is missing."""
    if not folder.is_dir():
        return []
    try:
        return sorted(path for path in folder.iterdir() if not _TEMPORARY.fullmatch(path.name))
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}): choose another folder.") from None


def _signature(folder: Path, name: str) -> dict[str, Any] | None:
    """Return the content of a file that says that jetlit made its folder; None for none or for another of that name."""
    path = folder / name
    if not path.is_file():
        return None
    try:
        return read_mapping(path, *_SIGNATURES[name])
    except UserError:
        return None


def _take_place(written: Path, path: Path) -> None:
    for check in _checks:
        check()
    os.replace(written, path)


def _follow_umask(path: Path) -> None:
    """Give a file or folder the permissions of any other; mkstemp and safetensors make private files."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)
