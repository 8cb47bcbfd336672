"""The report of a comparison: its tables are the parts, whatever of them is there."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from jaxlstm.lab.comparison.report import pictures
from jaxlstm.lab.comparison.report import writer as report
from jaxlstm.lab.comparison.report.material import NAMES
from jaxlstm.lab.comparison.report.writer import write_report
from jaxlstm.lab.errors import UserError
from tests.lab.comparison import parts

FOLDER = Path("c")
LABELS = [label for label in parts.MEMBERS if label != parts.REFUSED]
STRANGE = LABELS[-1]

Table = dict[str, dict[str, str]]


@pytest.fixture
def undrawn(monkeypatch):
    """Leaves the pictures blank, which take seconds."""
    leave_blank(monkeypatch)


def leave_blank(monkeypatch):
    def draw(material: Any) -> Iterator[Any]:
        for picture in pictures.PICTURES:
            if picture.part in material.parts:
                yield picture, {picture.name: None}

    monkeypatch.setattr(report.pictures, "draw", draw)
    monkeypatch.setattr(report, "save", lambda figure, file: file)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with a whole comparison and its report, and the values of its parts."""
    folder = tmp_path_factory.mktemp("comparison") / "c"
    with pytest.MonkeyPatch.context() as patch:
        leave_blank(patch)
        values = parts.write(folder)
        write_report(folder)
    return folder, values


@pytest.fixture
def values(written, monkeypatch) -> dict[str, Any]:
    """The values of the whole comparison, in whose folder the test runs."""
    folder, values = written
    monkeypatch.chdir(folder.parent)
    return values


def read_code(text: str) -> str:
    """Returns what stands between backticks, or the text itself."""
    found = re.fullmatch(r"(`+)( ?)(.*?)\2\1", text)
    return found[3] if found else text


def read_tables(lines: Sequence[str]) -> Iterator[Table]:
    """Yields the tables of a text, by first cell and column, as GitHub reads them."""
    table: list[list[str]] = []
    for line in [*lines, ""]:
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            table.append([cell.strip().replace("\\|", "|") for cell in cells])
        elif table:
            header, _, *rows = table
            assert all(len(row) == len(header) for row in rows)
            yield {
                read_code(first): dict(zip(header[1:], row, strict=True))
                for first, *row in rows
            }
            table = []


def read_chapters(path: Path = FOLDER / "report.md") -> dict[str, list[Table]]:
    """Returns the tables below each heading."""
    _, *chapters = re.split(r"^##? ", path.read_text(encoding="utf-8"), flags=re.M)
    texts = (chapter.splitlines() for chapter in chapters)
    return {first: list(read_tables(lines)) for first, *lines in texts}


def read_figures(cell: str) -> list[float | None]:
    """Returns the figures of a cell, such as "0.98 / n/a" or "1.2 (1 to 2)"."""
    words = re.findall(r"n/a|-?\d[\d,.]*(?:e[+-]\d+)?", cell)
    return [None if word == "n/a" else float(word.replace(",", "")) for word in words]


def assert_shows(cell: str, *expected: float | None, digits: float = 3) -> None:
    """Compares a cell with figures, to half of the last digit that is shown."""
    shown = read_figures(cell)
    assert len(shown) == len(expected)
    for a, b in zip(shown, expected, strict=True):
        if a is None or b is None:
            assert a is b
        else:
            assert abs(a - b) <= 0.501 * 10 ** (1 - digits) * abs(b)


def test_direction_is_that_of_the_part(values):
    frozen, online = read_chapters()["Direction"]
    assert list(frozen) == LABELS
    assert list(online) == [label for label in LABELS if parts.MEMBERS[label][1]]
    for snapshot in values["accuracy"]["snapshots"]:
        update = snapshot["update"]
        for table, weights in ((frozen, "frozen"), (online, "online")):
            for label, row in table.items():
                member = snapshot["members"][label][weights]
                assert_shows(row[f"cosine, {update}"], member["cosine"])
                assert_shows(row[f"norm ratio, {update}"], member["norm_ratio"])


