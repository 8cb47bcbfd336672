"""The table of known texts, and the real files where they are at hand."""

import os

import pytest

from experiments.text.sources import KNOWN_TEXTS
from jaxlstm.lab.data import DataFile, find_file, hash_file

NAMES = {
    "python-docs",
    "tiny_shakespeare",
    "time_machine",
    "war_and_peace",
    "enwik8",
    "text8",
    "ptb",
}
# Lengths in characters, and numbers of symbols.
PUBLIC_DOMAIN = {
    "tiny_shakespeare": (1_115_394, 65),
    "time_machine": (178_979, 70),
    "war_and_peace": (3_196_211, 82),
}
FILES = [(text, file) for text in KNOWN_TEXTS.values() for file in text.files]


def test_names():
    assert KNOWN_TEXTS.keys() == NAMES
    assert all(text.name == name for name, text in KNOWN_TEXTS.items())
    assert all(text.title and text.rights for text in KNOWN_TEXTS.values())
    assert len({file.name for _, file in FILES}) == len(FILES) == 8
    assert KNOWN_TEXTS["python-docs"].files == ()


def test_splits_are_given_for_the_penn_treebank_alone():
    numbers = {name: len(text.files) for name, text in KNOWN_TEXTS.items()}
    assert numbers == {**dict.fromkeys(NAMES, 1), "ptb": 3, "python-docs": 0}
    splits = [file.name.split(".")[1] for file in KNOWN_TEXTS["ptb"].files]
    assert splits == ["train", "valid", "test"]


@pytest.mark.parametrize(("text", "file"), FILES, ids=[f.name for _, f in FILES])
def test_every_file_is_checked_and_can_be_had(text, file):
    assert file.hash and file.size
    if text.name == "ptb":
        # Its licence does not let it be fetched, and says so.
        assert file.url is None and "Linguistic Data Consortium" in file.note
    else:
        # Whoever can choose the bytes can make two of one MD5.
        assert file.url.startswith("http") and file.hash.startswith("sha256:")
    assert (file.member is not None) == (file.name in ("enwik8", "text8"))


@pytest.fixture
def at_hand(tmp_path, monkeypatch):
    """Says whether the real files are there; puts small ones there where not."""
    if os.environ.get("JAXLSTM_DATA"):
        return True
    monkeypatch.setenv("JAXLSTM_DATA", str(tmp_path))
    return False


@pytest.mark.parametrize("name", PUBLIC_DOMAIN)
def test_real_texts(at_hand, tmp_path, name):
    (file,) = KNOWN_TEXTS[name].files
    length, num_symbols = PUBLIC_DOMAIN[name]
    if not at_hand:
        small = "War, péace\n"
        length, num_symbols = len(small), len(set(small))
        path = tmp_path / file.name
        path.write_text(small, encoding="utf-8")
        file = DataFile(
            name=file.name, hash=f"sha256:{hash_file(path)}", size=path.stat().st_size
        )
    path = find_file(file)
    assert path.parent == type(path)(os.environ["JAXLSTM_DATA"])
    assert path.stat().st_size == file.size
    text = path.read_bytes().decode()
    assert (len(text), len(set(text))) == (length, num_symbols)
    assert "\r" not in text and "\ufeff" not in text
