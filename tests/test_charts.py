"""Curves of a run as HTML: they grow, survive what is not finite, and have few ticks."""

from dataclasses import replace

import pytest

from pirf_app.training.events import TuningStep
from pirf_app.ui.drawing.charts import Chart, Curve, Scale, draw, scale_of, smooth, ticks, updates_axis
from pirf_app.ui.train.history import History, charts


def history_of(count: int, worse: bool = False) -> History:
    history = History("a <run>", count, {"residual": [("floor", 1e-9), ("bundled PIRF", 0.5)]})
    for k in range(count + 1):
        held = (1.5 - 0.01 * k, 0.01) if k % 5 == 0 else (None, None)
        step = TuningStep(k, count, 2 - 0.01 * k, 1.6, 0.0, 1e-4 * k, 1e-3, 0.1 * k, *held)
        history.add(replace(step, warning="residual falls while forward-solve error rises") if worse else step)
    return history


def test_curves_grow_and_are_safe_to_show():
    few, many = (charts(history_of(count)) for count in (5, 50))
    assert few.count('class="chart"') == 4
    assert len(many) > len(few)
    assert len(charts(history_of(5000))) < 120_000
    assert "<run>" not in charts(history_of(5), history_of(9))
    assert "floor 1e-09 ↓" in few
    stopped = replace(history_of(10), updates=4000)  # laid over, it counts as far as it came
    assert ">40<" in charts(history_of(40), stopped)
    assert ">4000<" not in charts(history_of(40), stopped)


def test_a_chart_survives_what_is_not_finite():
    nothing = Chart("x", "", [Curve("a", [], [], "raw")], log=True)
    assert "<svg" in draw(nothing, updates_axis(0))
    odd = Chart("x", "", [Curve("a", [1, 2, 3, 4], [float("nan"), None, 1e30, float("inf")], "raw")])
    assert "nan" not in draw(odd, updates_axis(4)).lower()
    assert smooth([1.0, float("nan"), 1.0])[1] == 1.0
    assert scale_of(odd).high > 1e30


@pytest.mark.parametrize(("low", "high"), [(1e-5, 3.0), (0.9, 1.1), (2.0, 30.0), (1e-9, 1e9)])
def test_ticks_are_few_and_within_the_scale(low, high):
    found = ticks(Scale(low, high, True))
    assert 1 <= len(found) <= 10
    assert all(low <= t <= high for t in found)