def test_blocks_are_those_of_the_last_snapshot(values):
    (table,) = read_chapters()["Direction by layer and gate"]
    members = values["accuracy"]["snapshots"][-1]["members"]
    assert list(table) == LABELS
    for label, row in table.items():
        assert list(row) == parts.BLOCKS
        for block, cell in row.items():
            each = members[label]["frozen"]["blocks"][block]
            if each["cosine"] is None:
                assert cell.startswith("n/a / ")
                cell = cell.removeprefix("n/a / ")
                assert_shows(cell, each["norm_ratio"])
            else:
                assert_shows(cell, each["cosine"], each["norm_ratio"])


def test_bias_is_beside_its_floor(values):
    tables = read_chapters()["Bias and variance"]
    snapshots = values["accuracy"]["snapshots"]
    columns = {
        "noise floor": "noise_floor",
        "variance over draws": "draw_variance",
        "variance over data": "data_variance",
    }
    within = set()
    for table, snapshot in zip(tables, snapshots, strict=True):
        for label, row in table.items():
            frozen = snapshot["members"][label]["frozen"]
            for column, name in columns.items():
                assert_shows(row[column], frozen[name])
            size, twice = frozen["relative_bias"], 2 * (frozen["noise_floor"] or 0)
            bias, rest = row["relative bias"], row["bias without noise"]
            if bias.startswith("< "):
                within.add(label)
                assert size <= twice and rest == bias
                assert_shows(bias.removeprefix("< "), twice)
            else:
                assert_shows(bias, size)
                assert_shows(rest, frozen["debiased"])
                assert size > twice
    # The bias of pes is above its floor, and not above twice of it.
    unbiased = {x for x in LABELS if parts.MEMBERS[x][0] == "unbiased"}
    assert within == unbiased | {"pes"}


def test_what_is_not_known_is_told_with_its_reason(undrawn):
    parts.write(FOLDER, names=())
    accuracy: parts.Values = parts.make_accuracy() | {"num_windows": 1}
    for snapshot in accuracy["snapshots"]:
        for name in ("uoro", "eprop"):
            frozen = snapshot["members"][name]["frozen"]
            frozen |= {"data_variance": None}
        snapshot["members"]["uoro"]["num_draws"] = 1
        unknown = "noise_floor", "debiased", "draw_variance"
        snapshot["members"]["uoro"]["frozen"] |= dict.fromkeys(unknown)
        snapshot["exact"]["data_variance"] = None
    parts.save(FOLDER, {"accuracy": accuracy})
    write_report(FOLDER)
    text = (FOLDER / "report.md").read_text()
    table, *_ = read_chapters()["Bias and variance"]
    assert list(table["uoro"].values())[1:] == ["n/a"] * 4
    assert_shows(table["uoro"]["relative bias"], 0.97 * 0.375)
    for told in (
        "n/a of noise floor: the estimator does not draw.",
        "n/a of noise floor, bias without noise and variance over draws: a single "
        "draw does not tell the noise of draws.",
        "n/a of variance over data: a single window does not tell it.",
        "a single window does not tell the exact gradient's variance over data",
    ):
        assert text.count(told) == len(parts.SNAPSHOTS)
    accuracy["num_windows"] = 4
    accuracy["snapshots"][-1]["members"]["pes"]["frozen"]["data_variance"] = None
    parts.save(FOLDER, {"accuracy": accuracy})
    write_report(FOLDER)
    text = (FOLDER / "report.md").read_text()
    assert "n/a of variance over data: the noise of the draws hides it." in text


def test_how_far_the_weights_move_is_told(values):
    text = (FOLDER / "report.md").read_text(encoding="utf-8")
    assert "0.0200 from update 0 on, 0.0150 from update 250 on and 0.0100" in text


def test_comparison_without_fresh_nets_has_no_chapter_of_them(undrawn):
    parts.write(FOLDER, names=())
    parts.save(FOLDER, {"vanishing": parts.make_vanishing() | {"curves": []}})
    write_report(FOLDER)
    assert "Where gradients vanish" not in read_chapters()


