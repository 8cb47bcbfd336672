"""Known texts: what they are called, where they come from, and what they must be."""

from dataclasses import dataclass

from jaxlstm.lab.data import DataFile


@dataclass(frozen=True, kw_only=True)
class KnownText:
    """A text that a config can name.

    Attributes:
      name: as a config names it.
      title: what it is.
      rights: its licence, or why it needs none.
      files: one, to be split along time; or three, which are the published training,
        validation and test splits; or none, where the text comes with Python.
      strip_lines: white space at both ends of a line is no part of the text.
    """

    name: str
    title: str
    rights: str
    files: tuple[DataFile, ...] = ()
    strip_lines: bool = False


def _treebank(split: str, md5: str, size: int) -> DataFile:
    return DataFile(
        name=f"ptb.{split}.txt",
        # Published as MD5 alone. It is not downloaded, so that this guards against
        # accidents and not against a forger.
        hash=f"md5:{md5}",
        size=size,
        note="the Penn Treebank is licensed by the Linguistic Data Consortium "
        "(LDC99T42) and not fetched; with a licence, take this file from the folder "
        "data of Mikolov's simple-examples.tgz",
    )


PYTHON_DOCS = KnownText(
    name="python-docs",
    title="The reference topics of Python's own help, pydoc_data.topics",
    rights="PSF licence; comes with Python, and differs by its version",
)

TINY_SHAKESPEARE = KnownText(
    name="tiny_shakespeare",
    title="Tiny Shakespeare: 40,000 lines of the plays, of char-rnn (Karpathy, 2015)",
    rights="public domain",
    files=(
        DataFile(
            name="tinyshakespeare_input.txt",
            url="https://raw.githubusercontent.com/karpathy/char-rnn/"
            "6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt",
            hash="sha256:"
            "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            size=1_115_394,
        ),
    ),
)

TIME_MACHINE = KnownText(
    name="time_machine",
    title="H. G. Wells, The Time Machine (1895), as in Dive into Deep Learning",
    rights="public domain in the US",
    files=(
        DataFile(
            name="timemachine.txt",
            url="http://d2l-data.s3-accelerate.amazonaws.com/timemachine.txt",
            hash="sha256:"
            "8424dbd9532ac81f7e5f0b6add90e6952baea29158309d7d1bf3884f4e12c516",
            size=178_979,
        ),
    ),
)

# The file at the URL has CRLF, a byte order mark in front and, by its published length,
# a character more at its end: hash and size are those of the text without them. Figures
# published on the bytes of that file are of another text, with other symbols.
WAR_AND_PEACE = KnownText(
    name="war_and_peace",
    title="Leo Tolstoy, War and Peace, in the translation of L. and A. Maude",
    rights="public domain",
    files=(
        DataFile(
            name="warpeace_input.txt",
            url="https://cs.stanford.edu/people/karpathy/char-rnn/warpeace_input.txt",
            hash="sha256:"
            "b0fc81c399971eaf738c8be89809e6a0d95c151749112b04f06b6af648d8a39f",
            size=3_196_228,
            normalise_newlines=True,
            strip_ends=True,
        ),
    ),
)

ENWIK8 = KnownText(
    name="enwik8",
    title="The first 100,000,000 bytes of the English Wikipedia of 3 March 2006, XML",
    rights="GFDL and CC BY-SA 3.0",
    files=(
        DataFile(
            name="enwik8",
            url="https://mattmahoney.net/dc/enwik8.zip",
            hash="sha256:"
            "2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8",
            size=100_000_000,
            member="enwik8",
        ),
    ),
)

TEXT8 = KnownText(
    name="text8",
    title="100,000,000 letters and spaces of the same Wikipedia, without markup",
    rights="GFDL and CC BY-SA 3.0",
    files=(
        DataFile(
            name="text8",
            url="https://mattmahoney.net/dc/text8.zip",
            hash="sha256:"
            "6e890197040d37d85beb962ae1f041ff1d9a9ca8d20c7d99c85027eebf51dca7",
            size=100_000_000,
            member="text8",
        ),
    ),
)

# The files ptb.char.*.txt of the same archive are this text with its characters set
# apart, so that one set of files serves words and characters.
PENN_TREEBANK = KnownText(
    name="ptb",
    title="Penn Treebank, in the preparation of Mikolov (2010): 10,000 words, <unk>",
    rights="licensed by the Linguistic Data Consortium (LDC99T42)",
    files=(
        _treebank("train", "f26c4b92c5fdc7b3f8c7cdcb991d8420", 5_101_618),
        _treebank("valid", "aa0affc06ff7c36e977d7cd49e3839bf", 399_782),
        _treebank("test", "8b80168b89c18661a38ef683c0dc3721", 449_945),
    ),
    strip_lines=True,
)

KNOWN_TEXTS = {
    text.name: text
    for text in (
        PYTHON_DOCS,
        TINY_SHAKESPEARE,
        TIME_MACHINE,
        WAR_AND_PEACE,
        ENWIK8,
        TEXT8,
        PENN_TREEBANK,
    )
}
