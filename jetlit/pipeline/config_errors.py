"""One sentence out of jsonargparse's or OmegaConf's tree of everything it tried."""

import re

# Names of earlier versions -> what to write today.
MOVED = {
    "TaughtFullTraining": "FullTraining with `teacher`",
    "jetlit.callbacks.AtomicCheckpointIO": "jetlit.training.AtomicCheckpointIO",
    "jetlit.callbacks.BackgroundCheckpointIO": "jetlit.training.BackgroundCheckpointIO",
    "jetlit.callbacks.StageLogger": "jetlit.training.StageLogger",
    "FlatShardingStrategy": "the strategy of configs/strategy/fsdp2.yaml",
    "jetlit.recipes.WarmupCosine": "jetlit.training.WarmupCosine",
    "jetlit.recipes.optimisation.WarmupCosine": "jetlit.training.WarmupCosine",
}

_MISSING = r"(?:No module named|module '[\w.]+' has no attribute|cannot import)"


def one_sentence(message: str) -> str:
    """Say what is wrong in a configuration and how to fix it.

    Args:
        message: of jsonargparse or OmegaConf, several lines.
    """
    text = " ".join(line.strip() for line in message.splitlines() if line.strip())
    refused = re.search(r"Option '([^']+)' is not accepted", text) or re.search(r"unrecognized arguments: (\S+)", text)
    if refused:
        return f"There is no option {refused[1].lstrip('-')!r}: correct its spelling or leave it out."
    missing = re.search(r"the following arguments are required: ([\w., ]+?)(?: - |$)", text)
    if missing:
        return f"A value is missing: set {missing[1]}."
    reference = re.search(r"Interpolation key '([^']+)' not found full_key: (\S+)", text)
    if reference:
        return f"${{{reference[1]}}} in {reference[2]} refers to nothing: correct its name, or set that key."
    gone = re.search(rf"class_path '([^']+)': {_MISSING}", text) or re.search(
        rf"{_MISSING}[^(]*\(class_path='([^']+)'", text
    )
    return (gone and _no_class(gone[1], text)) or _wrong_value(text) or f"The configuration is wrong: {text}"


def _key(text: str) -> str:
    return ".".join(dict.fromkeys(re.findall(r'Parser key "([^"]+)"', text)))


def _no_class(name: str, text: str) -> str:
    """Return the sentence for a class that does not exist, or that has moved."""
    moved = MOVED.get(name) or MOVED.get(name.rpartition(".")[2])
    if moved:
        return f"{name} is now {moved}: change its name in the configuration."
    return f"There is no class {name!r} for {_key(text)}: correct its name, or give its full path, module.Class."


def _wrong_value(text: str) -> str | None:
    """Return the sentence for a value of another type than the option's."""
    key = _key(text)
    corpora = re.search(r"corpora\":.*?Given value type: <class '(\w+)'>", text)
    if corpora and corpora[1] == "dict":
        return f"{key} is now a list of {{path, weight}}: write a corpus as `- {{path: FOLDER, weight: 0.5}}`."
    types = [name for name in dict.fromkeys(re.findall(r"Expected a <class '(\w+)'>", text)) if name != "NoneType"]
    given = re.search(r"(?:Given|Got) value: (?:NestedArg\(.*?val='?([^')]*)'?\)|(\S+))", text)
    if key and types and given:
        return f"{key} takes {' or '.join(types)}, not {given[1] or given[2].removesuffix('.')!r}: correct the value."
    unknown = re.search(r"Expected a dot import path string: (\S+)", text)
    return _no_class(unknown[1], text) if key and unknown else None
