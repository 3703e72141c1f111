"""YAML config files: read, merged key by key, and turned into typed arguments."""

from __future__ import annotations

import contextlib
import copy
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentError, ArgumentParser, get_loader, set_parsing_settings
from omegaconf.errors import OmegaConfBaseException

from jetlit.errors import UserError
from jetlit.files import shipped_configs
from jetlit.pipeline.config_errors import one_sentence

T = TypeVar("T")
Overrides = Mapping[str, Any] | Sequence[tuple[str, Any]]
# Keys that hold names of files, which count from the folder of the file that names them.
PATH_KEYS = ("fit_configs", "stages", "report_config")
_SHIPPED = "jetlit://"
_CLASS_KEYS = ("class_path", "init_args", "dict_kwargs")
_LARGEST = 100_000  # values in a file, aliases expanded
_DEEPEST = 100  # collections inside each other
# A config is data: naming a function of `os` or a class in a place of any type must not run it. An empty list is what
# makes jsonargparse refuse its own list of modules instead of warning.
set_parsing_settings(import_path_denylist=[], instantiate_subclass_spec_in_any=False)


def merge_configs(files: Sequence[str | Path], overrides: Overrides | None = None) -> dict[str, Any]:
    """Merge YAML files and values that win over them.

    A later file wins key by key. Lists are replaced; `key+` appends to one. Where a file names another `class_path`,
    the `init_args` of the earlier class are dropped. `${key}` stays as it is until the arguments are parsed.

    Args:
        files: paths of the files.
        overrides: values by dotted name ("trainer.max_steps"), or pairs of both; `init_args` may be left out of a name.

    Returns:
        The merged mapping.

    Raises:
        UserError: a file is missing, or is no mapping in YAML.
    """
    merged: dict[str, Any] = {}
    for file in files:
        _merge(merged, read_config(file))
    for name, value in overrides.items() if isinstance(overrides, Mapping) else overrides or ():
        _set(merged, name, copy.deepcopy(value))
    return merged


def read_config(file: str | Path) -> dict[str, Any]:
    """Read one YAML file, a mapping with absolute paths under `PATH_KEYS`.

    Args:
        file: path of the file; "jetlit://quickstart/postnas.yaml" names one of the shipped configs.

    Raises:
        UserError: the file is missing, or is no mapping in YAML.
    """
    name = str(file)
    shipped = name.startswith(_SHIPPED)
    path = shipped_configs() / name.removeprefix(_SHIPPED) if shipped else Path(file).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
        _check_depth(text, f"The config {path}")
        root = yaml.compose(text, Loader=yaml.CSafeLoader)
        _check_nodes(root, {}, path)
        config = {} if root is None else get_loader("yaml")(text)
        _check_texts(config, f"The config {path}")
    except OSError as error:
        raise UserError(f"The config {path} cannot be read ({error.strerror}): correct its path.") from None
    except UnicodeDecodeError:
        raise UserError(f"The config {path} is not UTF-8 text: save it in UTF-8.") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"The config {path} is not valid YAML ({reason}): correct it there.") from None
    if not isinstance(config, dict):
        raise UserError(f"The config {path} is no mapping: write `key: value` at its top level.")
    folder = path.absolute().parent
    return config | {key: _absolute(config[key], folder) for key in PATH_KEYS if key in config}


def parse_config(parser: ArgumentParser, config: Mapping[str, Any]) -> Any:
    """Parse a merged config with a jsonargparse parser of mode "omegaconf+", which resolves `${key}`.

    Raises:
        UserError: a key, a value or a reference is wrong.
    """
    try:
        return parser.parse_object(dict(config))
    except (ArgumentError, OmegaConfBaseException) as error:
        raise UserError(one_sentence(str(error))) from None


def arguments_parser(kind: type, name: str) -> ArgumentParser:
    """Make the parser of a config dataclass, for the subcommand of that name."""
    parser = ArgumentParser(prog=f"jetlit {name}", parser_mode="omegaconf+", exit_on_error=False)
    parser.add_class_arguments(kind, instantiate=False)
    return parser


def load_config(kind: type[T], config: Mapping[str, Any], name: str = "") -> T:
    """Make a config dataclass of its arguments, see `merge_configs`.

    Raises:
        UserError: a key, a value or a reference is wrong.
    """
    parser = arguments_parser(kind, name)
    return kind(**parser.instantiate(parse_config(parser, config)).as_dict())


def named_object(name: str) -> Any:
    """Return the class or function of a dotted name that a parsed config holds."""
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError:
        return getattr(named_object(module), attribute)  # a class inside a class


