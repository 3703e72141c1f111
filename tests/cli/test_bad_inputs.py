"""Drawn bad inputs to every subcommand: one sentence and exit status 2 each, or a success where the input was good.

`ATTACKS=600 pytest -m attack tests/cli/test_bad_inputs.py` draws 600 of them, `ATTACKS_SEED` others.
"""

import contextlib
import dataclasses
import io
import json
import os
import random
import re
import shutil
import signal
import traceback
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jetlit.cli import SUBCOMMANDS, main
from jetlit.models import SuperNetwork, load_model
from tests.recipes import tiny

ATTACKS = int(os.environ.get("ATTACKS", "60"))
SEED = os.environ.get("ATTACKS_SEED", "0")
SECONDS = 60  # that one command may take
TASKS = '[{"kind": "recall", "documents": 2, "pairs": 3, "queries": 4}]'
# Options that name what is there, and what is written.
INPUTS = {
    *("model", "teacher", "supernet", "architecture", "placement", "fit", "checkpoint", "suite", "report_config"),
    *("name", "tokenizer", "local_data", "data.corpora", "model.teacher", "model.architecture", "ckpt_path"),
}
OUTPUTS = {"out_dir", "run_dir"}


@dataclasses.dataclass(frozen=True)
class Option:
    """An option of a subcommand: its name, its annotation, and whether leaving it out is a value too."""

    name: str
    kind: typing.Any


@dataclasses.dataclass
class Attack:
    """A command line; `bad` says that it must not succeed."""

    argv: list[str]
    bad: bool
    what: str


class TooLong(BaseException):
    """A command does not end."""


# What no value of a kind can be, as texts of the command line or of YAML.
WRONG = {
    int: [
        "two",
        "1.5",
        ".nan",
        ".inf",
        "[]",
        "{}",
        "[1]",
        str(2**70),
        f"-{2**70}",
        "1e400",
        "",
        "0x",
        "--",
        "é",
        "!!int x",
    ],
    float: ["high", ".nan", ".inf", "-.inf", "[]", "{}", "", "1,5", "[0.5]"],
    bool: ["maybe", "2", "[]", "{}", "", "1.5"],
    list: ["{}", "5", "x", "[", "[[[]]]", '{"a": 1}', "true", "&a [*a]"],
    dict: ["[]", "5", "x", "{", "[{}]", "true"],
    str: [],
}
# More of the kinds whose range is annotated (`jetlit.values`): below and above it.
BEYOND = {int: ["-1", "-1000000", str(2**63)], float: ["-1", "-0.001"]}
BAD_TASKS = [
    "[]",
    "[{}]",
    "[5]",
    "[[]]",
    '[{"kind": "nothing"}]',
    '[{"kind": ["recall"]}]',
    '[{"kind": null}]',
    '[{"kind": "recall", "documents": -1}]',
    '[{"kind": "recall", "documents": 1.5}]',
    '[{"kind": "recall", "documents": "x"}]',
    '[{"kind": "recall", "documnets": 2}]',
    '[{"kind": "recall", "pairs": 0}]',
    '[{"kind": "recall", "queries": -3}]',
    '[{"kind": "recall", "seed": "x"}]',
    '[{"kind": "multiple_choice", "path": "/none"}]',
    '[{"kind": "multiple_choice", "path": "general_knowledge", "limit": -1}]',
    '[{"kind": "multiple_choice", "path": "general_knowledge", "limit": 1.5}]',
    '[{"kind": "exact_answer", "path": 5}]',
    '[{"kind": "continuation", "corpus": "/none"}]',
    '[{"kind": "continuation"}]',
    '[{"kind": "arithmetic", "largest": ".nan"}]',
    '[{"kind": "recall", "name": ""}, {"kind": "recall", "name": ""}]',
]
BAD_CORPORA = [
    '{"a": {"source": "/none"}}',
    '{"a": {"source": "recall"}}',
    '{"a": {"source": "recall", "max_tokens": -1}}',
    '{"a": {"source": "recall", "max_tokens": 0}}',
    '{"a": {"source": "recall", "max_tokens": 1.5}}',
    '{"a": {"source": "recall", "max_tokens": 2000, "options": {"pairs": 0}}}',
    '{"a": {"source": "recall", "max_tokens": 2000, "options": {"pairs": "x"}}}',
    '{"a": {"source": "recall", "max_tokens": 2000, "options": {"pears": 3}}}',
    '{"../a": {"source": "recall", "max_tokens": 2000}}',
    '{"": {"source": "recall", "max_tokens": 2000}}',
    '{"a": {"sauce": "recall"}}',
    '{"a": 5}',
    "{}",
    '{"a": {"source": ""}}',
]
YAML = {
    "bomb": b"a: &a [1,1,1,1,1,1,1,1,1]\n"
    + b"".join(b"%c: &%c [%s]\n" % (n, n, b",".join([b"*%c" % (n - 1)] * 9)) for n in range(98, 120)),
    "own alias": b"run_dir: &a [*a]\n",
    "python tag": b"run_dir: !!python/object/apply:os.system ['touch PWNED']\n",
    "own tag": b"run_dir: !thing {a: 1}\n",
    "duplicate": b"run_dir: a\nrun_dir: b\n",
    "deep": b"run_dir: " + b"[" * 100_000 + b"]" * 100_000,
    "less deep": b"run_dir: " + b"[" * 3_000 + b"]" * 3_000,
    "latin-1": "run_dir: café\n".encode("latin-1"),
    "garbage": bytes(random.Random(0).randrange(256) for _ in range(500)),
    "nul": b"run_dir: a\0b\n",
    "escaped nul": b'run_dir: "a\\0b"\n',
    "list": b"- 1\n",
    "text": b"just text\n",
    "open": b"run_dir: [1\n",
    "tab": b"run_dir:\n\t- x\n",
    "number as key": b"1: 2\n",
    "list as key": b"[1, 2]: 3\n",
    "nothing as key": b"null: 3\n",
    "unknown": b"nothing_of_this_name: 1\n",
    "self reference": b"run_dir: ${run_dir}\n",
    "circle": b"run_dir: ${out_dir}\nout_dir: ${run_dir}\n",
    "no reference": b"run_dir: ${nowhere}/x\n",
    "open reference": b"run_dir: ${run_dir\n",
    "resolver": b"run_dir: ${nothing:1}\n",
    "environment": b"run_dir: ${oc.env:NOTHING_OF_THIS_NAME}\n",
    "mapping": b"run_dir: {a: 1}\n",
    "merge": b"<<: 5\n",
    "two documents": b"run_dir: a\n---\nrun_dir: b\n",
    "long": b"run_dir: " + b"x" * 100_000 + b"\n",
}


