"""The report of a comparison, written from the files of its directory alone."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

from jaxlstm.estimators import ESTIMATORS
from jaxlstm.lab.comparison.report import pictures, tables
from jaxlstm.lab.comparison.report.chapters import CHAPTERS
from jaxlstm.lab.comparison.report.exports import to_csv, to_json
from jaxlstm.lab.comparison.report.markdown import code, join, plain, show_count, table
from jaxlstm.lab.comparison.report.material import Material, Values, read_material
from jaxlstm.lab.comparison.report.summary import summarise
from jaxlstm.lab.comparison.store import PARTS
from jaxlstm.lab.errors import UserError
from jaxlstm.lab.files import cannot_write, write_text
from jaxlstm.lab.imports import extend_path
from jaxlstm.lab.options import find_factory
from jaxlstm.lab.plots import STYLE, save
from jaxlstm.lab.runs import PLOTS

# At which a picture of many panels stays below 200 kB.
DPI = 90
REPORT, DOCUMENT, LONG_TABLE = "report.md", "report.json", "report.csv"

# Files and caption of each picture, by its name in `PICTURES`.
Pictures = Mapping[str, tuple[Sequence[Path], str]]


def write_report(folder: Path) -> list[Path]:
    """Writes report.md, report.json, report.csv and plots/ of a comparison.

    What was not measured, or is damaged, is said not to be there.

    Args:
      folder: the comparison's directory.

    Returns:
      The files, report.md first.

    Raises:
      UserError: config or facts cannot be read, or a file cannot be written.
    """
    material = read_material(folder)
    shown = _draw(material)
    texts = {
        REPORT: "\n".join(_report(material, shown)),
        DOCUMENT: to_json(material),
        LONG_TABLE: to_csv(material),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    drawn = [file for files, _ in shown.values() for file in files]
    return [*(folder / name for name in texts), *drawn]


def _draw(material: Material) -> Pictures:
    """Draws the pictures into plots/."""
    plots = material.folder / PLOTS
    try:
        plots.mkdir(exist_ok=True)
    except OSError as error:
        raise cannot_write(plots, error) from None
    with matplotlib.rc_context(STYLE | {"figure.dpi": DPI}):
        return {
            picture.name: (
                [save(figure, plots / f"{n}.png") for n, figure in figures.items()],
                picture.caption,
            )
            for picture, figures in pictures.draw(material)
        }


def _report(material: Material, shown: Pictures) -> Iterator[str]:
    """Yields the lines of report.md."""
    name = material.facts.get("config", material.folder.name)
    yield from [f"# Gradient estimators compared: {plain(name)}", ""]
    yield from _setting(material)
    yield from ["## Summary", "", " ".join(summarise(material)), ""]
    yield from ["## Estimators", "", *tables.classes(material)]
    yield from [
        "The class is what an estimator promises for what it sees: one that cuts at "
        "the end of each segment is not exact over a window of several. *Frozen*: the "
        "weights stand still, and the estimate can be held against the exact "
        "gradient. *Online*: they move from segment to segment.",
        "",
    ]
    for part, write in CHAPTERS.items():
        if part not in material.parts:
            yield from [f"## {part.capitalize()}", ""]
            yield f"Not measured: {PARTS}/{part}.json is not there, or is damaged."
            yield ""
            continue
        for chapter in write(material.parts[part]):
            yield from [f"## {chapter.heading}", "", *chapter.lines]
            for name in chapter.pictures:
                files, caption = shown[name]
                for file in files:
                    yield from [f"![{file.stem}]({PLOTS}/{file.name})", ""]
                yield from [f"*{caption}*", ""] if files else []
    yield from _glossary(material)
    yield from [
        "## Files",
        "",
        f"All figures: [{DOCUMENT}]({DOCUMENT}), and one a row in "
        f"[{LONG_TABLE}]({LONG_TABLE}). What each of them is: `docs/compare.md`. Raw "
        f"draws, NumPy: `{PARTS}/*.npz`. The whole config, defaults included: "
        "[config.toml](config.toml).",
        "",
    ]


def _setting(material: Material) -> list[str]:
    config, facts = material.config, material.facts
    model, train = config["model"], config["train"]
    options = {k: v for k, v in config["task"].items() if k != "use"}
    devices, versions = facts["devices"], facts["versions"]
    size = material.num_parameters
    parameters = f", {show_count(size)} parameters" if size else ""
    rows = [
        ["task", f"{code(config['task']['use'])} {_options(options)}"],
        ["data", _options(facts.get("data", {}))],
        [
            "model",
            f"{model.get('num_layers', 1)} x {model['hidden_size']} "
            f"{plain(model.get('cell', 'lstm'))}{parameters}",
        ],
        [
            "segments",
            f"{train['segment_length']} steps, batches of {train['batch_size']}",
        ],
        [
            "reference run",
            f"{plain(config['estimator']['name'])}, "
            f"{plain(config['optimizer']['name'])}, "
            f"{show_count(facts.get('num_updates'))} updates, "
            f"seed {config.get('seed', 0)}",
        ],
        [
            "device",
            f"{devices.get('count')} x {plain(str(devices.get('kind')))}, "
            f"{devices.get('cores')} cores",
        ],
        ["versions", ", ".join(f"{k} {plain(v)}" for k, v in versions.items())],
        ["measured in", _seconds(facts)],
    ]
    return table(["", ""], [row for row in rows if row[1]])


def _options(values: Mapping[str, Any]) -> str:
    return plain(", ".join(f"{name} = {value}" for name, value in values.items()))


def _seconds(facts: Values) -> str:
    each = [
        f"{name.removeprefix(f'{PARTS}/')} {known['seconds']:.0f} s"
        for name, known in facts["measured"].items()
        if name.startswith(f"{PARTS}/") and name.count("/") == 1
    ]
    whole = facts.get("seconds")
    told = f"{whole:.0f} s" if whole else ""
    return f"{told}: {join(each)}" if told and each else told


def _glossary(material: Material) -> list[str]:
    """Returns what each estimator does, as its factory says."""
    folder = material.folder.resolve()
    places = (Path(path) for path in material.facts["import_path"])
    # Nothing is imported from the directory itself, which may come from a stranger.
    extend_path(*(p for p in places if not p.resolve().is_relative_to(folder)))
    names = dict.fromkeys(label.partition("(")[0] for label in material.labels)
    lines = [f"- {code(name)}: {_explain(name)}" for name in names]
    return ["## Glossary", "", *lines, ""]


def _explain(name: str) -> str:
    try:
        text = find_factory("[compare] estimators", name, ESTIMATORS).__doc__
    except UserError:
        return "cannot be imported here."
    return plain((text or "says nothing of itself.").strip().splitlines()[0])
