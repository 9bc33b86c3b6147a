"""Curves as HTML: lines in an SVG that stretches, text beside it that does not, colours of the page's theme.

Light enough to be sent anew twice a second, where a Plotly figure would be mounted again each time.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

SIZE = 1000  # units of the picture on either side; the page stretches it to any size
MOST_POINTS = 300  # of a curve; more cannot be told apart
NEAR = 4  # a reference line this many times away from the curves still decides the scale


@dataclass(frozen=True)
class Curve:
    """Values `y` over `x`, None or not finite where there is none. `look` is "raw", "smooth" or "held" (points with
    lines between them); `run` says by its colour whose curve it is, from 0 to 4."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    look: str
    run: int = 0

    def points(self) -> list[tuple[float, float]]:
        found = [(x, y) for x, y in zip(self.x, self.y, strict=True) if y is not None and math.isfinite(y)]
        stride = math.ceil(len(found) / MOST_POINTS)
        return found if stride <= 1 else found[:-1:stride] + found[-1:]


@dataclass(frozen=True)
class Chart:
    """One panel: `now` is the figure beside its title, `references` are horizontal lines (name, value)."""

    title: str
    now: str
    curves: Sequence[Curve]
    references: Sequence[tuple[str, float]] = ()
    log: bool = False
    write: Callable[[float], str] = "{:.3g}".format


def smooth(values: Sequence[float], keep: float = 0.9) -> list[float]:
    """Running mean that forgets: each value counts `keep` times as much as the one after it."""
    total, weight, out = 0.0, 0.0, []
    for value in values:
        if math.isfinite(value):
            total, weight = keep * total + value, keep * weight + 1
        out.append(total / weight if weight else math.nan)
    return out


@dataclass(frozen=True)
class Scale:
    low: float
    high: float
    log: bool

    def at(self, value: float) -> float:
        """Share of the way from low to high."""
        if self.log:
            value, low, high = (math.log(max(v, 1e-300)) for v in (value, self.low, self.high))
        else:
            low, high = self.low, self.high
        return (value - low) / (high - low)

    def holds(self, value: float) -> bool:
        return -0.001 <= self.at(value) <= 1.001


@dataclass(frozen=True)
class Axis:
    """What runs from left to right: its name, that of one value of it, its scale, and values to mark."""

    name: str
    one: str
    scale: Scale
    marks: Sequence[float]


def updates_axis(count: int) -> Axis:
    return Axis("updates", "update", Scale(0, max(count, 1), False), (0, count))


def scale_of(chart: Chart) -> Scale:
    """From the lowest to the highest value, reference lines that are near included; single spikes of raw curves not."""
    values: list[float] = []
    for curve in chart.curves:
        found = sorted(y for _, y in curve.points() if y > 0 or not chart.log)
        cut = len(found) // 50 if curve.look == "raw" else 0
        values += found[cut : len(found) - cut]
    if not values:
        return Scale(0.1, 1, True) if chart.log else Scale(0, 1, False)
    low, high = min(values), max(values)
    for _, value in chart.references:
        if value > 0 and low / NEAR <= value <= high * NEAR:
            low, high = min(low, value), max(high, value)
    if chart.log:
        pad = max((high / low) ** 0.08, 1.03)
        return Scale(low / pad, high * pad, True)
    pad = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return Scale(low - pad if low < 0 else 0.0, high + pad, False)