@pytest.fixture(scope="module")
def place(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder of good inputs, and of bad ones."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "run").symlink_to(finished_run)
    shutil.copytree(finished_run / "teacher", folder / "reported/teacher")
    supernet = SuperNetwork(load_model(finished_run / "teacher/model"), ("gla",))
    supernet.save_pretrained(folder / "supernet")
    for file in (finished_run / "teacher/model").glob("*token*"):
        (folder / "supernet" / file.name).write_bytes(file.read_bytes())
    (folder / "garbage").write_bytes(random.Random(1).randbytes(2000))
    (folder / "empty").write_bytes(b"")
    (folder / "folder").mkdir()
    (folder / "null.json").write_text("null")
    (folder / "nan.json").write_text('{"layer_types": [NaN], "block_configs": 5}')
    broken = folder / "broken"  # a model whose weights are cut short
    broken.mkdir()
    for file in (finished_run / "teacher/model").iterdir():
        content = file.read_bytes()
        (broken / file.name).write_bytes(content[:100] if file.suffix == ".safetensors" else content)
    (folder / "data.yaml").write_text('corpora: {"a": {source: recall, max_tokens: 2000}}\nchunk_tokens: 500\n')
    own = {"model": {"init_args": {"architecture": "${run_dir}/${stage}/architecture.json"}}}
    (folder / "candidate.yaml").write_text(json.dumps(own))
    for name, content in YAML.items():
        (folder / f"{name}.yaml").write_bytes(content)
    return folder


def good_commands(place: Path, out: str) -> dict[tuple[str, ...], list[str]]:
    """Return a quick command line of each subcommand that succeeds."""
    run, model = place / "run", str(place / "run/teacher/model")
    configs = json.dumps([f"{run}/common.yaml", f"{run}/stage1.yaml", f"{place}/candidate.yaml"])
    fit = ["--stage=x", f"--run_dir={out}", f"--model.teacher={model}", f"--data.corpora={run}/data/recall"]
    fit += [f"--model.architecture={run}/architecture.json", "--trainer.max_steps=2", "--model.fit_tokens=0"]
    fit += ["--model.scheduler.warmup_steps=0"]
    fit = tiny.command(run, "stage1", *fit, "--ckpt_path=none")[1:]
    fits = {subcommand: fit for subcommand in ("fit", "validate", "test")}
    search = [f"--run_dir={out}", f"--teacher={model}", f"--fit_configs={configs}"]
    candidates = [*search, f"--tasks={TASKS}", "--batch=1", "--context=40"]
    overrides = json.dumps(
        {
            "trainer.max_steps": 1,
            "data.corpora": f"{run}/data/recall",
            "model.teacher": model,
            "model.scheduler.warmup_steps": 0,
        }
    )
    grid = ["--state_size=64", "--key_dims=[4]", "--value_dims=[8]", "--heads=[2]"]
    architecture = f"{run}/architecture.json"
    return {
        **{(subcommand,): argv for subcommand, argv in fits.items()},
        ("consolidate",): [f"--fit={run}/teacher", f"--out_dir={out}/c"],
        ("teacher",): [f"--name={model}", f"--run_dir={out}", "--dtype=float32"],
        ("data",): [
            '--corpora={"a": {"source": "recall", "max_tokens": 2000, "options": {"pairs": 3, "queries": 4}}}',
            *(f"--run_dir={out}", "--chunk_tokens=500", "--val_fraction=0.2"),
        ],
        ("search", "placement"): [
            *(f"--supernet={place}/supernet", f"--run_dir={out}", f"--tasks={TASKS}", "--budget=1", "--width=2"),
        ],
        ("search", "ranking"): [
            *search,
            "--budgets=[1]",
            *(f"--distil_overrides={overrides}", f"--restore_overrides={overrides}"),
        ],
        ("search", "blocks"): [
            *candidates,
            '--blocks={"gla": {}}',
            *(f"--placement={architecture}", f"--fit_overrides={overrides}"),
        ],
        ("search", "hardware"): [
            *candidates,
            *grid,
            *(f"--architecture={architecture}", f"--fit_overrides={overrides}"),
        ],
        ("export",): [f"--run_dir={out}", f"--model={run}/stage1/model"],
        ("convert",): [f"--teacher={model}", f"--architecture={architecture}", f"--out_dir={out}/hybrid"],
        ("generate",): ["--prompt=ab", f"--model={model}", "--max_new_tokens=2", "--device=cpu"],
        ("eval",): [f"--model={model}", f"--tasks={TASKS}", f"--run_dir={out}"],
        ("bench", "params"): [f"--model={model}"],
        ("bench", "generation"): [f"--model={model}", "--context=40", "--repeats=1"],
        ("bench", "training"): [f"--model={model}", "--batch=1", "--length=8", "--repeats=1"],
        ("report",): [f"--run_dir={place}/reported"],
        ("postnas",): [json.dumps({"data": [f"{place}/data.yaml"]}).join(["--stages=", ""]), f"--run_dir={out}"],
    }


def fit_options() -> list[Option]:
    """Return the options of fits whose values are drawn."""
    from jetlit.callbacks import NanGuard, StageCheckpoint, TaskScores, Throughput
    from jetlit.datamodules import TokenDataModule
    from jetlit.recipes import Distillation
    from jetlit.training import WarmupCosine

    groups = {
        "model": Distillation.__init__,
        "data": TokenDataModule.__init__,
        "nan_guard": NanGuard.__init__,
        "tasks": TaskScores.__init__,
        "throughput": Throughput.__init__,
        "checkpoint": StageCheckpoint.__init__,
        "model.scheduler": WarmupCosine.__init__,
    }
    found = []
    for group, function in groups.items():
        hints = typing.get_type_hints(function, include_extras=True)
        found += [
            Option(f"{group}.{name}", kind) for name, kind in hints.items() if name not in ("return", "optimizer")
        ]
    found += [Option("seed_everything", int), Option("stage", str), Option("run_dir", str), Option("ckpt_path", str)]
    integers = ("max_steps", "max_epochs", "accumulate_grad_batches", "log_every_n_steps", "val_check_interval")
    found += [Option(f"trainer.{name}", int) for name in (*integers, "num_nodes", "devices", "check_val_every_n_epoch")]
    floats = ("gradient_clip_val", "limit_train_batches", "limit_val_batches", "overfit_batches", "max_time")
    found += [Option(f"trainer.{name}", float) for name in floats]
    names = ("precision", "strategy", "accelerator", "logger", "callbacks", "plugins", "profiler")
    found += [Option(f"trainer.{name}", type) for name in names]
    found += [
        Option("model.optimizer", type),
        Option("model.optimizer.lr", float),
        Option("model.optimizer.eps", float),
    ]
    return found


def options_of(words: tuple[str, ...]) -> list[Option]:
    """Return the options of a subcommand."""
    if words[0] in ("fit", "validate", "test"):
        return fit_options()
    import importlib

    module, _, name = SUBCOMMANDS[words][1].rpartition(".")
    function = getattr(importlib.import_module(f"jetlit.{module}"), name)
    config = next(iter(typing.get_type_hints(function).values()))
    return [Option(key, kind) for key, kind in typing.get_type_hints(config, include_extras=True).items()]


def flat(kind: typing.Any) -> Iterator[typing.Any]:
    """Yield the plain types that an annotation is made of, and the annotated ones."""
    if hasattr(kind, "__metadata__"):
        yield kind
        kind = kind.__origin__
    origin = typing.get_origin(kind)
    if origin in (list, dict):
        yield origin
    elif origin is not None and typing.get_args(kind):
        for part in typing.get_args(kind):
            yield from flat(part)
    else:
        yield kind


def bad_values(option: Option, place: Path) -> list[tuple[str, bool]]:
    """Return values of an option, and whether each must be refused."""
    kinds = list(flat(option.kind))
    plain = {kind for kind in kinds if isinstance(kind, type)}
    ranged = any(hasattr(kind, "__metadata__") for kind in kinds)
    last = option.name.rpartition(".")[2]
    if last in ("tasks", "specs"):
        return [(value, value not in ("[]",) or last == "tasks") for value in BAD_TASKS]
    if last == "corpora" and dict in plain and str not in plain:
        return [(value, True) for value in BAD_CORPORA]
    found: list[tuple[str, bool]] = []
    for kind in plain & set(WRONG):
        free = plain - {kind, type(None)}
        found += [(value, not free) for value in WRONG[kind]]
        if ranged:
            found += [(value, not free) for value in BEYOND.get(kind, [])]
    if option.name in INPUTS or last in INPUTS:
        nowhere = [f"{place}/nowhere", f"{place}/garbage", f"{place}/empty", f"{place}/folder", f"{place}/null.json"]
        nowhere += [
            f"{place}/nan.json",
            "x" * 5000,
            f"{place}/garbage/x",
            f"{place}/broken",
            "/dev/null",
            "http://x.invalid",
        ]
        found += [(value, last not in ("tokenizer", "name")) for value in nowhere]
        found += [("", False)]
    if last in OUTPUTS:
        found += [(value, False) for value in (f"{place}/garbage", f"{place}/garbage/x", "x" * 5000, "/proc/x", "")]
    if last == "device":
        found += [(value, True) for value in ("mps", "xpu", "meta", "gpu", "cuda:99", "CPU", "cuda:-1", "")]
    if last == "dtype":
        found += [(value, True) for value in ("float8_e4m3fn", "int8", "float", "half", "torch", "")]
    if option.kind is type:
        texts = ["Nothing", "os.system", "a.b.c", "5", "[Nothing]", '{"class_path": "Nothing"}', '{"class_path": 5}']
        texts += [
            '{"class_path": "torch.nn.Linear", "init_args": {"x": 1}}',
            "torch.nn",
            "[[]]",
            ".",
            "a..b",
            "gpu",
            "{}x",
        ]
        found += [(value, True) for value in texts]
    if last in ("format", "linear", "block", "style", "prompt", "stage"):
        found += [(value, False) for value in ("nothing", "", "\u202e", "x" * 3000, "../../x", "[]")]
    if dict in plain:
        found += [('{"nothing": {"x": 1}}', False), ('{"gla": {"x": 1}}', False), ('{"gla": {"num_heads": -1}}', False)]
        found += [('{"gla": {"num_heads": 0}}', False), ('{"gla": {"head_dim": 1.5}}', False), ('{"gla": 5}', False)]
        found += [('{"trainer.max_stpes": 1}', False), ('{"model": 5}', False), ('{"": 5}', False), ('{".": 1}', False)]
    return found


def misspell(name: str, rng: random.Random) -> str:
    """Return a name with two letters exchanged, one doubled or one missing."""
    at = rng.randrange(len(name) - 1)
    forms = [
        name[:at] + name[at + 1] + name[at] + name[at + 2 :],
        name[:at] + name[at] + name[at:],
        name[:at] + name[at + 1 :],
    ]
    return rng.choice([form for form in forms if form != name] or [name + "x"])


def draw(rng: random.Random, place: Path, out: str, options: Callable[[tuple[str, ...]], list[Option]]) -> Attack:
    """Draw a command line."""
    commands = good_commands(place, out)
    words = rng.choice(sorted(commands))
    argv = commands[words]
    how = rng.choice(["value"] * 6 + ["file", "file", "key", "line"])
    known = options(words)
    if how == "file":
        name = rng.choice(sorted(YAML))
        kept = [each for each in argv if not each.startswith(("--run_dir", "--out_dir"))]
        files = [f"--config={place}/{name}.yaml", f"--config={place}/{rng.choice(['nowhere', 'folder', 'garbage'])}"]
        file = rng.choice([files[0], files[0], files[0], files[1]])
        good = name in ("long", "environment", "two documents") and file == files[0]
        return Attack([*words, file, *kept], not good and words != ("bench", "params"), f"{how}: {name}")
    if how == "key":
        option = rng.choice(known)
        wrong = misspell(option.name, rng)
        bad = wrong not in {each.name for each in known}
        return Attack([*words, *argv, f"--{wrong}=1"], bad, how)
    if how == "line":
        extra = rng.choice(
            [["--"], ["-x"], ["word"], ["--run_dir"], ["--=1"], ["--config"], ["---a=1"], ["--a.b.c=1"], ["-c"]]
        )
        return Attack([*words, *argv, *extra], True, how)
    option = rng.choice([each for each in known if bad_values(each, place)])
    value, bad = rng.choice(bad_values(option, place))
    # What these name is not read: weights where only shapes count, and what the rest of the line has no use for.
    unread = {("bench", "params"): ["model"], ("eval",): ["local_data"], ("search", "ranking"): ["teacher"]}
    bad = bad and option.name not in {**unread, ("postnas",): ["teacher"]}.get(words, ())
    return Attack([*words, *argv, f"--{option.name}={value}"], bad, how)


def outcome(attack: Attack) -> str | None:
    """Run a command; return what is wrong with how it ended."""

    def stop(*_: object) -> None:
        raise TooLong

    out, err = io.StringIO(), io.StringIO()
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(attack.argv)
    except TooLong:
        return f"took over {SECONDS} s"
    except SystemExit as left:
        return f"left with {left.code}"
    except BaseException:
        lines = traceback.format_exc().strip().splitlines()
        place = [line.strip() for line in lines if "/jetlit" in line and line.lstrip().startswith("File")][-1:]
        return f"{lines[-1][:300]} {place}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    said = [line for line in err.getvalue().splitlines() if line.startswith("jetlit: ")]
    if status == 0:
        return "succeeded" if attack.bad else None
    if status != 2 or len(said) != 1:
        return f"ended with {status} and {said}"
    if "Traceback" in err.getvalue() or re.search(r"Does not validate|<class '|Namespace\(", said[0]):
        return f"said {said[0][:300]}"
    return None


@pytest.mark.attack
@pytest.mark.timeout(7200, method="thread")
def test_every_good_command_succeeds(place: Path, tmp_path: Path) -> None:
    """Else an attack on it would be refused for another reason."""
    for words in good_commands(place, ""):
        out = tmp_path / "_".join(words)
        out.mkdir()
        assert main([*words, *good_commands(place, str(out))[words]]) == 0, words


@pytest.mark.attack
@pytest.mark.timeout(7200, method="thread")
def test_bad_inputs_are_answered_in_one_sentence(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")  # what relative paths write stays in it
    cached: dict[tuple[str, ...], list[Option]] = {}
    wrong = []
    for number in range(ATTACKS):
        out = tmp_path / f"out{number}"
        out.mkdir()
        rng = random.Random(f"{SEED}/{number}")
        attack = draw(rng, place, str(out), lambda words: cached.setdefault(words, options_of(words)))
        result = outcome(attack)
        if result:
            line = " ".join(attack.argv[:2] + attack.argv[-1:])
            wrong.append(f"{number} [{attack.what}] {line[:300]}\n    {result}")
            print(wrong[-1], flush=True)
    assert not list(tmp_path.rglob("PWNED"))
    assert not wrong, f"{len(wrong)} of {ATTACKS}:\n" + "\n".join(wrong)
