"""CSV files: what is read of them, and one line for what is wrong with them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.series import Series
from experiments.series.synthetic import make_csv
from jaxlstm.lab import UserError
from jaxlstm.lab.commands import main
from tests.experiments.test_sine_cosine import ROOT

ROWS = "\n".join(f"{n},{n * n % 7}" for n in range(40))
GOOD = f"t,x\n{ROWS}\n"
# Each row takes two lines.
QUOTED = "\n".join(f'{n},"says ""a,\nb""",{n * n % 7}' for n in range(40))


def read(folder: Path, content: str | bytes, **options: Any) -> Any:
    """Returns what a task reads of a CSV; by default the column x."""
    file = folder / "data.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    settings = {"window": 4, "horizon": 2, "target": "x"} | options
    task = Series(source=str(file), **settings)
    assert task.windows.window == settings["window"]
    return task.numbers


@pytest.mark.parametrize(
    "content",
    [
        GOOD,
        GOOD.replace(",", ";"),
        GOOD.replace(",", "\t"),
        GOOD.replace(",", "|"),
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("\n", "\n\n"),
        f" t , x \n{ROWS.replace(',', ' , ')}",
        b"\xef\xbb\xbf" + GOOD.encode(),
        '"t","x"\n' + "\n".join(f'"{line[:-2]}","{line[-1]}"' for line in ROWS.split()),
        f't,"a, b",x\n{QUOTED}',
        "t,x,s\n" + ROWS.replace("\n", ",a;b;c\n") + ",a;b;c",
    ],
    ids=[
        "plain",
        "semicolon",
        "tab",
        "bar",
        "crlf",
        "blank lines",
        "blanks",
        "byte order mark",
        "quoted",
        "text in quotes",
        "semicolons in text",
    ],
)
def test_the_same_numbers_are_read(tmp_path, content):
    numbers = read(tmp_path, content, time_column="t")
    assert numbers.columns == numbers.target == ("x",)
    np.testing.assert_array_equal(numbers.inputs[:, 0], [n * n % 7 for n in range(40)])
    np.testing.assert_array_equal(numbers.times, np.arange(40))


def test_without_a_header_columns_are_numbered(tmp_path):
    numbers = read(tmp_path, ROWS, header=False, target="1", columns=["1", "0"])
    assert numbers.columns == ("1", "0")
    np.testing.assert_array_equal(numbers.inputs[:, 1], np.arange(40))
    np.testing.assert_array_equal(numbers.times, np.arange(40))


def test_columns_of_text_and_without_a_name_are_left_out(tmp_path):
    rows = "\n".join(f"{n},{n},day {n},{-n},1e-{n % 3}" for n in range(40))
    numbers = read(tmp_path, f",x,day,y,z\n{rows}")
    assert numbers.columns == ("x", "y", "z")
    np.testing.assert_array_equal(numbers.inputs[:3, 2], [1, 0.1, 0.01])


@pytest.mark.parametrize("missing", ["", "NA", "nan", "NULL", "None", "n/a", " "])
def test_signs_of_a_missing_value(tmp_path, missing):
    numbers = read(tmp_path, GOOD.replace("7,0", f"7,{missing}"), missing="mask")
    np.testing.assert_array_equal(np.argwhere(np.isnan(numbers.inputs)), [[7, 1]])


@pytest.mark.parametrize(
    ("write", "first", "step"),
    [
        (lambda n: f"{2000 + n / 4}", 2000, 0.25),
        (lambda n: f"2024-01-{1 + n // 2:02} {n % 2 * 12:02}:00", "2024-01-01", "12h"),
        (lambda n: f"{1990 + n // 12}-{1 + n % 12:02}", "1990-01-01", None),
        (
            lambda n: f"2024-01-{1 + n // 2:02}T{n % 2 * 12:02}+02:00",
            "2023-12-31T22",
            "12h",
        ),
    ],
)
def test_times_are_numbers_or_dates(tmp_path, write, first, step):
    rows = "\n".join(f"{write(n)},{n * n % 7}" for n in range(40))
    times = read(tmp_path, f"t,x\n{rows}", time_column="t").times
    if isinstance(first, str):
        first = np.datetime64(first)
    assert times[0] == first
    if step is not None:
        step = np.timedelta64(12, "h") if isinstance(step, str) else step
        np.testing.assert_array_equal(np.diff(times), step)
    assert np.all(np.diff(times) > np.diff(times)[0] * 0)


def change(line: int, to: str) -> str:
    """Returns the good file with another line, counted from 1."""
    lines = GOOD.splitlines()
    lines[line - 1] = to
    return "\n".join(lines)


