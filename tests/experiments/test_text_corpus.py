"""Texts read piece by piece, against the whole read at once."""

import collections
import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.text import Text
from experiments.text.corpus import Corpus, Reading, read_corpus
from experiments.text.raw import RawText, keep_letters, open_texts
from jaxlstm.lab import UserError

# A byte order mark, CRLF and a lone CR, characters of one to four bytes, runs of white
# space, a word of the name of the unknown one, no line feed at the end.
DATA = (
    b"\xef\xbb\xbfThe cat\r\n\r\nsat on  the m\xc3\xa4t,\tthe\rend.\n \xf0\x9f\x98\x80 "
    b"<unk> 1895\r\n--A B-- the \xe2\x80\x9ccat\xe2\x80\x9d\xef\xbb\xbf sat"
)
WHOLE = DATA.decode("utf-8-sig").replace("\r\n", "\n")
SIZES = [1, 2, 3, 5, 8, 1000]


@pytest.fixture(params=SIZES)
def chunk(request, monkeypatch) -> int:
    """Reads so many bytes at once."""
    monkeypatch.setattr("experiments.text.raw.CHUNK", request.param)
    monkeypatch.setattr("experiments.text.corpus.CHUNK", request.param)
    return request.param


def read(*data: bytes, strip_lines: bool = False, **options: Any) -> Corpus:
    raw = [
        RawText(f"text {n}", np.frombuffer(d, np.uint8), strip_lines)
        for n, d in enumerate(data)
    ]
    return read_corpus(raw, Reading(**options))


def symbols_of(corpus: Corpus, number: int = 0) -> list[Any]:
    return [corpus.vocabulary.symbols[n] for n in corpus.texts[number]]


def test_characters(chunk):
    corpus = read(DATA)
    assert corpus.vocabulary.symbols == tuple(sorted(set(WHOLE)))
    assert corpus.vocabulary.unknown is None
    assert "".join(symbols_of(corpus)) == WHOLE
    assert corpus.texts[0].dtype == np.uint8 and corpus.table is None


def test_letters(chunk):
    expected = re.sub("[^a-z]+", " ", WHOLE.lower())
    corpus = read(DATA, letters_only=True)
    assert "".join(symbols_of(corpus)) == expected
    limited = read(DATA, letters_only=True, limit=7)
    assert "".join(symbols_of(limited)) == expected[:7]


def test_letters_of_all_characters():
    text = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x11000)]))
    expected = re.sub("[^a-z]+", " ", text.lower())
    assert "".join(keep_letters([text])) == expected
    assert "".join(keep_letters(list(text))) == expected


def test_words(chunk):
    words = WHOLE.replace("\n", " <eos> ").split()
    corpus = read(DATA, unit="words")
    assert symbols_of(corpus) == words
    assert corpus.vocabulary.unknown == 0
    counts = collections.Counter(words)
    del counts["<unk>"]
    # By falling frequency, and then by code points.
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    assert corpus.vocabulary.symbols == ("<unk>", *ranked)
    assert ranked[:4] == ["<eos>", "the", "sat", "--A"]


def test_bytes_are_not_copied(chunk, tmp_path):
    path = tmp_path / "text"
    path.write_bytes(DATA)
    raw = open_texts(str(path))
    corpus = read_corpus(raw, Reading(unit="bytes"))
    assert corpus.texts[0].tobytes() == DATA
    assert np.shares_memory(corpus.texts[0], raw[0].data)
    assert not corpus.texts[0].flags.writeable
    assert corpus.vocabulary.symbols == tuple(sorted(set(DATA)))
    assert corpus.table is not None
    numbers = corpus.table[corpus.texts[0]]
    assert bytes(corpus.vocabulary.symbols[n] for n in numbers) == DATA


@pytest.mark.parametrize("unit", ["characters", "bytes", "words"])
@pytest.mark.parametrize("limit", [1, 6, 9, 10**6])
def test_limit_is_on_symbols(unit, limit, chunk):
    data = b"a b\nc b a\n" * 4
    whole = symbols_of(read(data, unit=unit)) if unit != "bytes" else list(data)
    if limit == 1:
        with pytest.raises(UserError, match=r"one symbol only, .* raise task\.limit$"):
            read(data, unit=unit, limit=limit)
        return
    corpus = read(data, unit=unit, limit=limit)
    if unit == "bytes":
        assert corpus.texts[0].tolist() == whole[:limit]
    else:
        assert symbols_of(corpus) == whole[:limit]
    # Of what is read alone.
    assert len(corpus.vocabulary) == len(set(whole[:limit]))


