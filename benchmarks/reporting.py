"""How a benchmark reports: Markdown and JSON that say what ran on what, when and by which command."""

import datetime
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jetlit.files import write_json, write_text
from jetlit.results import hardware, versions

RESULTS = Path(__file__).parent / "results"


def report(
    name: str,
    title: str,
    rows: list[dict[str, Any]],
    notes: str = "",
    folder: Path = RESULTS,
    earlier_commands: Sequence[str] = (),
) -> str:
    """Write `folder/NAME.md` and `folder/NAME.json` and return the Markdown.

    Args:
        name: of the files.
        title: of the table.
        rows: one mapping of column name to value each; columns in the order of their first appearance.
        notes: printed under the table.
        folder: where both files go.
        earlier_commands: that measured some of the rows.
    """
    command = shlex.join(["python", *sys.argv])
    facts: dict[str, Any] = {"title": title, "command": "; ".join(dict.fromkeys([*earlier_commands, command]))}
    facts |= _circumstances()
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [f"# {title}", "", "| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(column)) for column in columns) + " |" for row in rows]
    machine = facts["hardware"]
    on = ", ".join(machine.get("gpus") or [machine.get("processor", machine["machine"])])
    used = ", ".join(f"{package} {version}" for package, version in facts["versions"].items())
    lines += ["", notes, "", f"`{facts['command']}` on {facts['date']}; {on}; {used}.", ""]
    text = "\n".join(lines)
    write_text(folder / f"{name}.md", text)
    write_json(folder / f"{name}.json", facts | {"rows": rows, "notes": notes})
    print(text)
    return text


def earlier(name: str, folder: Path = RESULTS) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows and commands of a report that the same machine has written the same day, for a benchmark that adds to it."""
    path = folder / f"{name}.json"
    report = json.loads(path.read_text()) if path.exists() else {}
    now = json.loads(json.dumps(_circumstances()))
    same = all(report.get(fact) == value for fact, value in now.items())
    return (report["rows"], report["command"].split("; ")) if same else ([], [])


def _circumstances() -> dict[str, Any]:
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"date": date, "hardware": hardware(), "versions": versions()}


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)
