"""report.html: one file with the content of report.md, opened in a real browser where one is installed."""

import functools
import http.server
import json
import re
import shutil
import subprocess
import threading
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from jetlit.pipeline.report.html import report_page
from jetlit.pipeline.report.report import write_report
from jetlit.pipeline.report.tables import markdown
from jetlit.results import Result, write_result

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Loads the report in a frame, clicks the titles of its last table, and writes what it sees into its own page.
VISITOR = """<!DOCTYPE html><iframe src="report.html" width="1000" height="1000"></iframe><pre id="seen"></pre><script>
document.querySelector("iframe").addEventListener("load", (event) => {
  const page = event.target.contentDocument;
  const table = page.querySelector("#last ~ div.table table");
  const column = (index) => [...table.tBodies[0].rows].map((row) => row.cells[index].textContent);
  const titles = table.tHead.rows[0].cells;
  const seen = { images: [...page.images].map((image) => image.complete && image.naturalWidth > 0) };
  seen.before = column(1);
  titles[1].click();
  seen.ascending = column(1);
  titles[1].click();
  seen.descending = column(1);
  titles[0].dispatchEvent(new KeyboardEvent("keydown", { key: "Enter" }));
  seen.names = column(0);
  seen.arrow = titles[0].getAttribute("aria-sort");
  seen.links = [...page.querySelectorAll("nav a")].filter((a) => page.querySelector(a.getAttribute("href"))).length;
  seen.ran = "ran" in event.target.contentWindow;
  document.getElementById("seen").textContent = JSON.stringify(seen);
});
</script>"""


class Page(HTMLParser):
    """Collect the cells of a page's tables, its images and whatever a browser would fetch."""

    def __init__(self, text: str):
        super().__init__()
        self.cells: list[str] = []
        self.images: list[str] = []
        self.fetched: list[str] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self._in_cell = tag in ("td", "th") or (self._in_cell and tag in ("strong", "code"))
        if tag in ("td", "th"):
            self.cells.append("")
        if tag == "img":
            self.images.append(found["src"] or "")
        self.fetched += [
            url for name in ("src", "href") if (url := found.get(name)) and not url.startswith(("#", "data:"))
        ]

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.cells[-1] += data

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False


def cells_of(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [cell.strip().replace("**", "") for line in lines for cell in line.strip("|").split("|")]


def test_the_page_holds_the_tables_of_the_text_and_fetches_nothing(tmp_path: Path) -> None:
    metrics = {"val/loss": 2.125, "train/tokens_per_s": 15_000.0}
    write_result(tmp_path / "teacher", Result("teacher", {"a": 1}, metrics, {"model": "model"}, 4, 61.5), "b" * 64)
    write_report(tmp_path, {"teacher": {"recall/accuracy": 0.75, "recall/chance": 0.04}})
    page = Page((tmp_path / "report.html").read_text())
    assert page.cells and page.cells == cells_of((tmp_path / "report.md").read_text())
    assert len(page.images) == 1 and page.images[0].startswith("data:image/svg+xml;base64,")
    assert page.fetched == []
    before = (tmp_path / "report.html").read_bytes()
    write_report(tmp_path, {"teacher": {"recall/accuracy": 0.75, "recall/chance": 0.04}})
    assert (tmp_path / "report.html").read_bytes() == before


def test_what_a_model_writes_is_text() -> None:
    page = report_page("# Title\n\n<script>ran = 1</script>\n\ntext <img src=http://a/b> text\n", {})
    assert "&lt;script&gt;ran" in page and "&lt;img" in page and page.count("<script>") == 1


@pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome on the path")
def test_a_browser_shows_figures_and_sorts_tables(tmp_path: Path) -> None:
    values = {"one": "9.5k", "two": "-", "ten": "300", "three": "1.2M", "four": "-2"}
    figure = Figure()
    figure.subplots().plot([1, 2])
    sections = ["# Report", "## First", "![a](a.png)", "<script>ran = 1</script>", "## Last"]
    text = "\n\n".join([*sections, markdown(["name", "value"], [list(row) for row in values.items()])])
    (tmp_path / "report.html").write_text(report_page(text, {"a.png": figure}))
    (tmp_path / "visitor.html").write_text(VISITOR)
    requested: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            requested.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            f"--user-data-dir={tmp_path}/user",
        ]
        url = f"http://127.0.0.1:{server.server_port}/visitor.html"
        command = [BROWSER, *options, "--virtual-time-budget=10000", "--dump-dom", url]
        dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
        server.shutdown()
    seen = json.loads(re.search(r'<pre id="seen">(.*?)</pre>', dom, re.S)[1])  # type: ignore[index]
    assert seen["images"] == [True] and seen["links"] == 2 and not seen["ran"]
    assert seen["before"] == list(values.values())
    assert seen["ascending"] == ["-2", "300", "9.5k", "1.2M", "-"]
    assert seen["descending"] == ["1.2M", "9.5k", "300", "-2", "-"]
    assert seen["names"] == sorted(values) and seen["arrow"] == "ascending"
    assert set(requested) <= {"/visitor.html", "/report.html", "/favicon.ico"}