def test_costs_are_those_of_the_part(values):
    (table,) = read_chapters()["Costs"]
    assert list(table) == LABELS
    for label, row in table.items():
        member = values["costs"]["members"][label]
        seconds = [1e3 * member["seconds"][n] for n in ("low", "median")]
        memory, flops = member["temporary_bytes"], member["flops"]
        assert_shows(row["compiling [s]"], member["compile_seconds"])
        assert_shows(row["segment, least (to median) [ms]"], *seconds)
        assert_shows(row["temporary [KiB]"], memory and memory / 1024)
        assert_shows(row["carried [KiB]"], member["carried_bytes"] / 1024)
        assert_shows(row["operations [MFLOP]"], flops and flops / 1e6)


def test_growth_is_the_power_of_the_length(values):
    (table,) = read_chapters()["Growth with the length of a segment"]
    assert_shows(table["bptt"]["time"], 1.0)
    assert_shows(table["bptt"]["operations"], 1.0)
    assert_shows(table["eprop"]["temporary memory"], 0.0)
    assert table["uoro"]["temporary memory"] == "n/a"


def read_costs(costs: dict[str, Any]) -> tuple[Table, str]:
    """Returns the table of growth in a report of these costs, and the whole report."""
    parts.write(FOLDER, names=())
    parts.save(FOLDER, {"costs": costs})
    write_report(FOLDER)
    (table,) = read_chapters()["Growth with the length of a segment"]
    return table, (FOLDER / "report.md").read_text(encoding="utf-8")


def test_growth_that_is_not_clear_of_noise_is_not_given(undrawn):
    costs = parts.make_costs()
    members = costs["scaling"]["members"]
    # As often as not half as slow again: log(4) / log(8) of doubt.
    seconds = members["bptt"]["seconds"]
    members["bptt"]["seconds_median"] = [2 * each for each in seconds]
    table, text = read_costs(costs)
    assert table["bptt"]["time"] == "n/a" and table["eprop"]["time"] == "1.0"
    assert "n/a of time: not clear of the spread of times" in text


def test_growth_by_one_length_has_its_reason(undrawn):
    costs = parts.make_costs()
    costs["scaling"]["lengths"] = parts.LENGTHS[:1]
    for label, member in costs["scaling"]["members"].items():
        if label != parts.REFUSED:
            costs["scaling"]["members"][label] = {k: v[:1] for k, v in member.items()}
    table, text = read_costs(costs)
    assert {cell for row in table.values() for cell in row.values()} == {"n/a"}
    assert (
        "n/a of time, temporary memory and operations: costs were measured at one "
        "length alone."
    ) in text


def test_races_are_those_of_the_part(values):
    (table,) = read_chapters()["Training by each estimator"]
    assert list(table) == LABELS
    for label, row in table.items():
        member = values["races"]["members"][label]
        steps, time = member["at_equal_updates"], member["at_equal_seconds"]
        rate, edge, _ = row["learning rate"].partition(" \\*")
        assert_shows(rate, member["learning_rate"])
        assert bool(edge) == (member["learning_rate"] in (1e-3, 1e-2))
        assert_shows(row["updates in 0.550 s"], time["updates"], digits=9)
        names = "seconds_per_update", "seconds_per_update_median"
        pace = [1e3 * member[name] for name in names]
        assert_shows(row["update, least (to median) [ms]"], *pace)
        for column, end in (("500 updates", steps), ("0.550 s", time)):
            cell = row[f"loss after {column}"]
            if label == "pes":
                assert cell == "n/a"
            else:
                known = end.get("updates", 500) in values["races"]["updates"]
                figures = (end[name] for name in ("mean", "low", "high"))
                assert_shows(cell, *figures, digits=4 if known else 2)


def read_races(races: dict[str, Any]) -> tuple[Table, str]:
    """Returns the table of races in a report of these, and the whole report."""
    parts.write(FOLDER, names=())
    parts.save(FOLDER, {"races": races})
    write_report(FOLDER)
    (table,) = read_chapters()["Training by each estimator"]
    return table, (FOLDER / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("around", "told"),
    [
        # A quarter of the fall is 10 %, 1.1 %, .9 % and .01 % of the loss.
        ((0.6, 0.4), "0.50"),
        ((0.511, 0.489), "0.50"),
        ((0.509, 0.491), "0.500"),
        ((0.5001, 0.4999), "0.500"),
    ],
)
def test_digits_between_points_are_those_that_a_line_bears(undrawn, around, told):
    races = parts.make_races()
    member = races["members"]["eprop"]
    member["at_equal_seconds"] |= {"updates": 125, "mean": 0.5, "low": 0.5, "high": 0.5}
    for curve in member["losses"]:
        curve[2:4] = around
    table, _ = read_races(races)
    assert table["eprop"]["loss after 0.550 s"] == told


