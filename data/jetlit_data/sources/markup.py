"""Files of documentation packages as plain text: HTML, info, dictd and text, compressed or not."""

import gzip
import re
from pathlib import PurePosixPath
from typing import Any

from jetlit.errors import UserError

_TEXT = {".txt", ".rst", ".md", ".pod", ".texi", ".dict", ".text"}
_CODE = {".py", ".el", ".pm", ".pl", ".rb", ".c", ".h", ".lua"}
_HTML = {".html", ".htm", ".xhtml"}
_COMPRESSED = {".gz", ".dz"}  # dictzip is gzip
_INFO = re.compile(r"\.info(-\d+)?$")
_UNREADABLE_SHARE = 0.001  # largest share of replaced characters; text in another encoding has more
_INFO_MARKS = re.compile("\x1f|\x00\x08\\[[^\\]]*\x00\x08\\]|^File: .*Node: .*$", re.MULTILINE)

# What is no text of the page: navigation, and what only a browser shows.
_APPARATUS = "|".join(
    f"//{name}" for name in ("script", "style", "nav", "header", "footer", "form", "button", "svg", "noscript")
) + "".join(
    f'|//*[contains(concat(" ", @class, " "), " {name} ")]'
    for name in ("headerlink", "sphinxsidebar", "related", "navheader", "navfooter", "toc", "footer", "sidebar", "nav")
)
_MAIN = ('//*[@role="main"]', "//main", "//article", "//body")
_HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
_PARAGRAPHS = {"p", "pre", "table", "ul", "ol", "dl", "div", "section", "blockquote"} | _HEADINGS
_LINES = {"li", "tr", "dt", "dd", "br"}


def is_readable(name: str) -> bool:
    """Return whether `to_text` reads files of that name."""
    return _kind(name) is not None


def to_text(name: str, data: bytes) -> str | None:
    """Return a file's text.

    Args:
        name: name of the file, which tells its kind.
        data: its bytes.

    Returns:
        The text, or None if it is not UTF-8.

    Raises:
        UserError: the library that reads HTML is not installed.
    """
    if PurePosixPath(name).suffix in _COMPRESSED:
        data = gzip.decompress(data)
    text = data.decode("utf-8-sig", errors="replace")
    if text.count("\ufffd") > _UNREADABLE_SHARE * len(text):
        return None
    kind = _kind(name)
    if kind == "html":
        return _html_to_text(text)
    return _INFO_MARKS.sub("", text) if kind == "info" else text


def _kind(name: str) -> str | None:
    path = PurePosixPath(name)
    while path.suffix in (*_COMPRESSED, ".en"):
        path = path.with_suffix("")
    if path.suffix in _HTML:
        return "html"
    if _INFO.search(path.name):
        return "info"
    return "text" if path.suffix in _TEXT | _CODE else None


def _html_to_text(page: str) -> str:
    try:
        from lxml import etree, html
    except ImportError:
        raise UserError("HTML needs the library lxml: pip install 'jetlit[text]'.") from None
    try:
        # As bytes: lxml refuses a string that declares its encoding.
        root = html.document_fromstring(page.encode(), parser=html.HTMLParser(encoding="utf-8"))
    except etree.ParserError:  # an empty page
        return ""
    for element in root.xpath(_APPARATUS):
        if element.getparent() is not None:
            element.drop_tree()
    main = next((found[0] for path in _MAIN if (found := root.xpath(path))), root)
    lines = _Lines()
    for event, element in etree.iterwalk(main, events=("start", "end", "comment", "pi")):
        if event in ("start", "end"):
            lines.cross(element.tag, entering=event == "start")
        if event == "start":
            lines.add(element.text)
        elif element is not main:
            lines.add(element.tail)
    return lines.text()


class _Lines:
    """Text collected in a walk over a page, white space collapsed outside of `pre`."""

    def __init__(self) -> None:
        self._pieces = ["\n"]
        self._verbatim = 0

    def cross(self, tag: Any, entering: bool) -> None:
        if tag == "pre":
            self._verbatim += 1 if entering else -1
        if tag in _PARAGRAPHS:
            self._pieces.append("\n\n")
        elif tag in _LINES and not self._pieces[-1].endswith("\n"):
            self._pieces.append("\n")
        elif tag in ("td", "th") and entering:
            self.add(" ")

    def add(self, text: str | None) -> None:
        if not text:
            return
        if not self._verbatim:
            text = re.sub(r"\s+", " ", text)
            if self._pieces[-1][-1].isspace():
                text = text.lstrip()
        if text:
            self._pieces.append(text)

    def text(self) -> str:
        text = re.sub(r"[ \t]+\n", "\n", "".join(self._pieces))
        return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
