"""Packages are built with dpkg-deb and read as apt would have fetched them."""

import gzip
import shutil
import subprocess

import pytest
from jetlit_data.sources import open_source
from jetlit_data.sources.debian import parts
from jetlit_data.sources.markup import is_readable, to_text

from jetlit.errors import UserError

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb, which Debian has")
LONG = "A sentence that is long enough to be a document of its own. " * 5


@pytest.fixture
def cache(tmp_path):
    root = tmp_path / "root"
    files = {
        "DEBIAN/control": b"Package: guide\nVersion: 1.0\nArchitecture: all\nMaintainer: us <us@example.org>\n"
        b"Description: a guide\n",
        "usr/share/doc/guide/first.txt": LONG.encode(),
        "usr/share/doc/guide/second.txt.gz": gzip.compress(LONG.replace("sentence", "phrase").encode()),
        "usr/share/doc/guide/de/first.txt": LONG.replace("sentence", "Satz").encode(),
        "usr/share/doc/guide/short.txt": b"Too short.",
        "usr/share/doc/guide/copyright": LONG.encode(),
        "usr/share/doc/guide/latin.txt": (LONG + "caf\xe9").encode("latin-1"),
        "usr/share/doc/guide/picture.png": b"\x89PNG" * 100,
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (tmp_path / "cache").mkdir()
    command = ["dpkg-deb", "--build", "--root-owner-group", str(root), str(tmp_path / "cache" / "guide_1.0_all.deb")]
    subprocess.run(command, check=True, capture_output=True)
    return str(tmp_path / "cache")


@needs_dpkg
def test_a_package_gives_its_english_text(cache):
    source = open_source("debian", {"packages": ["guide"], "cache": cache})
    assert sorted(source.documents(0)) == [LONG.replace("sentence", "phrase"), LONG]
    pinned = open_source("debian", {"packages": ["guide=1.0"], "cache": cache})
    assert sorted(pinned.documents(0)) == sorted(source.documents(0))


@needs_dpkg
def test_a_damaged_package_is_one_sentence(tmp_path):
    (tmp_path / "guide_1.0_all.deb").write_bytes(b"no package")
    with pytest.raises(UserError, match=r"guide_1\.0_all\.deb is damaged: delete it"):
        open_source("debian", {"packages": ["guide"], "cache": str(tmp_path)}).documents(0)


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="needs apt, which Debian has")
def test_an_unknown_package_is_one_sentence(tmp_path):
    options = {"packages": ["no-such-package-as-this"], "cache": str(tmp_path)}
    with pytest.raises(UserError, match=r"apt-get download no-such-package-as-this` failed .*: run apt-get update"):
        open_source("debian", options).documents(0)


def test_packages_must_be_named():
    with pytest.raises(UserError, match='Source "debian" needs the option "packages"'):
        open_source("debian", {})


def test_long_texts_are_cut_before_lines_that_are_not_indented():
    entries = [f"Word{number}\n  meaning {number}\n" for number in range(100)]
    found = list(parts("".join(entries), 300))
    assert "".join(found) == "".join(entries) and len(found) > 5
    assert all(part.startswith("Word") and len(part) <= 300 for part in found)
    assert list(parts("one line only, longer than asked for", 10)) == ["one line only, longer than asked for"]


def test_kinds_of_files():
    readable = ["a.html", "a.html.en", "a.txt.gz", "gcide.dict.dz", "libc.info-3.gz", "a.el.gz", "b.py"]
    assert all(map(is_readable, readable))
    assert not any(map(is_readable, ["a.html.de", "a.png", "a.js", "copyright", "a.html.de.gz", "changelog.gz"]))


def test_a_page_loses_its_apparatus_and_keeps_its_code():
    pytest.importorskip("lxml", reason="HTML needs lxml, of the extras text and dev")
    page = """<html><head><title>t</title><style>p {}</style></head><body><nav>Home</nav><div role="main">
      <h1>Title<a class="headerlink" href="#x">¶</a></h1><p>Some <b>bold</b>
      text.<br>Next</p><pre>def f(x):
    return x  # <b>two</b>
</pre>tail<table><tr><td>one</td><td>two</td></tr><tr><td>three</td></tr></table><ul><li>a<li>b</ul>
      <script>alert(1)</script></div><footer>bye</footer></body></html>"""
    expected = "Title\n\nSome bold text.\nNext\n\ndef f(x):\n    return x  # two\n\ntail\n\none two\nthree\n\na\nb\n"
    assert to_text("page.html", page.encode()) == expected
    assert to_text("empty.html", b"") == "" and to_text("plain.txt", "café\n".encode()) == "café\n"


def test_info_loses_its_node_lines():
    text = "\x1f\nFile: libc.info,  Node: Top,  Next: One\n\nThe text.\n"
    assert to_text("libc.info", text.encode()).strip() == "The text."
