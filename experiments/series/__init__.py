"""Series: forecasts the next steps of the columns of a CSV."""

from experiments.series.forecasts import forecast_next as forecast_next
from experiments.series.task import Series as Series
