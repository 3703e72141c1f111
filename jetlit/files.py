"""Atomic file writes: a file that matters is either whole or not there."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from jetlit.errors import UserError


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on any error it is removed.

    Raises:
        UserError: The file system refused the write (a full disk, a read-only folder).
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=f".tmp{path.suffix}")
        temporary = Path(name)
        # mkstemp makes private files; the finished one follows the user's umask like any other.
        umask = os.umask(0)
        os.umask(umask)
        os.fchmod(handle, 0o666 & ~umask)
        os.close(handle)
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"Could not write {path} ({error.strerror}): free some space or choose another folder."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; on success it replaces `path`, on any error it is removed.

    An existing folder is renamed before the new one takes its place and deleted afterward, so that `path` never holds
    part of a folder, whenever the process is killed. The permissions follow the umask.

    Raises:
        UserError: The file system refused the write, or the current folder lies in `path`.
    """
    path = Path(path).resolve()  # a link stays, and the folder it points to is replaced
    if Path.cwd().is_relative_to(path):
        raise UserError(f"{path} holds the current folder and would be replaced: choose another folder.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as temporary:
            written, replaced = Path(temporary) / "written", Path(temporary) / "replaced"
            written.mkdir()  # not the temporary folder itself, which only its owner may read
            yield written
            if path.is_dir():
                os.replace(path, replaced)
            try:
                os.replace(written, path)
            except OSError:
                if replaced.exists():
                    os.replace(replaced, path)
                raise
    except OSError as error:
        raise UserError(f"Could not write {path} ({error}): free some space or choose another folder.") from error


# What a model's folder holds: weights, configuration, tokenizer, and what a stage adds.
_MODEL_FILES = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "supernet.json", "tokenizer*",
    "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "spiece.model", "*chat_template*",
    "result.json", ".once.json", "configuration_jet_nemotron.py", "modeling_jet_nemotron.py",
)  # fmt: skip


def check_replaceable(folder: str | Path, *sources: str | Path) -> None:
    """Check that a model may be written to a folder: it holds nothing else than a model, and is none of the sources.

    Raises:
        UserError: It holds another file, or a source lies there.
    """
    folder = Path(folder)
    if any(folder.resolve() == Path(source).resolve() for source in sources):
        raise UserError(f"{folder} is the model that is read: choose another folder to write to.")
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    foreign = next((name for name in names if not any(fnmatch(name, pattern) for pattern in _MODEL_FILES)), None)
    if foreign is not None:
        raise UserError(f"{folder} holds {foreign}, which is not part of a model: choose an empty folder.")


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
        UserError: The file is missing or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run the stage that writes it, or correct the path.") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON ({error}): delete it and run its stage again.") from None


def shipped_configs() -> Path:
    """Return the folder of the configs that jetlit brings."""
    package = Path(__file__).parent
    folder = package / "configs"  # in a wheel
    return folder if folder.is_dir() else package.parent / "configs"  # in a checkout
