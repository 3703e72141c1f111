"""Text of Debian packages: manuals, dictionaries, books and code, fetched with apt and read without installing them."""

import random
import re
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from jetlit.errors import UserError
from jetlit_data.sources.base import Skipped, register_source
from jetlit_data.sources.markup import is_readable, to_text

_SHORTEST = 200  # characters of a document; less is an index entry or a redirection
_LONGEST = 20_000  # longer files (dictionaries, books) become several documents
_NO_DEBIAN = "There is no {} here: prepare this corpus on Debian or Ubuntu."
# Languages other than English, indexes, and Sphinx's sources, whose pages are read.
_SKIPPED = re.compile(
    r"/(?:ar|ca|cs|da|de|el|es|fa|fi|fr|he|hr|hu|id|it|ja|ko|nb|nl|pl|pt|ro|ru|sk|sl|sr|sv|tr|uk|vi|zh)(?:[-_][A-Za-z]+)?/"
    r"|/_sources/|/_modules/|(?:^|[-/_])(?:gen|mod|doc)?index(?:es)?(?:[-_][^/]*)?\.html|/search\.html|/copyright|/LICENSE"
)


@register_source("debian")
@dataclass(frozen=True)
class DebianSource:
    """Documents of Debian packages, for machines that have apt and dpkg.

    Attributes:
        packages: NAME or NAME=VERSION, as apt knows them.
        cache: folder that keeps fetched packages.
        skipped: what the last pass left out.
    """

    packages: tuple[str, ...] | list[str]
    cache: str = "data/built/debian"
    skipped: Skipped = field(default_factory=Skipped, init=False, compare=False)

    def size(self) -> None:
        """Return None: it is unknown before the packages are read."""

    def documents(self, seed: int) -> Iterator[str]:
        """Return the text of every readable file in English, long ones in parts.

        All of it is held in memory and shuffled: training reads chunk after chunk, and each should hold every package.
        """
        self.skipped.clear()
        texts = (text for package in self.packages for text in self._texts(self._fetched(package)))
        documents = [part for text in texts for part in parts(text, _LONGEST) if len(part) >= _SHORTEST]
        random.Random(seed).shuffle(documents)
        return iter(documents)

    def _texts(self, package: Path) -> Iterator[str]:
        for name, data in _files(package):
            text = to_text(name, data)
            if text is None:
                self.skipped.add("files that are not utf-8 text", name)
            else:
                yield text

    def _fetched(self, package: str) -> Path:
        name, _, version = package.partition("=")
        pattern = f"{name}_{version.replace(':', '%3a') or '*'}_*.deb"
        folder = Path(self.cache).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        if not any(folder.glob(pattern)):
            _run("apt-get", "download", package, cwd=folder)
        return sorted(folder.glob(pattern))[-1]


def parts(text: str, longest: int) -> Iterator[str]:
    """Cut a text into parts of about `longest` characters, before lines that are not indented."""
    part = ""
    for piece in re.split(r"(?<=\n)(?=\S)", text):
        if part and len(part) + len(piece) > longest:
            yield part
            part = ""
        part += piece
    if part:
        yield part


def _files(package: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each readable file, streamed out of the package."""
    command = ["dpkg-deb", "--fsys-tarfile", str(package)]
    try:
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE) as process,
            tarfile.open(fileobj=process.stdout, mode="r|") as archive,
        ):
            for member in archive:
                if member.isfile() and is_readable(member.name) and not _SKIPPED.search(member.name):
                    content = archive.extractfile(member)
                    assert content is not None
                    yield member.name, content.read()
    except tarfile.ReadError:
        raise UserError(f"{package} is damaged: delete it, and it is fetched again.") from None
    except FileNotFoundError:
        raise UserError(_NO_DEBIAN.format(command[0])) from None


def _run(*command: str, cwd: Path) -> None:
    try:
        subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError(_NO_DEBIAN.format(command[0])) from None
    except subprocess.CalledProcessError as error:
        reason = next((line for line in error.stderr.splitlines() if line.startswith("E:")), error.stderr.strip())
        raise UserError(f"`{' '.join(command)}` failed ({reason}): run apt-get update, or correct the name.") from None