BAD: list[tuple[str | bytes, dict[str, Any], str]] = [
    ("", {}, "data.csv: is empty"),
    ("t,x\n", {}, "data.csv: has a header and no rows"),
    (b"PK\x03\x04\n\xff\xfe", {}, "line 2: not UTF-8 (0xFF); save it as UTF-8"),
    (change(9, "7"), {}, "line 9 has 1 fields by the delimiter ',', and line 1 has 2"),
    (
        change(9, "7,1,3"),
        {},
        "line 9 has 3 fields by the delimiter ',', and line 1 has 2",
    ),
    (change(9, '7,"1'), {}, "data.csv: line 41: unexpected end of data; mend its"),
    (change(9, "7,abc"), {}, 'line 9, column "x": "abc" is not a finite number; mend'),
    (
        f"t,s,x\n{QUOTED}".replace("7,", "7,,", 1),
        {},
        "line 17 has 4 fields by the delimiter ',', and line 1 has 3",
    ),
    (change(9, "7,1e999"), {}, 'line 9, column "x": "1e999" is not a finite number'),
    (change(9, "7,inf"), {}, 'line 9, column "x": "inf" is not a finite number'),
    (change(9, "7,1_0"), {}, 'line 9, column "x": "1_0" is not a finite number'),
    (change(9, '7,"1,5"'), {}, 'line 9, column "x": "1,5" has a comma; write decimals'),
    (change(9, "7,"), {}, 'line 9, column "x": is missing; fill it in, or set'),
    (change(2, "0,"), {"missing": "forward"}, 'line 2, column "x": is missing, with'),
    (ROWS, {}, "first line holds numbers, and no names of columns; set task.header"),
    (GOOD, {"header": False, "target": "1"}, '"0": "t" is not a number; if it is a'),
    (change(1, "x,x"), {}, 'has 2 columns named "x"; give each a name of its own'),
    (change(1, "t,y"), {}, 'target = "x": '),
    (GOOD, {"target": None}, "target: is missing, and "),
    (GOOD, {"columns": ["t", "z"]}, 'columns = "z": '),
    (GOOD, {"time_column": "time"}, 'time_column = "time": '),
    (GOOD, {"delimiter": ";"}, 'target = "x": '),
    ("a,b\nc,d\n", {"target": None}, "has no column of numbers; name a CSV"),
    (
        change(9, "5,1"),
        {"time_column": "t"},
        'line 9, column "t": "5" does not come after "6" of line 8; sort the lines',
    ),
    (
        change(9, "6,1"),
        {"time_column": "t"},
        'line 9, column "t": "6" does not come after "6" of line 8; sort the lines',
    ),
    (
        change(9, "1/2/2024,1"),
        {"time_column": "t"},
        'line 9, column "t": "1/2/2024" is no time; write numbers, or dates as 2024',
    ),
    (
        change(9, "2024-02-01,1"),
        {"time_column": "t"},
        'line 9, column "t": "2024-02-01" and the time before are not both numbers',
    ),
    (
        "t,x\n" + "\n".join(f"{n},5" for n in range(40)),
        {},
        'column "x": is 5 all through the training part, and cannot be scaled',
    ),
    (
        GOOD.replace(",", ";").replace("\n", ",5\n").replace("x,5", "x"),
        {"columns": None},
        'line 2, column "x": "0,5" has a comma; write decimals with a point',
    ),
    (
        "1,5;2,5\n3,5;4,5",
        {"header": False, "target": "1"},
        'line 1, column "0": "1,5" has a comma; write decimals',
    ),
    (
        "t,s\n1,a\n2,b",
        {"time_column": "t", "target": None},
        "has no column of numbers beside the time; name a CSV that has one",
    ),
    (
        GOOD.replace(",1\n", ",1e300\n"),
        {},
        'column "x": has values too large, or too close to each other, to be scaled',
    ),
    (
        GOOD.replace(",1\n", ",1e300\n"),
        {"scaling": "none"},
        'column "x": has values that float32 cannot hold, such as 1e+300',
    ),
    (GOOD, {"window": 27}, "has 40 rows, 28 of them to train on, and task.window = 27"),
    (GOOD, {"horizon": 5}, "validation = 0.1: is 4 of 40 rows, and a horizon of 5 is"),
    (GOOD, {"season": 29}, "season = 29: is not in the 28 rows of training"),
    (
        "t,x\n" + "\n".join(f"{n},{n if n > 30 else ''}" for n in range(40)),
        {"missing": "mask"},
        'column "x": has no value in the training part; leave it out, or lower',
    ),
    (
        "t,x\n" + "\n".join(f"{n},{n if n < 28 else ''}" for n in range(40)),
        {"missing": "mask"},
        "missing: no window of validation has both inputs and a target that are not",
    ),
]


@pytest.mark.parametrize(("content", "options", "message"), BAD)
def test_what_is_wrong_is_told_in_a_line(tmp_path, content, options, message):
    with pytest.raises(UserError) as caught:
        read(tmp_path, content, **options)
    (line,) = caught.value.lines
    assert message in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "greater than 0"),
        ({"horizon": 0}, "greater than 0"),
        ({"season": 0}, "greater than 0"),
        ({"source": ""}, "is empty; name a CSV file"),
        ({"source": "~nobody-of-this-name/x.csv"}, "there is no such user"),
        ({"columns": []}, "names no column"),
        ({"target": []}, "names no column"),
        ({"columns": ["x", "x"]}, '"x" is named twice'),
        ({"delimiter": ""}, "write one character"),
        ({"delimiter": ", "}, "write one character"),
        ({"delimiter": '"'}, "write one character"),
        ({"validation": 0.5, "test": 0.5}, "leave nothing to train on"),
        ({"missing": "drop"}, "'error', 'mask' or 'forward'"),
        ({"scaling": "robust"}, "'standard', 'minmax' or 'none'"),
    ],
)
def test_bad_fields_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Series(**options)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task.source=absent.csv"], "absent.csv: no such file; set task.source"),
        (["task.source=."], "is a folder; name a CSV file in it"),
        (["task.window=24"], "[train] segment_length = 48: differs from [task] window"),
        (["task.target=valu"], 'target = "valu": synthetic has no such column; did'),
        (["task.horizon=900"], "validation = 0.1: is 873 of 8,736 rows, and a horizon"),
    ],
)
def test_the_command_says_it_in_a_line(
    tmp_path, monkeypatch, capsys, overrides, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(["run", str(ROOT / "configs/series.toml"), "--out", "out", *overrides])
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


def test_the_synthetic_series_can_be_read_as_a_file(tmp_path):
    (tmp_path / "load.csv").write_bytes(make_csv())
    facts = Series(source=str(tmp_path / "load.csv")).describe_data()
    expected = Series().describe_data()
    assert {k: facts[k] for k in facts if k != "source"} == {
        k: expected[k] for k in expected if k != "source"
    }