def steps(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from low to high, about `count` of them."""
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def ticks(scale: Scale) -> list[float]:
    if not scale.log:
        return steps(scale.low, scale.high)
    if scale.high / scale.low < 5:
        return [t for t in steps(scale.low, scale.high) if t > 0]
    first, last = math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high))
    factors = (1, 2, 5) if last - first <= 2 else (1,)
    stride = math.ceil((last - first) / 5)
    found = [m * 10.0**k for k in range(first, last + 1, stride) for m in factors]
    return [t for t in found if scale.low <= t <= scale.high]


def path(curve: Curve, x: Scale, y: Scale) -> str:
    """The curve's SVG elements. A point is a line of no length with round ends: it stays round when stretched."""
    far = 20.0  # well outside of the picture, so that what leaves the scale leaves the panel
    places = [(SIZE * x.at(a), SIZE * (1 - min(max(y.at(b), -far), far))) for a, b in curve.points()]
    if not places:
        return ""
    line = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
    kind = f"{curve.look} run{curve.run}"
    out = f'<path class="{kind}" data-name="{escape(curve.name)}" d="{line}"/>'
    if curve.look == "held" or len(places) == 1:
        dots = "".join(f"M{a:.1f} {b:.1f}h0" for a, b in places)
        out += f'<path class="dots {kind}" d="{dots}"/>'
    return out


def draw(chart: Chart, axis: Axis) -> str:
    """One panel."""
    x, y = axis.scale, scale_of(chart)
    marks = [(100 * (1 - y.at(t)), chart.write(t)) for t in ticks(y)]
    grid = "".join(f'<path class="rule" d="M0 {10 * top:.1f}H{SIZE}"/>' for top, _ in marks)
    labels = "".join(f'<span style="top:{top:.1f}%">{text}</span>' for top, text in marks)
    lines, names, below = "", "", []
    for name, value in chart.references:
        words = f"{escape(name)} {chart.write(value)}"
        if y.holds(value):
            top = 1 - y.at(value)
            lines += f'<path class="reference" d="M0 {SIZE * top:.1f}H{SIZE}"/>'
            names += f'<span class="at" style="top:{100 * top:.1f}%">{words}</span>'
        else:
            below.append(f"{words} {'↓' if value < y.low else '↑'}")
    curves = "".join(path(curve, x, y) for curve in chart.curves)
    scales = "".join(
        f' data-{name}-low="{s.low:.6g}" data-{name}-high="{s.high:.6g}" data-{name}-log="{int(s.log)}"'
        for name, s in (("x", x), ("y", y))
    )
    notes = " · ".join([axis.name, *below])
    under = "".join(f'<span style="left:{100 * x.at(mark):.1f}%">{mark:g}</span>' for mark in axis.marks)
    return (
        f'<figure class="chart" data-one="{axis.one}"{scales}>'
        f"<figcaption><b>{escape(chart.title)}</b><strong>{escape(chart.now)}</strong></figcaption>"
        f'<div class="plot"><div class="marks">{labels}</div>'
        f'<svg viewBox="0 0 {SIZE} {SIZE}" preserveAspectRatio="none" role="img" aria-label="{escape(chart.title)}">'
        f"{grid}{lines}{curves}</svg>{names}<i></i><output></output></div>"
        f'<div class="under{" marked" if len(axis.marks) > 2 else ""}">{under}<em>{notes}</em></div></figure>'
    )


# Reads the curves back from the picture, so that nothing is sent twice. A new picture wipes the marks on the old one.
HOVER = """
const plots = () => [...element.querySelectorAll(".plot")];
const clear = (plot) => plot.classList.remove("read");
let last = null;
const show = (plot, clientX) => {
  const data = plot.parentElement.dataset, box = plot.querySelector("svg").getBoundingClientRect();
  const wanted = 1000 * (clientX - box.left) / box.width;
  const along = (name) => {
    const [low, high, log] = ["Low", "High", "Log"].map((part) => Number(data[name + part]));
    return (share) => log ? low * Math.pow(high / low, share) : low + (high - low) * share;
  };
  const x = along("x"), y = along("y"), value = (place) => y(1 - place / 1000);
  const nearest = (points, x) => points.reduce((a, b) => Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a);
  const curves = [...plot.querySelectorAll("path[data-name]")].map((path) =>
    [path.dataset.name, path.getAttribute("d").slice(1).split("L").map((p) => p.split(" ").map(Number))]);
  if (!curves.length) return clear(plot);
  const [at] = nearest(curves.flatMap(([, points]) => points), wanted);
  const close = ([, [left]]) => Math.abs(left - at) < 60;
  const found = curves.map(([name, points]) => [name, nearest(points, at)]).filter(close);
  const lines = found.map(([name, [, place]]) => `${name}  ${Number(value(place).toPrecision(3))}`);
  const output = plot.querySelector("output");
  output.textContent = [`${data.one} ${Math.round(x(at / 1000))}`, ...lines].join("\\n");
  output.classList.toggle("left", at > 550);
  plot.style.setProperty("--at", `${at / 10}%`);
  plot.classList.add("read");
};
element.addEventListener("pointermove", (event) => {
  const plot = event.target.closest(".plot");
  plots().filter((other) => other !== plot).forEach(clear);
  last = plot && [plots().indexOf(plot), event.clientX];
  if (plot) show(plot, event.clientX);
});
element.addEventListener("pointerleave", () => { last = null; plots().forEach(clear); });
watch("value", () => { const plot = last && plots()[last[0]]; if (plot) show(plot, last[1]); });
"""


def key(look: str, text: str) -> str:
    dot = f'<path class="dots {look}" d="M15 6h0"/>' if look.startswith("held") else ""
    return f'<span><svg viewBox="0 0 30 12"><path class="{look}" d="M2 6H28"/>{dot}</svg>{escape(text)}</span>'