def test_loss_above_the_start_was_not_learnt(undrawn):
    races = parts.make_races()
    end = {"mean": 4.644e29, "low": 4.6e29, "high": 4.7e29}
    races["members"]["bptt"]["at_equal_updates"] |= end
    table, _ = read_races(races)
    cell = table["bptt"]["loss after 500 updates"]
    assert cell == "did not learn: 4.644e+29 (4.600e+29 to 4.700e+29)"


def test_one_of_a_kind_is_told_as_one(undrawn):
    races = parts.make_races()
    races |= {"seeds": [0], "learning_rates": [1e-3]}
    for label, member in races["members"].items():
        if label != parts.REFUSED:
            first = member["losses"][0]
            member["losses"] = [first]
            member["at_equal_updates"] = dict.fromkeys(
                ("mean", "low", "high"), first[-1]
            )
    table, text = read_races(races)
    assert re.fullmatch(r"\d\.\d+", table["bptt"]["loss after 500 updates"])
    assert "split, of 1 seed, each at the learning rate 0.001." in text
    accuracy = parts.make_accuracy()
    accuracy |= {"num_windows": 1, "segments_per_window": 1, "num_draws": 1}
    parts.save(FOLDER, {"accuracy": accuracy})
    write_report(FOLDER)
    text = (FOLDER / "report.md").read_text(encoding="utf-8")
    assert "Over 1 window of 1 segment, the mean of up to 1 draw in each" in text


def test_advice_is_that_of_the_part(values):
    tables = read_chapters()["How far back to go"]
    for snapshot in values["lags"]["snapshots"]:
        both = snapshot, snapshot["recurrent"]
        for table, figures in zip(tables, both, strict=True):
            row, keeps = table[f"{snapshot['update']}"], figures["keeps"]
            assert_shows(row["steps"], snapshot["num_steps"], digits=9)
            assert_shows(row["keep .9"], keeps["0.9"], digits=9)
            assert_shows(row["keep .99"], keeps["0.99"], digits=9)
            for n in (1, 2, 4, 8, 16, 32):
                pair = (figures[name][n - 1] for name in ("cosine", "norm_ratio"))
                assert_shows(row[f"horizon {n}"], *pair)


def test_path_shares_are_those_of_the_part(values):
    by_route, by_gate = read_chapters()["By which way the gradient comes"]
    snapshots = values["lags"]["snapshots"]
    for snapshot in snapshots:
        for route, share in snapshot["path_shares"]["by_route"].items():
            cell = by_route[route][f"share after {snapshot['update']} [%]"]
            assert_shows(cell, 100 * share)
    last = snapshots[-1]
    shares = last["path_shares"]["by_route_and_gate"]
    for route, row in zip(last["routes"], shares, strict=True):
        for gate, share in zip(last["gates"], row, strict=True):
            assert_shows(by_gate[route][f"{gate} [%]"], 100 * share)


def test_rates_are_beside_predictions(values):
    (table,) = read_chapters()["Where gradients vanish"]
    for curve in values["vanishing"]["curves"]:
        row = table[curve["label"]]
        assert_shows(row["factor a step"], curve["rate"], curve["rate_error"])
        assert_shows(row["predicted"], curve["predicted"])
        driven = curve["driven"], curve["driven_error"]
        assert_shows(row["driven: factor a step"], *driven)
        bound = row["driven: memory alone / lower bound"]
        assert_shows(bound, curve["driven_predicted"])
        (steps,) = read_figures(row["steps until < 1 %"])
        if curve["rate"] > 1:
            assert steps is None
        else:
            assert steps and curve["rate"] ** steps < 0.01 < curve["rate"] ** (
                steps - 1
            )