def test_most_frequent_are_kept(chunk):
    data = "éé bbb cccc aaa dd dd".encode()
    corpus = read(data, vocabulary_size=4)
    # Five blanks, four of c and of d; these stand in the order of code points.
    assert corpus.vocabulary.symbols == ("<unk>", " ", "c", "d")
    assert corpus.vocabulary.unknown == 0
    assert "".join(s[0] for s in symbols_of(corpus)) == "<< <<< cccc <<< dd dd"
    tied = read(b"b a c b a c d", unit="words", vocabulary_size=3)
    assert tied.vocabulary.symbols == ("<unk>", "a", "b")
    assert symbols_of(tied) == ["b", "a", "<unk>", "b", "a", "<unk>", "<unk>"]
    # Nothing is left over, so nothing is unknown unless asked for.
    assert read(b"aab", vocabulary_size=2).vocabulary.symbols == ("a", "b")
    both = read(b"aab", vocabulary_size=2, unknown=True)
    assert both.vocabulary.symbols == ("<unk>", "a")
    more = read(b"aab", vocabulary_size=3, unknown=True)
    assert more.vocabulary.symbols == ("<unk>", "a", "b")


def test_texts_share_a_vocabulary(chunk):
    corpus = read("aé".encode(), b"bb\r\nb", "\ufeffcé".encode())
    assert ["".join(symbols_of(corpus, n)) for n in range(3)] == ["aé", "bb\nb", "cé"]
    words = read(b"a b", b"b\nc", unit="words")
    assert [symbols_of(words, n) for n in range(2)] == [["a", "b"], ["b", "<eos>", "c"]]


def test_lines_are_stripped_where_the_text_says_so(chunk):
    data = b" a b \n\t c\r\n  \nd "
    assert "".join(symbols_of(read(data, strip_lines=True))) == "a b\nc\n\nd"
    assert "".join(symbols_of(read(data))) == " a b \n\t c\n  \nd "


@pytest.mark.parametrize(
    ("size", "dtype"),
    [(256, np.uint8), (257, np.uint16), (65536, np.uint16), (65537, np.int32)],
)
def test_symbols_are_as_small_as_they_fit(size, dtype):
    text = "".join(chr(0x10000 + n) for n in range(size))
    (symbols,) = read(text.encode()).texts
    assert symbols.dtype == dtype
    np.testing.assert_array_equal(symbols, np.arange(size))


@pytest.mark.parametrize(
    ("data", "offset", "byte"),
    [
        (b"ab\xff", 2, "FF"),
        (b"\xef\xbb\xbfab\xc3(", 5, "C3"),
        ("aé".encode() + b"\xed\xa0\x80", 3, "ED"),
        (b"abcd\xf0\x9f\x98", 4, "F0"),
        (b"\xff\xfea\x00", 0, "FF"),
    ],
)
def test_byte_that_is_not_utf_8_is_named(data, offset, byte, chunk):
    for unit in ("characters", "words"):
        with pytest.raises(UserError) as caught:
            read(data, unit=unit)
        assert caught.value.lines == (
            f"text 0: not UTF-8 at byte {offset} (0x{byte}); save it as UTF-8, or set "
            'task.unit = "bytes"',
        )
    assert read(data, unit="bytes").texts[0].tobytes() == data


@pytest.mark.parametrize(
    ("data", "options", "line"),
    [
        (b"", {}, "is empty; name a file that holds a text"),
        (b"\xef\xbb\xbf", {}, "holds no characters; use another text"),
        (b" \t ", {"unit": "words"}, "holds no words; use another text"),
        (
            b"aaa",
            {},
            "holds one symbol only, 'a': nothing is left to predict; use another text",
        ),
        (
            b"a a",
            {"unit": "words", "unknown": True},
            "holds one symbol only, 'a': nothing is left to predict; use another text",
        ),
        (
            b"\x07\x07",
            {"unit": "bytes"},
            "holds one symbol only, 7: nothing is left to predict; use another text",
        ),
        (
            b"123\n",
            {"letters_only": True},
            "holds one symbol only, ' ': nothing is left to predict; use another text",
        ),
    ],
)
def test_text_with_nothing_to_predict_is_one_line(data, options, line):
    with pytest.raises(UserError) as caught:
        read(data, **options)
    assert caught.value.lines == (f"text 0: {line}",)


def test_text_that_calls_all_unknown_is_refused():
    with pytest.raises(UserError, match="holds one symbol only, '<unk>'"):
        read(b"<unk> <unk>", unit="words")


@pytest.mark.parametrize("unit", ["characters", "bytes", "words"])
def test_hash_and_size_are_those_of_the_file(unit, tmp_path: Path):
    path = tmp_path / "text.txt"
    path.write_bytes(DATA)
    facts = Text(source=str(path), unit=unit, limit=5).describe_data()
    assert facts["sha256"] == hashlib.sha256(DATA).hexdigest()
    assert (facts["bytes"], facts["symbols"]) == (len(DATA), 5)
