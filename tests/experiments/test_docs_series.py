"""The page on series: its keys, and that its example runs."""

import doctest
import re
import tomllib

import numpy as np
import pytest

from experiments.series import Series, forecast_next
from experiments.series.forecasts import forecast_split
from jaxlstm.lab import UserError, load_run
from jaxlstm.lab.commands import main
from tests.experiments.test_sine_cosine import ROOT
from tests.helpers import assert_close
from tests.pages import read_tables

PAGE = (ROOT / "docs/series.md").read_text()
BLOCK = re.compile(r"^```(\w+).*?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_keys_and_defaults_are_those_of_the_task():
    (rows,) = read_tables(PAGE)
    fields = Series.model_fields
    assert [key for key, *_ in rows] == [f"`{name}`" for name in fields]
    for (_, default, _), field in zip(rows, fields.values(), strict=True):
        shown = default.strip("`")
        value = None if shown == "none" else tomllib.loads(f"value = {shown}")["value"]
        assert value == field.default


@pytest.mark.slow
def test_example_beats_both_naive_forecasts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = dict(BLOCK.findall(PAGE))
    exec(blocks["python"], {})
    (tmp_path / "sales.toml").write_text(blocks["toml"])
    main(["run", "sales.toml", "--out", "sales"])
    test = doctest.DocTestParser().get_doctest(blocks["pycon"], {}, "page", None, 0)
    assert len(test.examples) == 4
    assert doctest.DocTestRunner().run(test).failed == 0
    run = load_run("sales")
    (line,) = (line for line in run.metrics if line["split"] == "test")
    assert line["skill"] > 0.5 and line["seasonal_skill"] > 0.15
    # The mean absolute value of normal noise with a standard deviation of 10 is 8.
    assert line["mae"] > 8
    assert (tmp_path / "sales/plots/forecast.png").is_file()

    # Without the last week, what comes next is the last forecast of the test.
    lines = (tmp_path / "sales.csv").read_text().splitlines()
    (tmp_path / "before.csv").write_text("\n".join(lines[:-7]))
    forecasts = forecast_split(run.task, run, "test")
    assert_close(forecast_next(run, "before.csv"), forecasts.by["net"][-1], 1e-6)
    error = np.abs(forecasts.by["net"] - forecasts.truth)
    assert line["mae"] == pytest.approx(np.nanmean(error), rel=1e-5)
    (tmp_path / "short.csv").write_text("\n".join(lines[:28]))
    with pytest.raises(UserError, match=r"has 27 rows, and the run sees 28"):
        forecast_next(run, "short.csv")
    (tmp_path / "none.csv").write_text("day,sales\n2024-01-01,1")
    with pytest.raises(UserError, match=r'"discount": none.csv has no such column'):
        forecast_next(run, "none.csv")
