"""One sentence out of jsonargparse's tree of everything it tried."""

import re


def one_sentence(message: str) -> str:
    """Says what is wrong in a configuration and how to mend it.

    Args:
        message: jsonargparse's or omegaconf's, of many lines.
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
    return _wrong_value(text) or f"The configuration is wrong: {text}"


def _wrong_value(text: str) -> str | None:
    """A value of another type than the option's, or a class that is not there."""
    key = ".".join(dict.fromkeys(re.findall(r'Parser key "([^"]+)"', text)))
    types = [name for name in dict.fromkeys(re.findall(r"Expected a <class '(\w+)'>", text)) if name != "NoneType"]
    given = re.search(r"(?:Given|Got) value: (?:NestedArg\(.*?val='?([^')]*)'?\)|(\S+))", text)
    if key and types and given:
        value = given[1] or given[2].removesuffix(".")
        return f"{key} takes {' or '.join(types)}, not {value!r}: correct the value."
    unknown = re.search(r"Expected a dot import path string: (\S+)", text)
    if key and unknown:
        return f"There is no class {unknown[1]!r} for {key}: correct its name, or give its full path, module.Class."
    return None
