import errno
import json
import os
import stat
import threading

import pytest

from jetlit.errors import UserError
from jetlit.files import (
    MARK,
    atomic_folder,
    atomic_path,
    check_folder,
    check_replaceable,
    claim_folder,
    digest,
    existing_paths,
    fenced,
    read_json,
    read_mapping,
    remove_temporaries,
    write_json,
)


def write(folder, *names):
    """Let jetlit write a folder of these files."""
    with atomic_folder(folder) as written:
        for name in names:
            (written / name).parent.mkdir(exist_ok=True)
            (written / name).write_text(name)


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != MARK)


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_a_folder_is_replaced_whole_and_follows_the_umask(tmp_path, umask):
    for content in ("first", "second"):
        with atomic_folder(tmp_path / "out") as folder:
            handle = os.open(folder / content, os.O_CREAT | os.O_WRONLY, 0o600)  # as safetensors does
            os.close(handle)
            (folder / "inside").mkdir(mode=0o700)
    assert names(tmp_path / "out") == ["inside", "second"]
    assert names(tmp_path) == ["out"], "nothing temporary is left"
    for path, mode in (("out", 0o750), ("out/inside", 0o750), ("out/second", 0o640)):
        assert stat.S_IMODE((tmp_path / path).stat().st_mode) == mode


def test_a_file_follows_the_umask_also_where_a_library_made_it_anew(tmp_path, umask):
    with atomic_path(tmp_path / "weights") as path:
        path.unlink()
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    assert stat.S_IMODE((tmp_path / "weights").stat().st_mode) == 0o640


def test_an_error_keeps_the_old_folder(tmp_path):
    write(tmp_path / "out", "old")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "out") as folder:
        (folder / "new").write_text("new")
        raise RuntimeError
    with pytest.raises(UserError, match="Could not write"), atomic_folder(tmp_path / "out"):
        raise OSError("No space left on device")
    assert names(tmp_path / "out") == ["old"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        Exception("I/O error: No space left on device (os error 28)"),  # tokenizers and safetensors
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
    ],
)
def test_a_refused_write_is_one_sentence_whoever_raises_it(tmp_path, error):
    with pytest.raises(UserError, match=r"Could not write .*file.*: free some space"), atomic_path(tmp_path / "file"):
        raise error
    assert not names(tmp_path)


def test_the_old_folder_comes_back_when_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    write(tmp_path / "out", "old")
    replace = os.replace

    def refuse_new(source, target):
        if source.name == "written":
            raise OSError("Permission denied")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse_new)
    with pytest.raises(UserError, match="Permission denied"), atomic_folder(tmp_path / "out"):
        pass
    assert names(tmp_path / "out") == ["old"]


def test_a_link_stays_and_a_file_is_refused(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk")
    for name in ("old", "new"):
        write(tmp_path / "out", name)
    assert (tmp_path / "out").is_symlink() and names(tmp_path / "disk") == ["new"]
    (tmp_path / "file").write_text("precious")
    for place in ("file", "file/inside"):
        with pytest.raises(UserError, match="is a file"), atomic_folder(tmp_path / place):
            pass
    assert (tmp_path / "file").read_text() == "precious"


def test_the_current_folder_and_what_holds_it_are_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    for place in (".", "..", "/"):
        with pytest.raises(UserError, match="current folder"), atomic_folder(place):
            pass
    assert (tmp_path / "inside").is_dir()


def test_only_what_jetlit_wrote_is_replaced(tmp_path):
    out = tmp_path / "out"
    write(out, "a", "b/c")
    write_json(out / "result.json", {})  # which a subcommand adds
    check_replaceable(out)
    for name in ("thesis.txt", "b/thesis.txt", ".thesis"):
        (out / name).write_text("precious")
        with pytest.raises(UserError, match=f"holds {name}, which jetlit did not write there"):
            check_replaceable(out)
        (out / name).unlink()
    (out / MARK).unlink()
    with pytest.raises(UserError, match="which jetlit did not write there"):
        check_replaceable(out)


def test_an_input_is_never_replaced_nor_written_into(tmp_path):
    write(tmp_path / "model", "weights")
    for place in (tmp_path / "model", tmp_path):
        with pytest.raises(UserError, match="read from: choose another"):
            check_replaceable(place, tmp_path / "model")
    with pytest.raises(UserError, match="is what is read"):
        check_folder(tmp_path / "model", tmp_path / "model")
    check_replaceable(tmp_path / "out", tmp_path / "model", "org/model")


def test_a_folder_is_written_into_if_it_is_new_or_empty_or_jetlits(tmp_path):
    claim_folder(tmp_path / "new")
    (tmp_path / "new" / "notes.txt").write_text("mine, beside jetlit's")
    claim_folder(tmp_path / "new")
    (tmp_path / "theirs").mkdir()
    claim_folder(tmp_path / "theirs")
    (tmp_path / "theirs" / MARK).unlink()
    (tmp_path / "theirs" / MARK).write_text("{}")
    for content in ({"my": "numbers"}, []):
        write_json(tmp_path / "theirs" / "result.json", content)
        with pytest.raises(UserError, match="was not made by jetlit"):
            claim_folder(tmp_path / "theirs")
    write_json(tmp_path / "theirs" / "result.json", dict.fromkeys(["stage", "hash", "metrics", "versions"]))
    claim_folder(tmp_path / "theirs")  # of an earlier version
    (tmp_path / "run").mkdir()
    (tmp_path / "new").rename(tmp_path / "run" / "teacher")
    claim_folder(tmp_path / "run")  # holds only folders of jetlit
    with pytest.raises(UserError, match="is a file"):
        claim_folder(tmp_path / "run" / "teacher" / "notes.txt")


def test_a_fence_refuses_late_writes_in_every_thread(tmp_path):
    def refuse():
        raise PermissionError

    errors = []

    def late():
        try:
            write_json(tmp_path / "late", 1)
        except UserError as error:
            errors.append(error)

    write_json(tmp_path / "early", 1)
    with fenced(refuse):
        thread = threading.Thread(target=late)
        thread.start()
        thread.join()
        with pytest.raises(UserError), atomic_folder(tmp_path / "folder"):
            pass
    assert len(errors) == 1 and names(tmp_path) == ["early"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"\0" * 10])
