"""The pictures of a comparison, each with a sentence that says how to read it."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from matplotlib.figure import Figure

from jaxlstm.lab.comparison.report.accuracy_pictures import (
    draw_alignment,
    draw_bias_and_variance,
    draw_reach,
)
from jaxlstm.lab.comparison.report.cost_pictures import draw_races, draw_scaling
from jaxlstm.lab.comparison.report.flow_pictures import draw_flow, draw_vanishing
from jaxlstm.lab.comparison.report.lag_pictures import draw_advice, draw_paths
from jaxlstm.lab.comparison.report.looks import Looks, make_looks
from jaxlstm.lab.comparison.report.material import Material, Values


class Picture(NamedTuple):
    """A picture of a report, or several that are read alike.

    Attributes:
      name: of its file, where it is one.
      part: whose values it is drawn from.
      draw: `(values, looks) -> the figure, or figures by the names of their files`.
      caption: how to read it.
    """

    name: str
    part: str
    draw: Callable[[Values, Looks], Figure | dict[str, Figure]]
    caption: str


def _choose(figures: dict[str, Figure], *names: str) -> dict[str, Figure]:
    return {name: figures[name] for name in names if name in figures}


PICTURES = (
    Picture(
        "reach",
        "accuracy",
        draw_reach,
        "An estimator that follows a loss back for k steps leaves the line at 1 where "
        "the sequence becomes longer than k. Dotted, lighter curves are of estimators "
        "that draw: their noise moves them off the line as well.",
    ),
    Picture(
        "alignment",
        "accuracy",
        draw_alignment,
        "Dark blue squares are estimators that would change the weights in the same "
        "direction; the first row compares each with the exact gradient.",
    ),
    Picture(
        "bias_variance",
        "accuracy",
        draw_bias_and_variance,
        "The lower a point, the less the mean of the estimates errs; the further left, "
        "the fewer estimates have to be averaged; an arrow marks a bias that the noise "
        "of the draws hides, drawn at twice the noise floor. Estimators whose variance "
        "is not known are not shown.",
    ),
    Picture(
        "scaling",
        "costs",
        draw_scaling,
        "A flat line costs the same for any length of the segment; one as steep as the "
        "grey line costs in proportion to it.",
    ),
    Picture(
        "races",
        "races",
        draw_races,
        "Lower is better: to the left at the same number of updates, to the right "
        "after the same time, in which a cheap estimator makes more updates.",
    ),
    Picture(
        "advice",
        "lags",
        draw_advice,
        "A truncation after k steps has the cosine that stands above k; the marks are "
        "the least horizons that keep .9 and .99 from there on.",
    ),
    Picture(
        "paths",
        "lags",
        draw_paths,
        "Each bar is a share of the exact gradient; bars below zero work against it; "
        "a truncation after k steps loses all that stands at lag k and beyond.",
    ),
    Picture(
        "flow",
        "flow",
        lambda values, looks: _choose(draw_flow(values), "flow", "jacobians"),
        "Where a curve falls towards early steps, or towards large k, the gradient "
        "vanishes on its way back, and where it rises the gradient explodes.",
    ),
    Picture(
        "gates",
        "flow",
        lambda values, looks: _choose(draw_flow(values), "gates", "terms"),
        "A gate that is nearly closed or open passes hardly any gradient to its own "
        "weights; the longer the bar of a term, the more of a gradient goes that way.",
    ),
    Picture(
        "vanishing",
        "vanishing",
        lambda values, looks: draw_vanishing(values),
        "A straight line down is a gradient that fades by the same factor at every "
        "step; a flat one is a gradient that arrives.",
    ),
)


def draw(material: Material) -> Iterator[tuple[Picture, dict[str, Figure]]]:
    """Yields each picture of the parts that are there, with its figures by name."""
    looks = make_looks(material.labels)
    for picture in PICTURES:
        if picture.part in material.parts:
            drawn = picture.draw(material.parts[picture.part], looks)
            yield picture, drawn if isinstance(drawn, dict) else {picture.name: drawn}
