"""How a benchmark reports: Markdown and JSON that say what ran on what, when and by which command."""

import datetime
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from jetlit.errors import UserError
from jetlit.files import write_json, write_text
from jetlit.results import hardware, versions

RESULTS = Path(__file__).parent / "results"


def with_earlier(
    rows: list[dict[str, Any]], name: str, keys: tuple[str, ...], folder: Path = RESULTS
) -> list[dict[str, Any]]:
    """Put rows measured now among those of the report before, so that a part can be measured again alone.

    Every row says in the column `measured` on which day that was.

    Args:
        rows: measured now.
        name: of the report.
        keys: columns that tell which row of the report before a new one replaces, where it stands; others follow.
        folder: of the report.

    Raises:
        UserError: the report before is of other hardware.
    """
    rows = [{"measured": today()} | row for row in rows]
    file = folder / f"{name}.json"
    if not file.exists():
        return rows
    before = json.loads(file.read_text(encoding="utf-8"))
    if before["hardware"].get("gpus") != hardware().get("gpus"):
        raise UserError(f"{file} was measured on {before['hardware'].get('gpus')}: choose another --out.")
    earlier = [{"measured": before["date"]} | row for row in before["rows"]]
    return list({tuple(row.get(key) for key in keys): row for row in earlier + rows}.values())


def merged(reports: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Merge the rows of several reports of one machine, with what they ran on and by which commands.

    Args:
        reports: as read from their JSON files.

    Returns:
        All rows, and the facts for `report`: of its GPUs as many as one report used at most, and the latest date.

    Raises:
        UserError: they are of different machines or versions.
    """
    fullest = max(reports, key=lambda each: len(each["hardware"].get("gpus") or ()))
    if len({json.dumps(_setting(each), sort_keys=True) for each in reports}) > 1:
        machines = [each["hardware"].get("gpus") or each["hardware"].get("processor") for each in reports]
        raise UserError(f"Reports of different machines or versions ({machines}) make no table: merge those of one.")
    facts = {
        "command": "; ".join(dict.fromkeys(each["command"] for each in reports)),
        "date": max(each["date"] for each in reports),
        "hardware": fullest["hardware"],
        "versions": fullest["versions"],
    }
    return [row for each in reports for row in each["rows"]], facts


def _setting(report: dict[str, Any]) -> dict[str, Any]:
    """Return what reports have to share: the versions and the machine, however many of its GPUs were used."""
    return report["versions"] | report["hardware"] | {"gpus": sorted(set(report["hardware"].get("gpus") or ()))}


def report(
    name: str,
    title: str,
    rows: list[dict[str, Any]],
    notes: str = "",
    folder: Path = RESULTS,
    show: bool = True,
    facts: dict[str, Any] | None = None,
) -> str:
    """Write `folder/NAME.md` and `folder/NAME.json` and return the Markdown.

    Args:
        name: of the files.
        title: of the table.
        rows: one mapping of column name to value each; columns in the order of their first appearance.
        notes: printed under the table.
        folder: where both files go.
        show: also print the Markdown.
        facts: command, date, hardware and versions of rows that were measured elsewhere; by default this process's.
    """
    facts = {"title": title} | (facts or _here())
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
    if show:
        print(text)
    return text


def _here() -> dict[str, Any]:
    return {
        "command": shlex.join(["python", *sys.argv]),
        "date": today(),
        "hardware": hardware(),
        "versions": versions(),
    }


def today() -> str:
    """Return the date, by UTC."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)