def test_a_damaged_json_file_is_one_sentence(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=r"a.json is not valid JSON"):
        read_json(tmp_path / "a.json")


def test_a_json_file_of_another_kind_is_one_sentence(tmp_path):
    for value in (None, [], 1, {}, {"other": 1}):
        write_json(tmp_path / "a.json", value)
        with pytest.raises(UserError, match="does not hold what its stage writes"):
            read_mapping(tmp_path / "a.json", "hash")
    with pytest.raises(UserError, match="cannot be read"):
        read_json(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        read_json(tmp_path / "none.json")


def test_what_killed_writes_left_is_removed_and_nothing_else(tmp_path):
    kept = [tmp_path / name for name in (".a.tmp", "b.tmp", ".hidden", ".a.12345678.json")]
    for path in kept:
        path.write_text("")
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / ".model.ab12_xyz.tmp").mkdir()
    (tmp_path / "inside" / ".model.ab12_xyz.tmp" / "weights").write_text("")
    (tmp_path / ".result.json.ab12_xyz.tmp.json").write_text("")
    remove_temporaries(tmp_path)
    assert names(tmp_path) == sorted([*(path.name for path in kept), "inside"]) and not names(tmp_path / "inside")


def test_a_digest_is_of_the_content_alone(tmp_path):
    for folder in ("a", "b"):
        write(tmp_path / folder, "config.json", "model.safetensors", "sub/x")
    first = digest(tmp_path / "a")
    os.utime(tmp_path / "a" / "config.json", (0, 0))
    write_json(tmp_path / "a" / "result.json", {})
    assert digest(tmp_path / "a") == digest(tmp_path / "b") == first
    for name in ("config.json", "sub/x"):
        (tmp_path / "b" / name).write_text("other")
        assert digest(tmp_path / "b") != first
        (tmp_path / "b" / name).write_text(name)
    (tmp_path / "b" / "sub/x").rename(tmp_path / "b" / "sub/y")
    assert digest(tmp_path / "b") != first and digest(tmp_path / "none") is None


def test_a_large_file_is_told_by_its_size_its_ends_and_parts_between(tmp_path):
    path = tmp_path / "large"
    content = bytearray(6 * 2**20)
    path.write_bytes(content)
    first = digest(path)
    found = set()
    for start, length in ((0, 1), (len(content) - 1, 1), (2**20, 2**18)):
        changed = content.copy()
        changed[start : start + length] = b"x" * length
        path.write_bytes(changed)
        found.add(digest(path))
    path.write_bytes(content + b"\0")
    assert len(found | {first, digest(path)}) == 5


def test_a_corpus_is_told_by_its_corpus_json(tmp_path):
    write(tmp_path / "text", "corpus.json", "chunk")
    alone, both = digest(tmp_path / "text"), digest(tmp_path)
    (tmp_path / "text" / "chunk").write_text("as corpus.json would tell")
    assert (alone, both) == (digest(tmp_path / "text"), digest(tmp_path))
    (tmp_path / "text" / "corpus.json").write_text("other")
    assert digest(tmp_path / "text") != alone and digest(tmp_path) != both


def test_paths_in_a_config_are_found_wherever_they_stand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "teacher", "a")
    values = json.loads('{"a": ["teacher/a", {"b": "teacher"}], "out_dir": "teacher/", "n": 3, "x": "a/b", "y": null}')
    assert existing_paths(values, "out_dir") == ["teacher/a"]
    assert existing_paths(values, "out_dir", words=True) == ["teacher", "teacher/a"]
