"""Tokenizers: from a text to its words, numbers and signs."""

import re
import unicodedata
from collections.abc import Callable
from typing import Literal

from jaxlstm.lab import UserError

TokenizerName = Literal["basic", "spacy", "whitespace"]
Tokenizer = Callable[[str], list[str]]

# Control characters that are no white space, among them dashes and quotes of Windows
# that were taken for Latin-1.
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x9f]")
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_PLAIN = str.maketrans(
    dict.fromkeys("\u00b4\u2018\u2019\u201b\u2032", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u2033", '"')
    | dict.fromkeys("\u00ad\u200b\ufeff")
)
_TOKEN = re.compile(
    r"""
    (?:https?://|www\.)\S*[^\s<>"'.,;:!?)\]]    # an address, up to its last letter
    | \d+(?:[.,]\d+)*(?![^\W_])                 # a number: 3, 1,000.50
    | [^\W_]+?(?=n't(?![^\W_]))                 # do of don't, ca of can't
    | n't(?![^\W_])
    | '(?:s|m|d|ll|re|ve)(?![^\W_])             # 's of it's
    | [^\W_]+                                   # a word, with digits as in mp3
    | \.{2,}                                    # an ellipsis
    | [^\w\s](?:[\ufe0e\ufe0f\U0001f3fb-\U0001f3ff]|\u200d[^\w\s])*
    | \S
    """,
    re.VERBOSE | re.IGNORECASE,
)


def tokenize(text: str) -> list[str]:
    """Returns the words, numbers and signs of an English text.

    - The line breaks of HTML, `<br />`, are dropped, and so are control characters.
    - Characters are brought into one form (NFKC), quotes into the straight one.
    - A contraction is two words, as in the Penn Treebank: do n't, it 's, we 'll.
    - Every sign is a token, but an ellipsis is one, "...", however long; so is an emoji
      with its modifiers. Hyphens and slashes part words.
    - An address, http://... or www..., is one token.
    """
    text = _BREAK.sub(" ", text)
    text = unicodedata.normalize("NFKC", text.translate(_PLAIN))
    found = _TOKEN.findall(_CONTROL.sub(" ", text))
    return ["..." if token.startswith("..") else token for token in found]


def make_tokenizer(name: TokenizerName, *, lower_case: bool) -> Tokenizer:
    """Returns a tokenizer; no token of it holds white space.

    Args:
      name: "basic", as `tokenize`; "whitespace": what white space separates; "spacy":
        that of spaCy's blank English pipeline.
      lower_case: whether all becomes lower case.

    Raises:
      UserError: spaCy is asked for, and is not installed.
    """
    split: Tokenizer = {
        "basic": lambda: tokenize,
        "whitespace": lambda: str.split,
        "spacy": _load_spacy,
    }[name]()
    return (lambda text: split(text.lower())) if lower_case else split


def _load_spacy() -> Tokenizer:
    try:
        # Not needed for the others, and seconds to import.
        import spacy  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            '[task] tokenizer = "spacy": spaCy is not installed; pip install spacy '
            "(or 'jaxlstm[spacy]'), or use tokenizer = \"basic\""
        ) from None
    pipeline = spacy.blank("en").tokenizer

    def split(text: str) -> list[str]:
        # A token may hold white space, and runs of it are tokens of their own.
        return [part for token in pipeline(text) for part in token.text.split()]

    return split
