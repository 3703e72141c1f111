"""report.html: the report of a run as one page that needs no other file and no network."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from string import Template

import matplotlib
from markdown import Markdown
from matplotlib.figure import Figure

_FOLDER = Path(__file__).parent


def report_page(text: str, drawn: Mapping[str, Figure]) -> str:
    """Return the report as HTML: figures inline as SVG, a table of contents, tables that a click on a column sorts.

    Args:
        text: the report in Markdown.
        drawn: figures by the name under which `text` shows them.
    """
    converter = Markdown(extensions=["tables", "fenced_code", "toc"], extension_configs={"toc": {"toc_depth": "2-3"}})
    # Models write parts of the report: their tags are text.
    converter.preprocessors.deregister("html_block")
    converter.inlinePatterns.deregister("html")
    body = converter.convert(text)
    for name, figure in drawn.items():
        body = body.replace(f'src="{name}"', f'src="{_data_url(figure)}"')
    script = (_FOLDER / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = Template((_FOLDER / "report.html").read_text(encoding="utf-8"))
    contents = getattr(converter, "toc")  # noqa: B009 (the extension adds it)
    return template.substitute(contents=contents, body=body, script=script, script_hash=digest)


def _data_url(figure: Figure) -> str:
    buffer = io.BytesIO()
    # The same figure gives the same bytes: no date, and identifiers that are not drawn at random.
    with matplotlib.rc_context({"svg.hashsalt": "jetlit"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
