"""One run's studies on SmolLM2-135M: fits done once, shared by processes side by side, scored alike and tabled."""

import argparse
import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jetlit.cli.report import report as report_verb
from jetlit.cli.scoring import build_tasks, task_scores
from jetlit.cli.search_blocks import search_blocks
from jetlit.cli.search_ranking import search_ranking
from jetlit_data.generators import GENERATORS
from reporting import report

from jetlit.cli.fit import resolved_config, run_fit
from jetlit.cli.parsing import call, parse_arguments
from jetlit.errors import UserError
from jetlit.files import read_json, write_json
from jetlit.models import load_model
from jetlit.pipeline.lock import run_lock
from jetlit.results import config_hash, read_result

CONFIGS = Path(__file__).parents[1] / "configs" / "smollm2_135m"
Row = dict[str, Any]
Job = tuple[Row, Callable[[], Row]]
"""What a row is about, and what finds the rest of it."""


class OutOfTime(Exception):
    """The minutes given are over."""


class Busy(Exception):
    """Another process is at it."""


class Lab:
    """One run's studies: fits that are done once, scored alike and tabled.

    Args:
        arguments: of the command line.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.run = Path(arguments.run_dir)
        self.out = Path(arguments.out)
        self.seeds: list[int] = arguments.seeds
        self.rates: list[float] = arguments.rates
        self.steps: int | None = arguments.steps
        self._fit_configs: list[str] = arguments.fit_config
        self._verb_configs = {
            name: [str(CONFIGS / f"{name}.yaml"), *(path for path in extra if Path(path).stem == name)]
            for name in ("report", "ranking", "blocks", "placement", "placement_tasks", "tasks")
            for extra in [arguments.verb_config]
        }
        self._end = time.monotonic() + 60 * arguments.minutes
        settings = parse_arguments(report_verb, [*self.verb_argv("report"), "--run_dir", str(self.run)])
        self.tasks = settings["tasks"]
        self.restoring: Row = parse_arguments(search_ranking, self.verb_argv("ranking"))["restore_overrides"]
        self.context, self.largest = settings["context"], arguments.largest_batch
        searched = parse_arguments(search_blocks, self.verb_argv("blocks") + self.verb_argv("tasks"))
        self.batch, self.short_context = searched["batch"], searched["context"]

    def teacher(self) -> Path:
        return self.run / "teacher" / "model"

    def check_time(self) -> None:
        if time.monotonic() > self._end:
            raise OutOfTime

    @contextlib.contextmanager
    def claim(self, folder: Path) -> Iterator[None]:
        """Keeps other processes from what this one does in a folder; raises Busy where one is at it already."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(run_lock(folder))
            except UserError as error:
                raise Busy from error
            yield

    def fit(self, name: str, stage: str, **overrides: Any) -> Row:
        """Trains `RUN/studies/NAME` with the files of a stage, once, and returns its losses, scores and costs."""
        with self.claim(self.run / "studies" / name):
            return self._fit(name, stage, overrides)

    def _fit(self, name: str, stage: str, overrides: Row) -> Row:
        folder = self.run / "studies" / name
        argv = self.fit_argv(stage, f"studies/{name}", overrides)
        hash = config_hash(resolved_config(argv))
        kept = folder / "scores.json"
        if kept.exists() and (found := read_json(kept))["hash"] == hash:
            return found["row"]
        self.check_time()
        done = read_result(folder)
        if done is None or done["hash"] != hash:
            run_fit([*argv, "--ckpt_path", "none", "--manifest.hash", hash])
            done = read_result(folder)
        assert done is not None
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        row = _losses(done) | self.score(folder / "model")
        write_json(kept, {"hash": hash, "row": row})
        return row

    def passing_fit(self, name: str, stage: str, **overrides: Any) -> Row:
        """A fit whose weights nothing needs any more."""
        row = self.fit(name, stage, **overrides)
        shutil.rmtree(self.run / "studies" / name / "model", ignore_errors=True)
        return row

    def held_out(self, name: str, model: Path) -> float:
        """The model's next-token loss on the held-out blocks of text, generated documents left out, nats per token."""
        argv = self.fit_argv("stage2", f"studies/held_out/{name}", {})
        corpora = resolved_config(argv)["data"]["init_args"]["corpora"]
        text = [corpus for corpus in corpora if Path(corpus["path"]).name not in GENERATORS]
        options = _options(
            {
                "model.init_args.student": str(model),
                "model.init_args.compile": False,
                "data.init_args.corpora": json.dumps(text),
            }
        )
        cli = run_fit(["validate", *argv[1:], *options, "--ckpt_path", "none"])
        return float(cli.trainer.callback_metrics["val/loss"])

    def score(self, model: Path) -> Row:
        """Accuracy on each task of the report, and the mean."""
        scores = task_scores(load_model(model, device="auto"), build_tasks(self.tasks, self.teacher()))
        return {
            name: entry["value"] for name, entry in scores.items() if name.endswith(("accuracy", "accuracy_stderr"))
        }

    def verb(self, function: Callable[..., None], configs: list[str], out: Path, *options: str) -> None:
        """Runs a verb of the command line unless `out` holds its result."""
        if read_result(out) is None:
            self.check_time()
            argv = [part for name in configs for part in self.verb_argv(name)]
            call(function, [*argv, "--run_dir", str(self.run), "--out_dir", str(out), *options])

    def candidates(self) -> str:
        """The option that lets a search train its candidates with the additional files, too."""
        files = [str(CONFIGS / "common.yaml"), str(CONFIGS / "candidate.yaml"), *self._fit_configs]
        return f"--fit_configs={json.dumps(files)}"

    def table(self, name: str, title: str, jobs: list[Job], notes: str = "") -> Iterator[list[Row]]:
        """Does the jobs that no other process does, waits for theirs; reports and yields all rows at each new one."""
        done: dict[int, Row] = {}
        while len(done) < len(jobs):
            for number, (about, job) in enumerate(jobs):
                if number in done:
                    continue
                with contextlib.suppress(Busy):
                    done[number] = about | job()
                    rows = [done[place] for place in sorted(done)]
                    report(f"smollm2_{name}", title, rows, notes, self.out)
                    yield rows
            if len(done) < len(jobs):
                time.sleep(1)

    def tabled(self, name: str, title: str, jobs: list[Job], notes: str = "") -> None:
        """`table` for whom its rows are enough."""
        for _ in self.table(name, title, jobs, notes):
            pass

    def verb_argv(self, name: str) -> list[str]:
        return [part for path in self._verb_configs[name] for part in ("--config", path)]

    def fit_argv(self, stage: str, folder: str, overrides: dict[str, Any]) -> list[str]:
        files = [str(CONFIGS / "common.yaml"), str(CONFIGS / f"{stage}.yaml"), *self._fit_configs]
        options = {"run_dir": self.run, "stage": folder, **overrides}
        if self.steps is not None:
            options["trainer.max_steps"] = self.steps
        return ["fit", *(part for file in files for part in ("--config", file)), *_options(options)]


def _options(options: dict[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        yield f"--{name}={value}"


def _losses(result: dict[str, Any]) -> Row:
    names = {"val/loss": "held-out loss", "val/kl": "held-out KL", "tokens_seen": "tokens"}
    names["training_tokens_per_s"] = "training tokens/s"
    metrics = result["metrics"]
    return {title: metrics[name]["value"] for name, title in names.items() if name in metrics} | {
        "seconds": result["seconds"]
    }
