"""Candidates of a search are trained by `jetlit.pipeline.fit` in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse.typing import Path_fr

from jetlit.cli.fit import write_result
from jetlit.errors import UserError
from jetlit.pipeline.fit import FitConfig, fit, resolved_config
from jetlit.results import metric, read_result
from jetlit.search.candidates import Metrics

# Names in a fit's result -> names in a search's table.
_NAMES = {"val/loss": "held_out_loss", "val/kl": "held_out_kl"}


class CandidateFit:
    """Trains candidates alike: same configs, data, seed and steps; only architecture and folder differ.

    Args:
        run_dir: folder of the whole run; candidates live in it.
        configs: YAML files of `jetlit fit`, later ones win; one of them reads `${run_dir}/${stage}/architecture.json`.
        overrides: options that win over the files, by dotted name.
        batch: sequences generated at a time when throughput is measured; None: it is not measured.
        context: tokens of context at which it is measured.
        seed: of every candidate; None leaves the files' own.
    """

    def __init__(
        self,
        run_dir: str,
        configs: Sequence[Path_fr],
        overrides: Mapping[str, Any],
        batch: int | None,
        context: int,
        seed: int | None,
    ) -> None:
        if not configs:
            raise UserError("The search has no fit_configs: name the YAML files that a candidate is trained with.")
        self.run_dir = Path(run_dir)
        self._configs = [str(path.absolute) for path in configs]
        self._overrides: dict[str, Any] = {} if seed is None else {"seed_everything": seed}
        if batch is not None:
            measured = {"batch": batch, "context": context, "cache": f"{run_dir}/measurements"}
            self._overrides |= {f"throughput.{name}": value for name, value in measured.items()}
        self._overrides |= {**overrides, "run_dir": str(run_dir)}

    def settings(self) -> dict[str, Any]:
        """Return everything that all candidates share, for hashes.

        Raises:
            UserError: a file or an override is wrong.
        """
        return resolved_config(FitConfig(self._configs, {**self._overrides, "stage": "candidate"}))

    def train(self, architecture: Path, folder: Path) -> Metrics:
        """Train the architecture, which lies in `folder`; resume from a checkpoint where there is one.

        Raises:
            UserError: the folder is outside the run, or the fit failed.
        """
        try:
            stage = folder.relative_to(self.run_dir)
        except ValueError:
            raise UserError(f"{folder} is not inside {self.run_dir}: choose an out_dir inside run_dir.") from None
        result = read_result(folder)
        if result is None:
            overrides = {**self._overrides, "stage": str(stage), "ckpt_path": "last"}
            write_result(folder, fit(FitConfig(self._configs, overrides)))
            result = read_result(folder)
        assert result is not None, f"the fit in {folder} wrote no result"
        metrics = {_NAMES.get(name, name): value for name, value in result["metrics"].items()}
        return metrics | {"training_seconds": metric(result["seconds"], "s")}