def test_flow_and_gates_are_those_of_the_part(values):
    text = (FOLDER / "report.md").read_text(encoding="utf-8")
    for snapshot in values["flow"]["snapshots"]:
        update = snapshot["update"]
        layer = snapshot["layers"][1]
        (row,) = re.findall(rf"^\| {update} +\| layer 2 +\| d/dx +\|(.*)$", text, re.M)
        first, largest = layer["x"][0], max(layer["x"])
        assert_shows(row, first, largest, first / largest)
        (row,) = re.findall(rf"^\| {update} +\| input +\|(.*)$", text, re.M)
        shares = snapshot["saturation"]["input"]
        assert_shows(row, 100 * shares["low"], 100 * shares["high"])
        (row,) = re.findall(rf"^\| {update} +\| dh/dh +\|(.*)$", text, re.M)
        assert_shows(row, *snapshot["terms"]["dh/dh"].values())
        (row,) = re.findall(rf"^\| {update} +\| all +\|(.*)$", text, re.M)
        curve, k = snapshot["jacobians"]["spectral"], snapshot["jacobians"]["k"]
        below = [n for n, norm in zip(k, curve, strict=True) if norm < 0.01]
        assert_shows(row, curve[0], curve[-1], below[0] if below else k[-1])
        assert ("> 39" in row) == (not below)


def test_refused_is_told_with_its_reason(values):
    (table,) = read_chapters()["Estimators"]
    assert list(table) == list(parts.MEMBERS)
    assert table[parts.REFUSED]["note"] == f"refused: {parts.REASON}"
    assert table["eprop"]["weights"] == "frozen and online"
    assert table["bptt"]["weights"] == "frozen"
    for label in LABELS:
        assert table[label]["class"] == parts.MEMBERS[label][0]


def test_setting_and_glossary_say_what_was_compared(values):
    text = (FOLDER / "report.md").read_text(encoding="utf-8")
    (setting,), *_ = read_chapters().values()
    setting = {name: row[""] for name, row in setting.items()}
    assert setting["task"] == "`experiments.add:Add`"
    assert setting["model"] == f"2 x 16 lstm, {parts.PARAMETERS} parameters"
    assert setting["segments"] == "32 steps, batches of 8"
    assert setting["reference run"] == "bptt, adam, 500 updates, seed 0"
    assert setting["device"] == "2 x cpu, 2 cores"
    assert "jax 0.10.2" in setting["versions"]
    assert setting["measured in"].startswith("312 s: ")
    assert "- `eprop`: Follows each weight through the memory of its own unit" in text
    assert "- ``mine:带 | `own` $x_1$``: cannot be imported here." in text


def test_glossary_finds_estimators_of_ones_own(undrawn):
    Path("own_estimators.py").write_text('def mine():\n    """Does it well."""\n')
    label = "own_estimators:mine(x=1)"
    facts = {"members": [label], "import_path": [str(Path.cwd())]}
    parts.write(FOLDER, names=())
    parts.note(FOLDER, **facts)
    write_report(FOLDER)
    text = (FOLDER / "report.md").read_text()
    assert "- `own_estimators:mine`: Does it well." in text


def test_nothing_is_imported_from_the_directory_itself(undrawn):
    parts.write(FOLDER, names=())
    (FOLDER / "planted.py").write_text("open('imported', 'w').close()\n")
    facts = {"members": ["planted:mine"], "import_path": [str(FOLDER.resolve())]}
    parts.note(FOLDER, **facts)
    write_report(FOLDER)
    text = (FOLDER / "report.md").read_text()
    assert "- `planted:mine`: cannot be imported here." in text
    assert not Path("imported").exists()


@pytest.mark.parametrize("absent", NAMES)
def test_part_that_is_absent_is_told(undrawn, absent):
    names = tuple(name for name in NAMES if name != absent)
    parts.write(Path("whole"))
    parts.write(FOLDER, names=names)
    files = write_report(FOLDER)
    text = (FOLDER / "report.md").read_text(encoding="utf-8")
    assert f"Not measured: parts/{absent}.json is not there" in text
    assert text.count("Not measured") == 1
    write_report(Path("whole"))
    headings = set(read_chapters(Path("whole/report.md"))) - set(read_chapters())
    assert headings
    drawn = {p.name for p in pictures.PICTURES if p.part == absent}
    assert drawn and not drawn & {file.stem for file in files}


