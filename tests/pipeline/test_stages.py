"""The plan of a run: which stages make sense together, and where each finds what it reads."""

import pytest

from jetlit.errors import UserError
from jetlit.pipeline.stages import NAMES, plan

NEEDS = {
    "data": (),
    "teacher": ("data",),
    "supernet": ("data", "teacher"),
    "placement": ("data", "supernet"),
    "blocks": ("data", "teacher", "placement"),
    "hardware": ("data", "teacher", "blocks"),
    "stage1": ("data", "teacher", "hardware"),
    "stage2": ("data", "stage1"),
    "export": ("stage2",),
}


def needs(names, **given):
    return {planned.stage.name: planned.needs for planned in plan(names, **given)}


def replaced(names, stage, **given):
    return next(dict(planned.replaced) for planned in plan(names, **given) if planned.stage.name == stage)


def test_all_stages_need_what_comes_before_them() -> None:
    assert needs(NAMES) == NEEDS and list(needs(NAMES)) == list(NEEDS)
    assert not any(planned.replaced for planned in plan(NAMES))


def test_a_pretrained_teacher_comes_before_the_data_and_all_else_stays() -> None:
    own, pretrained = needs(NAMES), needs(NAMES, pretrained=True)
    assert list(own)[:2] == ["data", "teacher"] and list(pretrained)[:2] == ["teacher", "data"]
    assert pretrained["teacher"] == () and pretrained["data"] == ("teacher",)
    assert list(pretrained)[2:] == list(own)[2:] and all(pretrained[name] == own[name] for name in list(own)[2:])


@pytest.mark.parametrize("last", NAMES)
def test_a_run_may_stop_after_any_stage(last: str) -> None:
    names = NAMES[: NAMES.index(last) + 1]
    assert needs(names) == {name: NEEDS[name] for name in names}


def test_without_hardware_search_stage_1_reads_the_blocks_architecture() -> None:
    names = [name for name in NAMES if name != "hardware"]
    assert needs(names)["stage1"] == ("data", "teacher", "blocks")
    assert replaced(names, "stage1") == {"hardware/architecture.json": "blocks/architecture.json"}
    names.remove("blocks")
    assert needs(names)["stage1"] == ("data", "teacher", "placement")
    assert set(replaced(names, "stage1").values()) == {"placement/placement.json"}


def test_a_given_architecture_takes_the_place_of_the_searches() -> None:
    names = ["data", "teacher", "stage1", "export"]
    assert needs(names, architecture="a.json")["stage1"] == ("data", "teacher")
    searched = ("placement/placement.json", "blocks/architecture.json", "hardware/architecture.json")
    assert replaced(names, "stage1", architecture="a.json") == dict.fromkeys(searched, "a.json")
    assert replaced(names, "export", architecture="a.json") == {"stage2/model": "stage1/model"}
    assert replaced(["data", "teacher", "hardware"], "hardware", architecture="a.json")[searched[1]] == "a.json"


def test_a_given_teacher_takes_the_place_of_its_stage() -> None:
    names = [name for name in NAMES if name != "teacher"]
    assert needs(names, teacher="org/model")["supernet"] == ("data",)
    for stage in ("data", "supernet", "stage1"):
        assert replaced(names, stage, teacher="org/model")["teacher/model"] == "org/model"


@pytest.mark.parametrize(
    ("names", "given", "message"),
    [
        ([], {}, "No stage has a configuration"),
        (["distil"], {}, "no stage 'distil'"),
        (["teacher"], {}, "The stage 'teacher' needs corpora: configure the stage data"),
        (["data", "supernet"], {}, "The stage 'supernet' needs a teacher"),
        (["data", "teacher", "placement"], {}, "The stage 'placement' needs a supernet"),
        (["data", "teacher", "stage1"], {}, "The stage 'stage1' needs an architecture: configure a search"),
        (["data", "teacher", "stage2"], {}, "The stage 'stage2' needs a student"),
        (["export"], {}, "The stage 'export' needs a student"),
        (NAMES, {"architecture": "a.json"}, "The stage 'placement' would make the architecture that is given"),
        (NAMES, {"teacher": "x"}, "The stage 'teacher' would make the teacher that is given"),
    ],
)
def test_a_senseless_combination_is_one_sentence(names: list[str], given: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan(names, **given)
