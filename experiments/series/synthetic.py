"""A series without a file: a trend, a day in a week, and noise, by a formula.

    python -m experiments.series.synthetic PATH

writes it as a CSV.
"""

import sys
from pathlib import Path

import numpy as np

NUM_HOURS = 24 * 7 * 52
DAY, WEEK = 24, 24 * 7
NOISE = 2.0
# A Monday.
BEGIN = np.datetime64("2024-01-01T00", "h")
SEED = 20240101


def make_csv() -> bytes:
    """Returns a year of hours, 52 weeks, as a CSV with the columns time and value.

        value_t = 100 + t / 2000 + 6 sin(2 pi t / 168)
                  + (10 + 4 cos(2 pi t / 168)) sin(2 pi t / 24) + 2 e_t

    The days of a week differ in level and in height, and e_t is standard normal: who
    knows all but the noise is wrong by 2, as a root mean square. The draws have a seed
    of their own, so that all runs have the same series.
    """
    hours = np.arange(NUM_HOURS)
    week, day = 2 * np.pi * hours / WEEK, 2 * np.pi * hours / DAY
    noise = np.random.Generator(np.random.Philox(SEED)).normal(size=NUM_HOURS)
    values = 100 + hours / 2000 + 6 * np.sin(week)
    values += (10 + 4 * np.cos(week)) * np.sin(day) + NOISE * noise
    rows = zip(BEGIN + hours, values, strict=True)
    lines = [f"{time}:00,{value:.3f}\n" for time, value in rows]
    return "".join(["time,value\n", *lines]).encode()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("python -m experiments.series.synthetic PATH: name one file to write")
    try:
        Path(sys.argv[1]).write_bytes(make_csv())
    except OSError as error:
        sys.exit(f"{sys.argv[1]}: cannot be written: {error.strerror}")