def test_nothing_measured_is_a_report_too(undrawn):
    parts.write(FOLDER, names=())
    files = write_report(FOLDER)
    assert [file.name for file in files] == ["report.md", "report.json", "report.csv"]
    text = (FOLDER / "report.md").read_text(encoding="utf-8")
    assert "Nothing has been measured yet." in text
    assert text.count("Not measured: ") == len(NAMES)
    (table,) = read_chapters()["Estimators"]
    assert {row["note"] for label, row in table.items() if label != "rtrl"} == {
        "not measured"
    }


def test_damaged_part_is_as_if_absent(undrawn):
    parts.write(FOLDER)
    file = FOLDER / "parts/costs.json"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.warns(UserWarning, match="parts/costs.json: is damaged"):
        write_report(FOLDER)
    text = (FOLDER / "report.md").read_text(encoding="utf-8")
    assert "Not measured: parts/costs.json is not there, or is damaged." in text


def without_figures(value: Any) -> Any:
    """Returns values whose figures are none; what they are figures of stays."""
    axes = ["update", "updates", "lags", "k", "lengths", "horizons", "learning_rates"]
    axes += ["references", "gain", "forget_bias"]
    if isinstance(value, dict):
        return {k: v if k in axes else without_figures(v) for k, v in value.items()}
    if isinstance(value, list):
        return [without_figures(item) for item in value]
    return None if isinstance(value, float) else value


@pytest.mark.slow
def test_figures_that_are_none_are_drawn_and_told():
    parts.write(FOLDER, names=())
    made = {name: without_figures(make()) for name, make in parts.MAKERS.items()}
    parts.save(FOLDER, made)
    files = write_report(FOLDER)
    assert len(files) > 3 + len(pictures.PICTURES) - 1
    tables = read_chapters()
    rows = [r for table in tables["Bias and variance"] for r in table.values()]
    cells = {cell for row in rows for name, cell in row.items()}
    assert cells <= {"n/a", "0"}


@pytest.mark.slow
@pytest.mark.parametrize("label", ["bptt", "uoro", STRANGE])
def test_single_estimator_has_a_report(label):
    parts.write(FOLDER, labels=(label,))
    files = write_report(FOLDER)
    (table,) = read_chapters()["Costs"]
    assert list(table) == [label]
    assert {file.suffix for file in files} == {".md", ".json", ".csv", ".png"}


@pytest.mark.slow
def test_single_snapshot_has_a_report():
    made = {name: make() for name, make in parts.MAKERS.items()}
    for values in made.values():
        if "snapshots" in values:
            del values["snapshots"][1:]
    parts.write(FOLDER, names=())
    parts.save(FOLDER, made)
    write_report(FOLDER)
    table, recurrent = read_chapters()["How far back to go"]
    assert list(table) == list(recurrent) == ["0"]


@pytest.mark.slow
def test_pictures_are_written_and_shown():
    parts.write(FOLDER)
    files = write_report(FOLDER)
    text = (FOLDER / "report.md").read_text(encoding="utf-8")
    drawn = [file for file in files if file.suffix == ".png"]
    assert len(drawn) >= len(pictures.PICTURES)
    for file in drawn:
        assert file.read_bytes().startswith(b"\x89PNG")
        assert file.stat().st_size < 200_000
        assert text.count(f"](plots/{file.name})") == 1
    assert text.count("![") == len(drawn)
    again = write_report(FOLDER)
    assert again == files
    assert (FOLDER / "report.md").read_text(encoding="utf-8") == text


def test_directory_that_is_none_is_refused():
    with pytest.raises(UserError, match=r"none/comparison\.json: cannot be read"):
        write_report(Path("none"))
    parts.write(FOLDER, names=())
    (FOLDER / "config.toml").write_text("a = ")
    with pytest.raises(UserError, match=r"config\.toml: not valid TOML"):
        write_report(FOLDER)
    (FOLDER / "config.toml").unlink()
    with pytest.raises(UserError, match=r"config\.toml: cannot be read"):
        write_report(FOLDER)


def test_plots_that_cannot_be_written_are_told():
    parts.write(FOLDER, names=())
    (FOLDER / "plots").write_text("")
    with pytest.raises(UserError, match="plots: cannot be written"):
        write_report(FOLDER)
