"""Vocabularies: text to numbers and back, whole and as a stream, and their files."""

import json
from typing import Any

import numpy as np
import pytest

from jaxlstm.lab import UserError
from jaxlstm.lab.vocabulary import Vocabulary

CHARACTERS = Vocabulary("characters", tuple("\n abé😀"))
PARTIAL = Vocabulary("characters", ("<unk>", "b", "c"), 0)
BYTES = Vocabulary("bytes", tuple(sorted(set("\n abé😀".encode()))))
WORDS = Vocabulary("words", ("<unk>", "the", "<eos>", "cat", "sat."), 0)


@pytest.mark.parametrize(
    ("vocabulary", "text", "ids"),
    [
        (CHARACTERS, "b é\n😀a", [3, 1, 4, 0, 5, 2]),
        (PARTIAL, "abcz\U0010ffff", [0, 1, 2, 0, 0]),
        (PARTIAL, "".join(map(chr, range(0x100, 0x300))), [0] * 0x200),
        (BYTES, "a b", [2, 1, 3]),
        (WORDS, "the cat sat.\n\nThe dog", [1, 3, 4, 2, 2, 0, 0]),
        (CHARACTERS, "", []),
        (BYTES, "", []),
        (WORDS, " ", []),
    ],
)
def test_symbols_are_numbered_by_their_place(vocabulary, text, ids):
    found = vocabulary.encode(text)
    assert found.dtype == np.int32
    assert found.tolist() == ids


@pytest.mark.parametrize("vocabulary", [CHARACTERS, BYTES])
def test_text_comes_back(vocabulary):
    text = "a😀 b\n\n éb"
    assert vocabulary.decode(vocabulary.encode(text)) == text
    assert vocabulary.decode([]) == ""


def test_words_come_back_with_one_blank_between():
    assert WORDS.decode(WORDS.encode(" the  cat\n sat. ")) == "the cat\nsat."
    assert WORDS.decode([0, 2, 2, 3]) == "<unk>\n\ncat"


@pytest.mark.parametrize(
    ("vocabulary", "text"),
    [
        (CHARACTERS, "a😀 b\n\n éb"),
        (BYTES, "a😀 b\n\n éb"),
        (WORDS, "the cat\n\nsat. <unk>\nthe"),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_stream_says_what_the_whole_says(vocabulary, text, size):
    ids = vocabulary.encode(text)
    decode = vocabulary.decoder()
    pieces = [decode(ids[n : n + size]) for n in range(0, len(ids), size)]
    assert "".join(pieces) == vocabulary.decode(ids) == text
    assert decode([]) == ""


def test_streams_are_apart():
    one, other = WORDS.decoder(), WORDS.decoder()
    assert (one([1]), other([3]), one([3])) == ("the", "cat", " cat")


def test_bytes_that_are_not_utf_8_are_replaced():
    vocabulary = Vocabulary("bytes", tuple(range(256)))
    decode = vocabulary.decoder()
    assert [decode([n]) for n in (0xC3, 0xA9, 0xC3, 0x61, 0xFF)] == [
        "",
        "é",
        "",
        "\ufffda",
        "\ufffd",
    ]
    # The end of a whole text is known.
    assert vocabulary.decode([0x61, 0xC3]) == "a\ufffd"


def test_bytes_of_a_command_line_are_taken_as_they_are():
    vocabulary = Vocabulary("bytes", (0x61, 0xFF))
    assert vocabulary.encode(b"a\xff".decode(errors="surrogateescape")).tolist() == [
        0,
        1,
    ]


@pytest.mark.parametrize(
    ("vocabulary", "text", "line"),
    [
        (
            CHARACTERS,
            "ab%",
            "'%' (U+0025) at position 2: not among the 6 characters of the vocabulary; "
            "leave it out",
        ),
        (
            CHARACTERS,
            "\tA\t\x00",
            "'\\t' (U+0009) at position 0, 'A' (U+0041) at position 1 and '\\x00' "
            "(U+0000) at position 3: not among the 6 characters of the vocabulary; "
            "leave them out",
        ),
        (
            CHARACTERS,
            "12345\udcff",
            "'1' (U+0031) at position 0, '2' (U+0032) at position 1, '3' (U+0033) at "
            "position 2 and 3 more: not among the 6 characters of the vocabulary; "
            "leave them out",
        ),
        (
            BYTES,
            "aä",
            "0xA4 at position 2: not among the 10 bytes of the vocabulary; leave "
            "it out",
        ),
        (
            Vocabulary("words", ("the", "cat")),
            "the dog\nthe dog",
            "'dog' at position 1 and '<eos>' at position 2: not among the 2 words of "
            "the vocabulary; leave them out",
        ),
    ],
)
def test_what_is_missing_is_named(vocabulary, text, line):
    with pytest.raises(UserError) as caught:
        vocabulary.encode(text)
    assert caught.value.lines == (line,)


@pytest.mark.parametrize("vocabulary", [CHARACTERS, PARTIAL, BYTES, WORDS])
def test_file_holds_all(vocabulary, tmp_path):
    path = tmp_path / "vocabulary.json"
    vocabulary.save(path)
    loaded = Vocabulary.load(path)
    assert loaded == vocabulary
    assert json.loads(path.read_text("ascii"))["unit"] == vocabulary.unit


def write(**changes: Any) -> bytes:
    values = {"unit": "characters", "unknown": None, "symbols": ["a", "b"], **changes}
    return json.dumps({k: v for k, v in values.items() if v != "left out"}).encode()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "Invalid JSON"),
        (write()[:-9], "Invalid JSON"),
        (b"\xff" + write(), "Invalid JSON"),
        (b"[]", "damaged"),
        (write(unit="lines"), "unit"),
        (write(symbols="left out"), "symbols"),
        (write(symbols=[]), "there is no symbol"),
        (write(symbols=["a", 1]), "symbols"),
        (write(symbols=["a", "a"]), "a symbol stands in it twice"),
        (write(symbols=["a", "bc"]), "'bc' is none of the characters"),
        (write(symbols=[1, 2]), "1 is none of the characters"),
        (write(unit="bytes", symbols=[0, 256]), "256 is none of the bytes"),
        (write(unit="bytes", symbols=[True, 2]), "symbols"),
        (write(unit="words", symbols=["a b"]), "'a b' is none of the words"),
        (write(unit="words", symbols=[""]), "'' is none of the words"),
        (write(unknown=1), "unknown is 1"),
        (write(unknown="0"), "unknown"),
        (write(symbols=["<unk>", "a"]), "stands at 0"),
        (write(unit="bytes", symbols=[1, 2], unknown=0), "unknown is 0"),
    ],
)
def test_damaged_file_is_one_line(content, words, tmp_path):
    path = tmp_path / "vocabulary.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        Vocabulary.load(path)
    (line,) = caught.value.lines
    assert line.startswith(f"{path}: damaged: ")
    assert line.endswith("; put back the file that the run was made with")
    assert words in line and "\n" not in line


def test_file_that_cannot_be_read_is_one_line(tmp_path):
    for path, words in [
        (tmp_path / "vocabulary.json", "no such file; a run on text has one"),
        (tmp_path, "cannot be read: Is a directory"),
    ]:
        with pytest.raises(UserError) as caught:
            Vocabulary.load(path)
        assert caught.value.lines == (f"{path}: {words}",)
