"""Local copies of the data that tasks of lm-evaluation-harness read from the hub."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_ENDINGS = {".jsonl": "json", ".jsonl.gz": "json", ".json": "json", ".parquet": "parquet"}  # and the reader of each
_SPLITS = ("train", "dev", "validation", "test")
# Data set and configuration of the hub -> its files, without their endings, where they are not named as on the hub.
# Where no split is named, the file is the test split.
_SHORT = {
    ("allenai/winogrande", "winogrande_xl"): "winogrande/{split}",
    ("Rowan/hellaswag", None): "hellaswag/{split}",
    ("baber/piqa", None): "piqa/{split}",
    ("aps/super_glue", "boolq"): "boolq/{split}",
    ("truthfulqa/truthful_qa", "multiple_choice"): "truthfulqa_mc/{split}",
    ("allenai/openbookqa", "main"): "openbookqa/{split}",
    ("allenai/ai2_arc", "ARC-Easy"): "arc_easy/{split}",
    ("allenai/ai2_arc", "ARC-Challenge"): "arc_challenge/{split}",
    ("EleutherAI/lambada_openai", "default"): "lambada_openai/{split}",
    ("openai/gsm8k", "main"): "gsm8k/{split}",
    ("cais/mmlu", "*"): "mmlu/{split}/{name}",
    ("TIGER-Lab/MMLU-Pro", None): "mmlu_pro/{split}",
    ("EleutherAI/hendrycks_math", "*"): "minerva_math/{name}",
    ("SaylorTwift/bbh", "*"): "bbh/{name}",
}


def write_task_files(data: Path, out: Path, index: Mapping[str, Any], names: Iterable[str]) -> dict[str, str | None]:
    """Write a task file of the harness for each task whose data lie in a folder.

    A file includes the harness' own, so that prompts, targets and metrics are its own, and only names the data. Paths
    are absolute. docs/tasks.md says where each data set belongs.

    Args:
        data: folder of the copies.
        out: folder of the task files.
        index: the harness' tasks by name (`TaskManager.task_index`).
        names: tasks, groups and tags; those they consist of are written.

    Returns:
        For each task that was written the split that its worked examples come from, if that is not among the copies.
    """
    written = {}
    for task in sorted({leaf for name in names for leaf in leaves(index, name)}):
        config = index[task].cfg or {}
        dataset, name = config.get("dataset_path"), config.get("dataset_name")
        files = _copies(data, dataset, name) if isinstance(dataset, str) else {}
        tested = config.get("test_split") or config.get("validation_split")
        if tested not in files:
            continue
        shots = config.get("fewshot_split")
        content = {
            "include": str(index[task].yaml_path),
            "task": task,
            "dataset_path": _reader(files[tested]),
            "dataset_name": None,
            "dataset_kwargs": {"data_files": {split: str(path) for split, path in files.items()}},
        }
        for key in ("training_split", "validation_split", "test_split", "fewshot_split"):
            if config.get(key) not in files:
                content[key] = None
        (out / f"{task}.yaml").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")  # JSON is YAML
        written[task] = shots if shots not in files else None
    return written


def leaves(index: Mapping[str, Any], name: str) -> set[str]:
    """Return the tasks that a task, a group or a tag of the harness consists of."""
    entry = index.get(name)
    if entry is None:
        return set()
    config = entry.cfg
    if entry.kind.name == "TAG":
        members = sorted(entry.tags)
    elif entry.kind.name == "GROUP":
        members = config["task"] if isinstance(config["task"], list) else [config["task"]]
    else:
        return {name}
    inner = (member if isinstance(member, str) else member.get("task") for member in members)
    return {leaf for member in inner if isinstance(member, str) and member != name for leaf in leaves(index, member)}


def _copies(data: Path, dataset: str, name: str | None) -> dict[str, Path]:
    """Return the copies of a data set by split."""
    short = _SHORT.get((dataset, name)) or _SHORT.get((dataset, "*" if name else None))
    patterns = [*([short] if short else []), f"{dataset}/{{name}}/{{split}}", f"{dataset}/{{split}}"]
    found: dict[str, Path] = {}
    for pattern in patterns:
        for split in _SPLITS if "{split}" in pattern else ("test",):
            stem = pattern.format(split=split, name=name)
            file = next((file for ending in _ENDINGS if (file := data / f"{stem}{ending}").is_file()), None)
            if file is not None:
                found.setdefault(split, file.absolute())
        if found:
            break
    return found


def _reader(file: Path) -> str:
    return next(reader for ending, reader in _ENDINGS.items() if file.name.endswith(ending))
