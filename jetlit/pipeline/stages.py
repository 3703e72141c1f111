"""The stages of PostNAS: the one list of what they read, make and run, and the plan of a run of some of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from jetlit.errors import UserError
from jetlit.pipeline.blocks import BlocksConfig, search_blocks
from jetlit.pipeline.candidates import SEARCH_FILES
from jetlit.pipeline.data import CORPUS_FILES, DataConfig, prepare_data
from jetlit.pipeline.export import ExportConfig, export
from jetlit.pipeline.fit import FIT_FILES, FitConfig, fit
from jetlit.pipeline.hardware import HardwareConfig, search_hardware
from jetlit.pipeline.placement import PLACEMENT_FILES, PlacementConfig, search_placement
from jetlit.pipeline.teacher import TeacherConfig, prepare_teacher
from jetlit.results import Result


@dataclass(frozen=True)
class Stage:
    """One stage, with a folder of its name in the run folder.

    Attributes:
        name: name of the stage.
        reads: what it takes from earlier stages: "corpora", "teacher", "supernet", "architecture", "student".
        makes: what it makes for later ones; of several stages that make the same, the last one counts.
        file: where in its folder that is.
        config: its config dataclass.
        made: patterns of what it leaves in its folder, see `jetlit.once.once`.
        run: does the work; resumes with the files of its own interrupted call.
    """

    name: str
    reads: tuple[str, ...]
    makes: str
    file: str = "model"
    config: type = FitConfig
    run: Callable[[Any], Result] = fit
    made: tuple[str, ...] = FIT_FILES

    @property
    def artifacts(self) -> tuple[str, ...]:
        """What must stay as the stage wrote it, as patterns in its folder."""
        return ("*/corpus.json",) if self.makes == "corpora" else (self.file or ".",)


_SEARCHED = "architecture.json"
_HYBRID_INPUTS = ("corpora", "teacher", "architecture")
STAGES = (
    Stage("data", (), "corpora", "", DataConfig, prepare_data, CORPUS_FILES),
    Stage("teacher", ("corpora",), "teacher"),
    Stage("supernet", ("corpora", "teacher"), "supernet"),
    Stage(
        "placement",
        ("corpora", "supernet"),
        "architecture",
        "placement.json",
        PlacementConfig,
        search_placement,
        PLACEMENT_FILES,
    ),
    Stage("blocks", _HYBRID_INPUTS, "architecture", _SEARCHED, BlocksConfig, search_blocks, SEARCH_FILES),
    Stage(
        "hardware", _HYBRID_INPUTS, "architecture", "architecture.json", HardwareConfig, search_hardware, SEARCH_FILES
    ),
    Stage("stage1", _HYBRID_INPUTS, "student"),
    Stage("stage2", ("corpora", "student"), "student"),
    Stage("export", ("student",), "export", "", ExportConfig, export, ()),
)
NAMES = tuple(stage.name for stage in STAGES)
FITS = tuple(stage.name for stage in STAGES if stage.config is FitConfig)
# A pre-trained teacher comes before the data, which may need its tokenizer.
_PRETRAINED = (
    Stage("teacher", (), "teacher", "model", TeacherConfig, prepare_teacher, ("model",)),
    Stage("data", ("teacher",), "corpora", "", DataConfig, prepare_data, CORPUS_FILES),
)
_HINTS = {
    "corpora": "corpora: configure the stage data",
    "teacher": "a teacher: configure the stage teacher, or give the folder or hub name of one as teacher",
    "supernet": "a supernet: configure the stage supernet",
    "architecture": "an architecture: configure a search before it, or give the JSON file of one as architecture",
    "student": "a student: configure the stage stage1",
}


@dataclass(frozen=True)
class PlannedStage:
    """A stage of a run.

    Attributes:
        stage: the stage.
        needs: names of the run's stages whose results it reads.
        given: what it reads that was given in place of a stage, by kind.
        replaced: file of a stage that the run leaves out -> what takes its place; files count from the run folder.
    """

    stage: Stage
    needs: tuple[str, ...] = ()
    given: Mapping[str, str] = field(default_factory=dict)
    replaced: Mapping[str, str] = field(default_factory=dict)


def plan(
    names: Collection[str], pretrained: bool = False, teacher: str | None = None, architecture: str | None = None
) -> list[PlannedStage]:
    """Return a run's stages in order, each with where it finds what it reads.

    Args:
        names: the stages that have a configuration.
        pretrained: the stage teacher prepares a pre-trained model instead of training one.
        teacher: folder or hub name of a teacher, in place of the stage.
        architecture: JSON file of an architecture, in place of a placement search.

    Raises:
        UserError: a stage is unknown, lacks what it reads, or makes what is given; the message names it.
    """
    unknown = next((name for name in names if name not in NAMES), None)
    if unknown is not None:
        raise UserError(f"There is no stage {unknown!r}: the stages are {', '.join(NAMES)}.")
    if not names:
        raise UserError(f"No stage has a configuration: name YAML files under stages, for {', '.join(NAMES)}.")
    given = {kind: path for kind, path in (("teacher", teacher), ("architecture", architecture)) if path is not None}
    for name, kind in (("teacher", "teacher"), ("placement", "architecture")):
        if name in names and kind in given:
            raise UserError(f"The stage {name!r} would make the {kind} that is given: leave one of the two out.")
    order = (*_PRETRAINED, *STAGES[2:]) if pretrained else STAGES
    sources: dict[str, tuple[str | None, str]] = {kind: (None, path) for kind, path in given.items()}
    planned = []
    for stage in (stage for stage in order if stage.name in names):
        missing = next((kind for kind in stage.reads if kind not in sources), None)
        if missing is not None:
            raise UserError(f"The stage {stage.name!r} needs {_HINTS[missing]}.")
        # A corpus may be in the tokens of a teacher that is given.
        reads = [kind for kind in sources if kind in (*stage.reads, "teacher")]
        left_out = [(other, sources[other.makes][1]) for other in STAGES if other.makes in reads]
        planned.append(
            PlannedStage(
                stage,
                tuple(maker for kind in stage.reads if (maker := sources[kind][0]) is not None),
                {kind: given[kind] for kind in reads if kind in given and sources[kind][0] is None},
                {f"{other.name}/{other.file}": path for other, path in left_out if other.name not in names},
            )
        )
        sources[stage.makes] = (stage.name, f"{stage.name}/{stage.file}".rstrip("/"))
    return planned
