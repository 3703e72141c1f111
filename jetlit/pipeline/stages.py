"""Runs stages in order: finished ones are skipped, changed ones redone with all that depend on them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jetlit.errors import UserError
from jetlit.files import read_json, write_json
from jetlit.results import config_hash, read_result

MARKERS = ".stages"


@dataclass(frozen=True)
class Stage:
    """One step of a run, with a folder of its name in the run folder.

    Attributes:
        name: of the stage and of its folder.
        needs: names of the stages whose results it reads; they come earlier.
        config: returns everything its result depends on, as plain values; called when its turn comes.
        run: does the work, going on with what it finds in the folder, and writes result.json with the given hash last.
    """

    name: str
    needs: tuple[str, ...]
    config: Callable[[], Mapping[str, Any]]
    run: Callable[[str], None]


class Run:
    """The stages of one run folder.

    A stage is finished when its `result.json` carries its hash, which covers its config and the hashes of the stages
    it needs. `.stages/NAME.json` names the hash that the folder's content belongs to: written before the first file, it
    tells an interrupted stage, which goes on, from a changed one, which is emptied first.

    Args:
        folder: of the run.
        stages: in an order in which every stage comes after those it needs.
        say: prints a line.
    """

    def __init__(self, folder: Path, stages: Sequence[Stage], say: Callable[[str], None] = print) -> None:
        self.folder = folder
        self.stages = list(stages)
        self._say = say
        seen: set[str] = set()
        for stage in self.stages:
            assert seen.issuperset(stage.needs), f"{stage.name} comes before a stage that it needs"
            seen.add(stage.name)

    def run(self) -> dict[str, str]:
        """Brings every stage up to date.

        Returns:
            The hash of each stage.

        Raises:
            UserError: a stage failed, or a folder holds files that no stage made.
        """
        hashes: dict[str, str] = {}
        begun = time.monotonic()
        for number, stage in enumerate(self.stages, 1):
            title = f"[{number}/{len(self.stages)}] {stage.name}"
            needed = {name: hashes[name] for name in stage.needs}
            hashes[stage.name] = config_hash({"config": dict(stage.config()), "needs": needed} | self._run_dir())
            if self.is_finished(stage.name, hashes[stage.name]):
                self._say(f"{title}: finished before, skipped")
                continue
            self._make_ready(stage.name, hashes[stage.name], title)
            stage_begun = time.monotonic()
            stage.run(hashes[stage.name])
            if not self.is_finished(stage.name, hashes[stage.name]):
                raise RuntimeError(f"Stage {stage.name} ended without a result.json of its hash.")
            now = time.monotonic()
            self._say(f"{title}: done in {duration(now - stage_begun)}, {duration(now - begun)} in all")
        return hashes

    def is_finished(self, name: str, hash: str) -> bool:
        """Whether a stage's result is there and belongs to this hash."""
        result = read_result(self.folder / name)
        return result is not None and result["hash"] == hash and self._begun(name) == hash

    def _run_dir(self) -> dict[str, str]:
        # config_hash makes paths under this key relative, so that a moved run keeps its hashes.
        return {"run_dir": str(self.folder)}

    def _begun(self, name: str) -> str | None:
        marker = self.folder / MARKERS / f"{name}.json"
        return read_json(marker)["hash"] if marker.exists() else None

    def _make_ready(self, name: str, hash: str, title: str) -> None:
        folder, marker = self.folder / name, self.folder / MARKERS / f"{name}.json"
        if self._begun(name) == hash:
            self._say(f"{title}: goes on where it was interrupted")
            return
        if marker.exists():
            self._say(f"{title}: its configuration or input changed, redone")
            # From here on the content belongs to no hash, however far the removal gets.
            write_json(marker, {"hash": None})
            if folder.exists():
                shutil.rmtree(folder)
        elif folder.exists() and any(folder.iterdir()):
            raise UserError(
                f"{folder} holds files that this run did not make: move them away or choose another --run_dir."
            )
        else:
            self._say(f"{title}: begins")
        write_json(marker, {"hash": hash})


def duration(seconds: float) -> str:
    """Returns a time as people say it: 8.2 s, 3 min 05 s, 2 h 10 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
