"""Tokenizers, on English as it is and on odd input."""

import sys
import types

import pytest

from experiments.sentiment.tokens import make_tokenizer, tokenize
from jaxlstm.lab import UserError


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Don't stop!", "Do n't stop !"),
        ("I can't, it's won't DON'T", "I ca n't , it 's wo n't DO N'T"),
        ("we'll they've I'd I'm you're", "we 'll they 've I 'd I 'm you 're"),
        ("isn\u2019t \u201cgood\u201d don\u00b4t", "is n't \" good \" do n't"),
        ("'sad' O'Neil's '80s", "' sad ' O ' Neil 's ' 80s"),
        ("a<br /><br/>b <BR>c", "a b c"),
        ("1,000.50 x 10/10, 3.", "1,000.50 x 10 / 10 , 3 ."),
        ("mp3 3d 2nd", "mp3 3d 2nd"),
        ("well-made snake_case", "well - made snake _ case"),
        ("so.... good!!! \u2026", "so ... good ! ! ! ..."),
        ("(http://a.org/x?b=1,2).", "( http://a.org/x?b=1,2 ) ."),
        ("www.foo.com/a_b!", "www.foo.com/a_b !"),
        (
            "\U0001f44d\U0001f3fd\u2764\ufe0f :)",
            "\U0001f44d\U0001f3fd \u2764\ufe0f : )",
        ),
        ("\U0001f468\u200d\U0001f469", "\U0001f468\u200d\U0001f469"),
        ("problems\x97the \x91end\x92", "problems the end"),
        ("e\u0301te\u0301 \ufb01ne \u00e9t\u00e9", "\u00e9t\u00e9 fine \u00e9t\u00e9"),
        ("soft\u00adly zero\u200bwidth \ufeffmark", "softly zerowidth mark"),
        (" \t\n\u00a0 <br />", ""),
    ],
)
def test_tokens(text, tokens):
    assert tokenize(text) == tokens.split()
    # Nothing is left to be parted when it is read once more.
    assert [part for token in tokens.split() for part in tokenize(token)] == (
        tokens.replace("N'T", "N'T").split()
    )


@pytest.mark.parametrize("name", ["basic", "whitespace"])
def test_case_is_kept_only_where_asked(name):
    assert make_tokenizer(name, lower_case=True)("Ab  C") == ["ab", "c"]
    assert make_tokenizer(name, lower_case=False)("Ab  C") == ["Ab", "C"]


def test_white_space_alone_parts():
    assert make_tokenizer("whitespace", lower_case=True)("It's <br />so\u00a0") == [
        *("it's", "<br", "/>so")
    ]


def test_spacy_is_asked_for_its_blank_english(monkeypatch):
    """Tokens of white space, which spaCy makes of a run of it, are dropped."""

    def blank(language):
        assert language == "en"
        texts = ["Do", "n't", "  \n ", "a\u00a0b"]
        made = [types.SimpleNamespace(text=text) for text in texts]
        return types.SimpleNamespace(tokenizer=lambda text: made)

    monkeypatch.setitem(sys.modules, "spacy", types.SimpleNamespace(blank=blank))
    split = make_tokenizer("spacy", lower_case=False)
    assert split("Don't  \n a\u00a0b") == ["Do", "n't", "a", "b"]


def test_spacy_may_be_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(UserError) as error:
        make_tokenizer("spacy", lower_case=True)
    assert str(error.value) == (
        '[task] tokenizer = "spacy": spaCy is not installed; pip install spacy (or '
        "'jaxlstm[spacy]'), or use tokenizer = \"basic\""
    )
