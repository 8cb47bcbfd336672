"""What is wrong with texts or vectors: one line that says what to do, and no run."""

from pathlib import Path
from typing import Any

import pytest

from experiments.sentiment.sources import KNOWN_VECTORS
from jaxlstm.lab.commands import main

CONFIG = """
[task]
use = "experiments.sentiment:Sentiment"
source = "texts.txt"
bag_of_words = false

[model]
hidden_size = 4
inputs = "embedding"
embedding_size = 2

[train]
num_updates = 1
batch_size = 5
segment_length = 10
"""
TEXTS = "good film\t1\nbad film\t0\n" * 10
NAMES = ", ".join(KNOWN_VECTORS)
REMEDY = "remove the line, or fetch the file anew"


@pytest.fixture
def refusal(tmp_path: Path, monkeypatch: Any, capsys: Any) -> Any:
    """Runs what must be refused, and returns the only line."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.toml").write_text(CONFIG)
    (tmp_path / "texts.txt").write_text(TEXTS)

    def run(*overrides: str, **files: str | bytes) -> str:
        for name, content in files.items():
            path = tmp_path / name.replace("__", "/").replace("_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            data = content.encode() if isinstance(content, str) else content
            path.write_bytes(data)
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(SystemExit) as stop:
            main(["run", "c.toml", "--out", "out", *overrides])
        assert stop.value.code == 2
        assert sorted(tmp_path.rglob("*")) == before
        (line,) = capsys.readouterr().err.splitlines()
        return line.removeprefix("jaxlstm: ").replace(f"{tmp_path}/", "")

    return run


@pytest.mark.parametrize(
    ("overrides", "files", "line"),
    [
        (
            ["task.source=gone.txt"],
            {},
            '[task] source = "FOLDER/gone.txt": no such file or folder; put it there, '
            "or name another",
        ),
        (
            ["task.source=''"],
            {},
            "override task.source: is empty; name a file or folder, or leave it out",
        ),
        (
            ["task.source=folder"],
            {"folder__pos__note": "x"},
            '[task] source = "FOLDER/folder": holds no folders of .txt files, such as '
            "pos and neg; name one that does",
        ),
        (
            ["task.source=a.txt"],
            {"a_txt": ""},
            '[task] source = "FOLDER/a.txt": holds no texts; name a file that holds '
            "some",
        ),
        (
            ["task.source=a.txt"],
            {"a_txt": "good\t1\ngood\n"},
            "a.txt: line 2: has 0 tabulators, and `text TAB label` one; mend it, or "
            "set task.format",
        ),
        (
            ["task.source=a.txt"],
            {"a_txt": "good\t1\n \t0\n"},
            "a.txt: line 2: the text is empty; remove it",
        ),
        (
            ["task.source=a.txt", "task.validation=0", "task.test=0"],
            {"a_txt": "good\t1\n<br />\t0\nbad\t0\n"},
            "a.txt: line 2: the text has no word; remove it",
        ),
        (
            ["task.source=a.txt"],
            {"a_txt": "good\t1\nbad\t \n"},
            "a.txt: line 2: the label is empty; give one",
        ),
        (
            ["task.source=a.txt"],
            {"a_txt": b"good\t1\n\xff\t0\n"},
            "a.txt: line 2: not UTF-8 (0xFF); save it as UTF-8",
        ),
        (
            ["task.source=a.txt"],
            {"a_txt": "good\t1\nfine\t1\n"},
            "[task] source = \"FOLDER/a.txt\": all texts are of one class, '1': "
            "nothing is left to tell apart; add texts of another",
        ),
        (
            ["task.source=folder", "task.test=0"],
            {"folder__pos__1_txt": " "},
            "folder/pos/1.txt: the text is empty; remove it",
        ),
        (
            ["task.min_count=21"],
            {},
            "[task] min_count = 21: no word is there so often in the texts that "
            "train, and the vocabulary is empty; lower it",
        ),
        (
            ["task.source=a.txt"],
            {"a_txt": "".join(f"{n % 2}\ttext {n}\n" for n in range(8))},
            '[task] source = "FOLDER/a.txt": has 8 classes in 8 texts, such as '
            "'text 0'; set task.format = \"label_text\", or name them in task.classes "
            "if they are right",
        ),
        (
            ["task.source=a.txt", "task.format=label_text"],
            {"a_txt": "".join(f"text {n}\t{n % 2}\n" for n in range(8))},
            '[task] source = "FOLDER/a.txt": has 8 classes in 8 texts, such as '
            "'text 0'; set task.format = \"text_label\", or name them in task.classes "
            "if they are right",
        ),
        (
            ["task.source=a.csv", "task.text_column=label", "task.label_column=text"],
            {"a_csv": "text,label\n" + "".join(f"t{n},{n % 2}\n" for n in range(8))},
            "[task] source = \"FOLDER/a.csv\": has 8 classes in 8 texts, such as 't0'; "
            "set task.text_column and task.label_column, or name them in task.classes "
            "if they are right",
        ),
        (
            ["task.source=texts"],
            {f"texts__{n}__a_txt": "good" for n in range(8)},
            "[task] source = \"FOLDER/texts\": has 8 classes in 8 texts, such as '0'; "
            "set task.source to a folder that holds a folder a class, or name them in "
            "task.classes if they are right",
        ),
        (
            ["task.classes=['0', '1']", "task.source=a.txt"],
            {"a_txt": "good\t1\nbad\t2\nbad\t0\n"},
            "a.txt: line 2: the label '2' is out of range: the classes are 0, 1; mend "
            "it, or set task.classes",
        ),
        (
            ["task.classes=['0', '1', '2']"],
            {},
            "[task] source = \"FOLDER/texts.txt\": has no text of class '2'; add some, "
            "or leave it out of task.classes",
        ),
        (
            ["task.test_source=b.txt"],
            {"b_txt": "good\t1\nso so\tmixed\n"},
            "b.txt: line 2: the label 'mixed' is out of range: the classes are 0, 1; "
            "mend it, or set task.classes",
        ),
        (
            ["task.test_source=b.txt", "task.test=0.5"],
            {"b_txt": TEXTS},
            "[task] test = 0.5: the texts that test are apart, at b.txt; leave it out",
        ),
        (
            ["task.validation=0.01"],
            {},
            '[task] source = "FOLDER/texts.txt": of 20 texts none is left for '
            "validation; use more texts, or other fractions in task.validation and "
            "task.test",
        ),
        (
            ["task.source=a.csv"],
            {"a_csv": "words,label\ngood,1\n"},
            'a.csv: line 1: has no column "text"; set task.text_column to one of '
            "words, label",
        ),
        (
            ["task.source=a.txt", "task.format=csv"],
            {"a_txt": f"{'good film ' * 9}end\t1\nbad\t0\n"},
            'a.txt: line 1: has no column "text"; set task.text_column to one of '
            f"{'good film ' * 6} ...",
        ),
        (
            ["task.source=a.csv"],
            {"a_csv": "text,text,label\ngood,good,1\n"},
            'a.csv: line 1: has more than one column "text"; set task.text_column to '
            "one of text, label",
        ),
        (
            ["task.source=a.csv"],
            {"a_csv": 'text,label\n"good\nfilm",1\nbad,0,0\n'},
            "a.csv: line 4: has 3 values, and the line of names 2; mend it",
        ),
        (
            ["task.source=a.csv"],
            {"a_csv": 'text,label\n"good" film,1\n'},
            "a.csv: line 2: not CSV: ',' expected after '\"'; mend it",
        ),
        (
            ["task.source=a.jsonl"],
            {"a_jsonl": '{"text": "good", "label": 1}\n{"text": "bad"\n'},
            "a.jsonl: line 2: not JSON: Expecting ',' delimiter: line 1 column 15 "
            "(char 14); mend it",
        ),
        (
            ["task.source=a.jsonl"],
            {"a_jsonl": '["good", 1]\n'},
            "a.jsonl: line 1: is no JSON object; write {...} on each line",
        ),
        (
            ["task.source=a.jsonl"],
            {"a_jsonl": '{"words": "good", "label": 1}\n'},
            'a.jsonl: line 1: "text" is no text; mend it, or set task.text_column to '
            "one of words, label",
        ),
        (
            ["task.source=a.jsonl"],
            {"a_jsonl": '{"text": "good", "label": true}\n'},
            'a.jsonl: line 1: "label" is no text, nor an integer; mend it, or set '
            "task.label_column to one of text, label",
        ),
        (
            ["task.source=a.jsonl"],
            {"a_jsonl": '{"text": "good", "label": 0.5}\n'},
            'a.jsonl: line 1: "label" is no text, nor an integer; mend it, or set '
            "task.label_column to one of text, label",
        ),
        (
            ["task.validation=0.6", "task.test=0.4"],
            {},
            "override task: validation = 0.6 and test = 0.4 leave nothing to train "
            "on; lower them",
        ),
        (
            ["task.classes=['0', '0']"],
            {},
            "override task: classes: one is there twice; name each once",
        ),
        (
            ["task.source=uci", "task.classes=['0', '1']"],
            {},
            'override task: classes: source = "uci" has its own; leave it out',
        ),
    ],
)
def test_texts(refusal, overrides, files, line):
    assert refusal(*overrides, **files) == line.replace("FOLDER/", "")


@pytest.mark.parametrize(
    ("vectors", "line"),
    [
        (
            "good 1 2\nfilm 1\n",
            "line 2: is cut short: 1 numbers, where 2 are due; fetch the file anew",
        ),
        (
            "good 1 2\nfilm 1 2",
            "line 2: the file is cut short: no line feed ends it; fetch it anew",
        ),
        (
            "good 1 2\nfilm 1 2 3\n",
            "line 2: is of another dimension: 3 numbers, where 2 are due; " + REMEDY,
        ),
        (
            "2 2\ngood 1 2\nfilm 1 2\n",
            "line 1: is a header, '2 2', which GloVe's files have not; remove the line",
        ),
        ("good 1 2\nother 1 x\n", f"line 2: 'x' is not a number; {REMEDY}"),
        ("good 1 nan\n", f"line 1: 'nan' is not a number; {REMEDY}"),
        ("good 1 1_0\n", f"line 1: '1_0' is not a number; {REMEDY}"),
        ("good 1 \u0662\n", f"line 1: '\u0662' is not a number; {REMEDY}"),
        ("good  2\n", f"line 1: '' is not a number; {REMEDY}"),
        (
            "a 1 2\ngood 1 2\na 3 4\n",
            "line 3: the word 'a' is there a second time; remove one",
        ),
        (b"good 1 2\n\xff 1 2\n", None),
        ("", "is empty; fetch the file anew"),
        (
            "gut 1 2\n",
            "covers no word of the vocabulary; use vectors of the same language, and "
            "task.lower_case as they have it",
        ),
    ],
)
def test_vectors(refusal, vectors, line):
    found = refusal("task.glove=v.txt", v_txt=vectors)
    if line is None:
        assert found.startswith("v.txt: line 1 or soon after: not UTF-8: ")
    else:
        assert found == f"v.txt: {line}"


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["model.embedding_size=3"],
            "has vectors of 2 numbers, and the embedding 3; set model.embedding_size "
            "= 2",
        ),
        (
            ["model.inputs=one_hot", "model.embedding_size="],
            'there is no embedding; set model.inputs = "embedding" and '
            "model.embedding_size = 2",
        ),
    ],
)
def test_vectors_that_do_not_fit(refusal, overrides, line):
    found = refusal("task.glove=v.txt", *overrides, v_txt="good 1 2\n")
    assert found == f'[task] glove = "v.txt": {line}'


def test_vectors_that_are_not_there(refusal):
    assert refusal("task.glove=glove.6B.100") == (
        '[task] glove = "glove.6B.100": no such file, nor known vectors; put the file '
        "there, or set task.glove to another; did you mean glove.6B.100d?"
    )