def _merge(target: dict[str, Any], source: Mapping[str, Any]) -> None:
    for key, value in source.items():
        base = key.removesuffix("+")
        if base != key:
            # Where no file sets the list, the parser appends to its own default.
            where = base if isinstance(target.get(base), list) else key
            target[where] = target.get(where, []) + _as_list(value)
            continue
        target.pop(f"{key}+", None)
        present: Any = target.get(key)
        if isinstance(value, str):
            value = _as_class(value, present)
        if not isinstance(value, Mapping):
            target[key] = value
            continue
        if not isinstance(present, dict):
            present = target[key] = {}
        named = value.get("class_path")
        if named and "class_path" in present and not _same_class(named, present["class_path"]):
            for name in _CLASS_KEYS:
                present.pop(name, None)
        _merge(present, value)


def _set(config: dict[str, Any], name: str, value: Any) -> None:
    """Set one value by its dotted name."""
    _check_texts({name: value}, f"The option --{name}")
    *parents, last = name.split(".")
    for parent in parents:
        config = _child(_arguments(config, parent), parent)
    _merge(_arguments(config, last), {last: value})


def _arguments(config: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the mapping that holds `key`: the `init_args` where `config` is a class."""
    return config.setdefault("init_args", {}) if _is_class(config) and key not in _CLASS_KEYS else config


def _child(config: Any, key: Any) -> dict[str, Any]:
    """Return the mapping under `key`; of a list the last item, of a class's name the class."""
    if key not in config and f"{key}+" in config:
        key = f"{key}+"
    if isinstance(config.get(key), list) and config[key]:
        config, key = config[key], -1
    child = config[key] if key == -1 else config.get(key)
    if isinstance(child, str):
        child = _class_named(child)
    config[key] = child if isinstance(child, dict) else {}
    return config[key]


def _class_named(text: str) -> Any:
    """Return what stands in a class's place on the command line: its name, or a mapping, true, false or null."""
    value = get_loader("yaml")(text)
    return {"class_path": text} if isinstance(value, str) else value


def _as_class(text: str, present: Any) -> Any:
    """Return the class that a text writes out or, where it names the one that is present, that class."""
    if text.lstrip().startswith("{") and any(key in text for key in _CLASS_KEYS):
        written = get_loader("yaml")(text)
        return written if _is_class(written) else text
    named = _is_class(present) and _same_class(present.get("class_path", text), text)
    return _class_named(text) if named else text


def _as_list(value: Any) -> list[Any]:
    value = get_loader("yaml")(value) if isinstance(value, str) else value
    return list(value) if isinstance(value, list | tuple) else [value]


def _is_class(value: Any) -> bool:
    return isinstance(value, dict) and not value.keys().isdisjoint(_CLASS_KEYS)


def _same_class(one: str, other: str) -> bool:
    """Return whether two names mean one class; a short name stands for any class of that name."""
    short = "." not in one or "." not in other
    return one == other or (short and one.rpartition(".")[2] == other.rpartition(".")[2])


def _absolute(value: Any, folder: Path) -> Any:
    if isinstance(value, str):
        return value if "${" in value else str(folder / value)
    if isinstance(value, list):
        return [_absolute(item, folder) for item in value]
    return {key: _absolute(item, folder) for key, item in value.items()} if isinstance(value, dict) else value


def _check_depth(text: str, where: str) -> None:
    """Refuse YAML so deep that its reader, written in C, would overflow the stack.

    Raises:
        UserError: it is that deep.
    """
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise UserError(f"{where} nests over {_DEEPEST} lists or mappings inside each other: write it flatter.")


def _check_texts(value: Any, where: str) -> None:
    """Check what YAML cannot say of a value: its keys are texts, and texts fit for paths and for being read as YAML.

    Raises:
        UserError: they are not.
    """
    if isinstance(value, str):
        if "\0" in value:
            raise UserError(f"{where} has a NUL character in {value!r:.60}: remove it.")
        if value.count("[") + value.count("{") > _DEEPEST:
            with contextlib.suppress(yaml.YAMLError):  # it is no YAML, and will not be read as such
                _check_depth(value, where)
    elif isinstance(value, list):
        for item in value:
            _check_texts(item, where)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise UserError(f"{where} has the key {key!r}, which is no text: put it in quotes, or correct it.")
            _check_texts(item, where)


def _check_nodes(node: yaml.Node | None, sizes: dict[int, int], path: Path) -> int:
    """Return the number of values under a node, aliases expanded.

    Raises:
        UserError: a key stands twice in one mapping, or aliases make a small file large.
    """
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) in sizes:
        return sizes[id(node)]
    sizes[id(node)] = _LARGEST  # what contains itself has no end
    children = node.value
    if isinstance(node, yaml.MappingNode):
        keys = [str(key.value) for key, _ in node.value]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            line = node.start_mark.line + 1
            raise UserError(f"The config {path} has the key {twice!r} twice (mapping of line {line}): remove one.")
        children = [value for _, value in node.value]
    size = 1 + sum(_check_nodes(child, sizes, path) for child in children)
    if size > _LARGEST:
        raise UserError(f"The config {path} has aliases that expand to over {_LARGEST:,} values: write them out.")
    sizes[id(node)] = size
    return size
