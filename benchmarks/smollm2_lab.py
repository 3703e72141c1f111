"""One run's studies on SmolLM2-135M: fits done once, shared by processes side by side, scored alike and tabled."""

import argparse
import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from jetlit_data import load_tokenizer
from jetlit_data.generators import GENERATORS
from reporting import report

from jetlit.errors import UserError
from jetlit.models import load_model
from jetlit.once import once
from jetlit.pipeline.blocks import BlocksConfig
from jetlit.pipeline.configs import load_config, merge_configs
from jetlit.pipeline.fit import FitCLI, FitConfig, fit, resolved_config
from jetlit.pipeline.lock import run_lock
from jetlit.pipeline.ranking import RankingConfig
from jetlit.pipeline.report.report import ReportConfig
from jetlit.results import Result, read_result
from jetlit.tasks import build_tasks, score_tasks

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
        self._stage_configs: list[str] = arguments.stage_config
        self._end = time.monotonic() + 60 * arguments.minutes
        settings = self.stage_config(ReportConfig, "report")
        self.tasks, self.context, self.largest = settings.tasks, settings.context, arguments.largest_batch
        self.restoring: Row = self.stage_config(RankingConfig, "ranking").restore_overrides or {}
        searched = self.stage_config(BlocksConfig, "blocks", "tasks")
        self.batch, self.short_context = searched.batch, searched.context

    def teacher(self) -> Path:
        return self.run / "teacher" / "model"

    def check_time(self) -> None:
        if time.monotonic() > self._end:
            raise OutOfTime

    @contextlib.contextmanager
    def claim(self, folder: Path) -> Iterator[None]:
        """Keep other processes from what this one does in a folder; raise Busy where one is at it already."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(run_lock(folder))
            except UserError as error:
                raise Busy from error
            yield

    def fit(self, name: str, stage: str, **overrides: Any) -> Row:
        """Train `RUN/studies/NAME` with the files of a stage, once, and return its losses, scores and costs."""
        folder = self.run / "studies" / name
        config = self.fit_config(stage, f"studies/{name}", overrides | {"ckpt_path": "last"})

        def work() -> Result:
            self.check_time()
            result = fit(config)
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            scores = {f"score/{name}": value for name, value in self.score(folder / "model").items()}
            return replace(result, metrics={**result.metrics, **scores})

        with self.claim(folder):
            return _row(once(folder, resolved_config(config), work))

    def passing_fit(self, name: str, stage: str, **overrides: Any) -> Row:
        """Return a fit whose weights nothing needs any more."""
        row = self.fit(name, stage, **overrides)
        shutil.rmtree(self.run / "studies" / name / "model", ignore_errors=True)
        return row

    def held_out(self, name: str, model: Path) -> float:
        """Return the model's next-token loss on the held-out blocks of text, in nats per token."""
        folder = f"studies/held_out/{name}"
        corpora = resolved_config(self.fit_config("stage2", folder, {}))["data"]["init_args"]["corpora"]
        overrides = {
            "model.init_args.student": model,
            "model.init_args.compile": False,
            "data.init_args.corpora": [one for one in corpora if Path(one["path"]).name not in GENERATORS],
            "ckpt_path": "none",
        }
        cli = FitCLI(self.fit_config("stage2", folder, overrides))
        cli.evaluate("validate")
        return float(cli.trainer.callback_metrics["val/loss"])

    def score(self, model: Path) -> Row:
        """Accuracy on each task of the report, and the mean."""
        tasks = build_tasks(self.tasks or [], load_tokenizer(str(self.teacher())))
        scores = score_tasks(load_model(model, device="auto"), tasks)
        return {name: value for name, value in scores.items() if name.endswith(("accuracy", "accuracy_stderr"))}

    def stage(self, run: Callable[[Any], Result], config: Any) -> None:
        """Run a stage unless its out_dir holds a result."""
        if read_result(config.out_dir) is None:
            self.check_time()
            once(config.out_dir, config.values(), lambda: run(config))

    def stage_config(self, kind: type, *names: str, **overrides: Any) -> Any:
        """Return a stage's config from the files of these names."""
        files = [
            path
            for name in names
            for path in (CONFIGS / f"{name}.yaml", *self._stage_configs)
            if Path(path).stem == name
        ]
        values = {name: str(value) if isinstance(value, Path) else value for name, value in overrides.items()}
        return load_config(kind, merge_configs(files, {"run_dir": str(self.run)} | values), names[0])

    def candidates(self) -> list[str]:
        """Return the files that a search's candidates are trained with, the additional ones too."""
        return [str(CONFIGS / "common.yaml"), str(CONFIGS / "candidate.yaml"), *self._fit_configs]

    def table(self, name: str, title: str, jobs: list[Job], notes: str = "") -> Iterator[list[Row]]:
        """Do the jobs that no other process does, wait for theirs; report and yield all rows at each new one."""
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

    def fit_config(self, stage: str, folder: str, overrides: dict[str, Any]) -> FitConfig:
        """Return the fit of a stage's files into a folder of the run."""
        files = [str(CONFIGS / "common.yaml"), str(CONFIGS / f"{stage}.yaml"), *self._fit_configs]
        options = {"run_dir": self.run, "stage": folder, **overrides}
        if self.steps is not None:
            options["trainer.max_steps"] = self.steps
        return FitConfig(
            files, {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
        )


def _row(result: Result) -> Row:
    names = {"val/loss": "held-out loss", "val/kl": "held-out KL", "tokens_seen": "tokens"}
    names["training_tokens_per_s"] = "training tokens/s"
    row: Row = {title: result.metrics[name] for name, title in names.items() if name in result.metrics}
    row["seconds"] = result.seconds
    scores = {name: value for name, value in result.metrics.items() if name.startswith("score/")}
    return row | {name.removeprefix("score/"): value for name, value in scores.items()}
