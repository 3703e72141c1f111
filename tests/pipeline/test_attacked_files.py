"""Files of a finished run are damaged or deleted: each run again ends in a sentence, or equals the undisturbed one."""

import json
import os
import random
import re
import shutil
from pathlib import Path

import pytest

from jetlit.files import remove
from tests.pipeline.runs import attempt
from tests.pipeline.test_postnas import outcome

ATTACKS = int(os.environ.get("ATTACKS", 5))
KINDS = ("delete", "cut", "empty", "zeros", "list", "mapping", "folder", "noise")

pytestmark = [pytest.mark.attack, pytest.mark.timeout(3000)]


def damage(path: Path, kind: str, drawn: random.Random) -> None:
    content = path.read_bytes()
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind != "delete":
        middle = len(content) // 2
        contents = {
            "cut": content[:middle],
            "zeros": bytes(len(content)),
            "list": b"[1]",
            "mapping": b"{}",
            "noise": content[:middle] + drawn.randbytes(64) + content[middle + 64 :],
        }
        path.write_bytes(contents.get(kind, b""))


@pytest.mark.parametrize("seed", range(ATTACKS))
def test_a_damaged_file_is_a_sentence_or_a_redone_stage(undisturbed: Path, tmp_path: Path, seed: int) -> None:
    drawn = random.Random(seed)
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    files = sorted(path for path in run.rglob("*") if path.is_file())
    # Half of the damage is done to the small files that later work reads.
    small = [path for path in files if path.suffix in (".json", ".yaml")]
    for path in drawn.sample(drawn.choice([files, small]), drawn.choice([1, 1, 2])):
        kind = drawn.choice(KINDS)
        print(f"{kind}: {path.relative_to(run)}")
        damage(path, kind, drawn)
    for _ in range(4):
        status, said = attempt(run)
        assert "Traceback" not in said, said
        if status == 0:
            break
        sentence = next(line for line in said.splitlines() if line.startswith("jetlit: "))
        print(sentence)
        assert status == 2
        # What the sentence tells to delete, a person deletes; what is not told, the stage's folder.
        told = re.search(r"delete (\S+?)[ :;,.]* ?(to|or|and|$)", sentence)
        named = re.search(rf"{run}/\S+?(?=[ :;,]|\.$|\. )", sentence)
        target = Path(told[1]) if told and told[1].startswith(str(run)) else None
        if target is None or not target.exists():
            assert named is not None, sentence
            target = run / Path(named[0]).relative_to(run).parts[0]
        remove(target)
    assert status == 0, said
    assert outcome(run) == outcome(undisturbed)
    assert (
        json.loads((run / "report.json").read_text())["stages"].keys()
        == json.loads((undisturbed / "report.json").read_text())["stages"].keys()
    )
