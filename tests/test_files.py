import os
import stat

import pytest

from jetlit.errors import UserError
from jetlit.files import atomic_folder


def test_a_folder_is_replaced_whole_and_follows_the_umask(tmp_path):
    umask = os.umask(0o027)
    try:
        for content in ("first", "second"):
            with atomic_folder(tmp_path / "out") as folder:
                (folder / content).write_text(content)
    finally:
        os.umask(umask)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["second"]
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o750
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "nothing temporary is left"


def test_an_error_keeps_the_old_folder(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "out") as folder:
        (folder / "new").write_text("new")
        raise RuntimeError
    with pytest.raises(UserError, match="Could not write"), atomic_folder(tmp_path / "out"):
        raise OSError("No space left on device")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["old"]


def test_the_old_folder_comes_back_when_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    replace = os.replace

    def refuse_new(source, target):
        if source.name == "written":
            raise OSError("Permission denied")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse_new)
    with pytest.raises(UserError, match="Permission denied"), atomic_folder(tmp_path / "out"):
        pass
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["old"]


def test_a_link_stays_and_a_file_is_refused(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk")
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "new").write_text("new")
    assert (tmp_path / "out").is_symlink() and (tmp_path / "disk" / "new").exists()
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UserError, match="Could not write"), atomic_folder(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "precious"
