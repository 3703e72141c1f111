"""Text is in American English and in the words of the field: docs, configs, comments, docstrings and messages."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = (
    "jetlit",
    "kernels",
    "data/jetlit_data",
    "configs",
    "docs",
    "benchmarks",
    "examples",
    "tests",
    ".ci",
    ".github",
)
ENDINGS = (".py", ".md", ".yaml", ".yml", ".toml", ".sh", ".html", ".js")

# Stems of verbs that American English writes with a z.
_Z = (
    "categor|character|custom|emphas|equal|final|general|initial|local|material|maxim|memor|minim|modern|normal|"
    "optim|organ|parallel|penal|prior|quant|random|real|recogn|regular|serial|special|stabil|standard|summar|synchron|"
    "token|util|vector|visual"
)
BRITISH = re.compile(
    rf"(?:{_Z})is(?:e[dsr]?|ers?|ing|ation|ations)\b|analys(?:e|ed|ing)\b|(?:behavi|col|fav|flav|hon|lab|neighb)our|"
    r"\bcent(?:re|red)\b|\b(?:kilo|milli)?metres?\b|\bfibres?\b|(?:model|label|cancel|channel|signal|travel)l(?:ed|ing)\b|"
    r"\b(?:afterwards|towards|whilst|amongst|licence|catalogue|grey|learnt|spelt|judgement|programme|ageing)\b",
)
# Words that the project uses another one for, with that one.
HOUSE = {
    r"\bgo(?:es)? on with\b": "resume, continue",
    r"\bof (?:its|their|one's) own kind\b": "its own",
    r"\bwhat has none\b": "name it",
    r"\bis judged by\b|\bjudge by\b": "metric, score",
    r"\bare wanted\b|\bis wanted\b|\bwere wanted\b": "target",
    r"\bverbs?\b": "subcommand",
}
# They name what an earlier version called otherwise.
OLD_NAMES = ("CHANGELOG.md", "config_errors.py", "test_moved_names.py", Path(__file__).name)


def files() -> list[Path]:
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in ENDINGS]
    top = [path for path in ROOT.glob("*") if path.suffix in ENDINGS or path.name == "Makefile"]
    return [path for path in (*found, *top) if path.name not in OLD_NAMES]


def place(path: Path, word: str) -> str:
    lines = path.read_text(encoding="utf-8").lower().splitlines()
    return (
        f"{path.relative_to(ROOT)}:{next((number for number, line in enumerate(lines, 1) if word in line), 0)}: {word}"
    )


def test_spelling_is_american() -> None:
    used = {path: set(re.findall("[a-z]+", path.read_text(encoding="utf-8").lower())) for path in files()}
    british = {word for word in set().union(*used.values()) if BRITISH.search(word)}
    found = [place(path, word) for path, words in used.items() for word in sorted(words & british)]
    assert not found, "\n".join(found)


def test_words_are_those_of_the_field() -> None:
    found = [
        f"{place(path, match[0])} (write: {better})"
        for path in files()
        for pattern, better in HOUSE.items()
        for match in re.finditer(pattern, path.read_text(encoding="utf-8").lower())
    ]
    assert not found, "\n".join(found)


def test_the_list_knows_both_spellings() -> None:
    british = "normalised initialises colours behaviour centre modelling towards optimiser quantisation neighbouring"
    american = "normalized initializes colors behavior center modeling toward optimizer precise promise raise analysis"
    assert all(BRITISH.search(word) for word in british.split())
    assert not any(BRITISH.search(word) for word in american.split())
