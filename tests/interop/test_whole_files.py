"""Files appear whole or not at all, and no other file is touched for it."""

import os
import secrets

import pytest

from jaxlstm.interop.files import replacement, write_file


def test_a_file_takes_the_place_of_another(tmp_path):
    path = tmp_path / "weights.onnx"
    path.write_bytes(b"old")
    with replacement(path) as new:
        assert (new.parent, new.suffix) == (tmp_path, ".onnx")
        new.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_by_the_name_of_a_replacement_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(secrets, "token_hex", lambda _: "0")
    path, other = tmp_path / "weights.onnx", tmp_path / "weights.0.onnx"
    other.write_bytes(b"of the user")
    with pytest.raises(FileExistsError, match=r"weights\.0\.onnx"):
        write_file(path, b"new")
    assert other.read_bytes() == b"of the user"
    assert list(tmp_path.iterdir()) == [other]


def test_replacements_have_names_of_their_own(tmp_path):
    path = tmp_path / "weights"
    with replacement(path) as first, replacement(path) as second:
        assert first != second


@pytest.mark.parametrize("target", ["", ".", "folder", "none/weights"])
def test_what_cannot_be_written_leaves_nothing(target, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=r".+"):
        write_file(target, b"new")
    assert os.listdir() == ["folder"]
    assert not os.listdir("folder")
