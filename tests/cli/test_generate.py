"""What `jetlit generate` prints, and what it refuses before it does."""

import pytest
from jetlit_data.tokenizer import ByteTokenizer

from jetlit.cli import main
from tests.models.small import byte_teacher


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    byte_teacher(2).save_pretrained(path)
    ByteTokenizer().save_pretrained(path)
    return str(path)


def run(capsys, folder, *options):
    status = main(["generate", "--model", folder, "--prompt", "some text", *options])
    return status, capsys.readouterr()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("temperature", "-1"),
        ("temperature", "1e-45"),
        ("temperature", ".nan"),
        ("top_p", "0"),
        ("seed", str(2**70)),
        ("seed", "-1"),
        ("max_new_tokens", "-3"),
        ("max_new_tokens", "40000"),
    ],
)
def test_values_that_make_no_sense_are_refused_before_anything_is_printed(capsys, folder, option, value):
    status, said = run(capsys, folder, f"--{option}={value}")
    assert status == 2
    assert said.out == ""
    assert len([line for line in said.err.splitlines() if line.startswith("jetlit: ")]) == 1
    assert "Traceback" not in said.err


def test_the_prompt_comes_before_its_continuation(capsys, folder):
    for count in ("1", "3"):
        status, said = run(capsys, folder, f"--max_new_tokens={count}")
        assert not status
        assert said.out.startswith("some text")
