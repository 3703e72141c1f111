"""One sentence out of jsonargparse's or OmegaConf's tree of everything it tried."""

import re

from jetlit.values import say_error

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

_LONGEST = 400  # characters of a message that no sentence is known for
_MISSING = r"(?:No module named|module '[\w.]+' has no attribute|cannot import)"


def one_sentence(message: str) -> str:
    """Say what is wrong in a configuration and how to fix it.

    Args:
        message: of jsonargparse or OmegaConf, several lines.
    """
    text = " ".join(line.strip() for line in message.splitlines() if line.strip())
    said = _wrong_key(text) or _wrong_class(text) or say_error(_key(text), text) or _wrong_value(text)
    return said or f"The configuration is wrong: {text if len(text) < _LONGEST else text[:_LONGEST] + ' ...'}"


def _key(text: str) -> str:
    return ".".join(dict.fromkeys(re.findall(r'Parser key "([^"]+)"', text)))


def _wrong_key(text: str) -> str | None:
    """Return the sentence for an option that does not exist or is missing, or a reference to one."""
    group = re.search(r"Group '([^']+)' does not accept option '([^']+)'", text)
    refused = re.search(r"Option '([^']+)' is not accepted", text) or re.search(r"unrecognized arguments: (\S+)", text)
    if group or refused:
        option = f"{group[1]}.{group[2]}" if group else refused[1].lstrip("-")  # type: ignore[index]
        return f"There is no option {option!r}: correct its spelling or leave it out."
    missing = re.search(r"the following arguments are required: ([\w., ]+?)(?: - |$)", text)
    if missing:
        return f"A value is missing: set {missing[1]}."
    reference = re.search(r"Interpolation key '([^']+)' not found full_key: (\S+)", text)
    if reference:
        return f"${{{reference[1]}}} in {reference[2]} refers to nothing: correct its name, or set that key."
    return None


def _wrong_class(text: str) -> str | None:
    """Return the sentence for a class that does not exist, has moved, or may not be named."""
    denied = re.search(r"Importing '([^']+)' is not allowed", text)
    if denied:
        return (
            f"{_key(text)} names {denied[1]}, which a config may not call: name a class of the kind that is asked for."
        )
    moved = re.search(r"(jetlit[\w.]+) is (jetlit[\w.]+) now\.", text)
    if moved:
        return f"{moved[1]} is now {moved[2]}: change its name in the configuration."
    gone = re.search(rf"class_path '([^']+)': {_MISSING}", text) or re.search(
        rf"{_MISSING}[^(]*\(class_path='([^']+)'", text
    )
    if gone is None:
        gone = re.search(
            r"(?:Expected a dot import path string|Unexpected import path format): (.+?)\.?(?: - | Given |$)", text
        )
        # A number where a tensor would do is no class.
        gone = None if re.search(r"Expected a <class '(int|float)'>", text) else gone
    return gone and _no_class(gone[1], text)


def _no_class(name: str, text: str) -> str:
    moved = MOVED.get(name) or MOVED.get(name.rpartition(".")[2])
    if moved:
        return f"{name} is now {moved}: change its name in the configuration."
    key = _key(text) or text.partition(":")[0]
    return f"There is no class {name!r} for {key}: correct its name, or give its full path, module.Class."


def _wrong_value(text: str) -> str | None:
    """Return the sentence for a value of another type than the option's."""
    key = _key(text)
    corpora = re.search(r"corpora\":.*?Given value type: <class '(\w+)'>", text)
    if corpora and corpora[1] == "dict":
        return f"{key} is now a list of {{path, weight}}: write a corpus as `- {{path: FOLDER, weight: 0.5}}`."
    # The innermost error: those around it repeat the values that hold the wrong one.
    innermost = text.rpartition('Parser key "')[2].partition('": ')[2]
    inner = re.match(r".*?(?:Given|Got) value:.*?(?= - Expected a|\. Got value: |$)", innermost)
    if not key or inner is None:
        return None
    expected = re.findall(r"Expected a (?:<class '([\w.]+)'>|typing\.Literal\[([^\]]+)\])", inner[0])
    types = dict.fromkeys(kind.rpartition(".")[2] or values.replace(", ", " or ") for kind, values in expected)
    types.pop("NoneType", None)
    given = re.search(r"(?:Given|Got) value: ?(?:NestedArg\(.*?val='?([^')]*)'?\)|(.*))", inner[0])
    if given is None:
        return None
    if "Not a valid subclass of" in inner[0]:
        return f"{key} takes the name of a class, or a mapping with class_path and init_args: correct the value."
    if not types:
        return f"{key} is wrong ({inner[0].partition('. Got value')[0]}): correct the value."
    return f"{key} takes {' or '.join(types)}, not {given[1] or given[2].removesuffix('.')!r}: correct the value."
