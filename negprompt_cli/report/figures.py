"""The pictures of a report. Each has one panel, so that a page can stack them in a narrow window.

Colours are Okabe and Ito's palette, which colour-blind people can distinguish; lines also have different styles. The first
colour is always ID. matplotlib's object interface is used, which needs no display and no global state. Picture files have
their own legend and a white background. On a page, the pictures of a group share one legend and use the colours of the page
(`inline_svg`).
"""

import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from negprompt_cli.engine.metrics.detection import AcceptanceCurve, area_under_roc
from negprompt_cli.report.page import Mark
from negprompt_cli.wording import percent

FloatArray = npt.NDArray[np.float64]
Groups = Sequence[tuple[str, FloatArray]]
"""Named sets of values (n,); the first is ID."""

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
NEGATIVE = 4
"""Index of the colour of negative prompts."""
STYLES = ("-", "--", "-.", ":")
INK, QUIET, PAPER = "#000000", "#666666", "#ffffff"
BINS = 48
CURVE_POINTS = 1500
"""Largest number of points drawn for a ROC curve; more cannot be seen, and would add megabytes to a page."""
SIZE = (4.6, 3.2)
WIDE = (6.0, 2.9)
MAP_SIZE = (7.0, 5.6)
MAP_NAMES = 20
"""Largest number of classes with names on a map."""
DPI = 180
STYLE: dict[Any, Any] = {
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11.5,
    "legend.fontsize": 9,
    "legend.frameon": False,
    # Text stays text in SVG and PDF, and the same figure gives the same bytes.
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "svg.hashsalt": "negprompt",
}


@dataclass(frozen=True, eq=False)
class Cloud:
    """Named points (n, 2) on a map, of one `kind`. `labels`: names to write on the map, with their points."""

    name: str
    kind: str
    points: FloatArray
    labels: Sequence[tuple[str, tuple[float, float]]] = ()


def line_marks(names: Sequence[str]) -> list[Mark]:
    """The legend of lines drawn in this order. Neighbours differ in colour and style, and 28 lines differ."""
    return [Mark(name, i % len(COLOURS), STYLES[i % len(STYLES)]) for i, name in enumerate(names)]


def cloud_marks(clouds: Sequence[Cloud]) -> list[Mark]:
    """The legend of a map."""
    markers = {"positive": ("^", 6), "negative": ("v", NEGATIVE)}
    images = iter(range(len(clouds)))
    return [
        Mark(cloud.name, markers[cloud.kind][1], marker=markers[cloud.kind][0])
        if cloud.kind in markers
        else Mark(cloud.name, next(images) % len(COLOURS), marker="o")
        for cloud in clouds
    ]


def distributions(
    title: str,
    axis: str,
    groups: Groups,
    *,
    threshold: float | None = None,
    size: tuple[float, float] = SIZE,
) -> Figure:
    """Densities of groups over one axis, with ID filled, and a vertical line at a threshold if there is one."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        everything = np.concatenate([values for _, values in groups])
        # Without this, a few extreme values would squeeze the others into one bin.
        low, high = np.quantile(everything, [0.001, 0.999])
        edges = np.linspace(low, high if high > low else low + 1e-9, BINS + 1)
        for i, mark in enumerate(line_marks([name for name, _ in groups])):
            heights, _ = np.histogram(np.clip(groups[i][1], edges[0], edges[-1]), edges, density=True)
            colour, filled = COLOURS[mark.colour], i == 0
            if filled:
                axes.stairs(heights, edges, fill=True, color=colour, alpha=0.35, linewidth=0, label=mark.text)
            label = None if filled else mark.text
            axes.stairs(heights, edges, color=colour, linestyle=mark.style, linewidth=1.8, label=label)
        if threshold is not None:
            axes.axvline(threshold, color=QUIET, linewidth=1.4, label="95 % of ID accepted")
        axes.set_title(title)
        axes.set_xlabel(axis)
        axes.set_ylabel("density")
        axes.set_yticks([])
        axes.locator_params(axis="x", nbins=5)
        axes.ticklabel_format(axis="x", useOffset=False)
        _legend(figure, len(groups) + (threshold is not None))
    return figure


def roc(title: str, curves: Mapping[str, AcceptanceCurve], *, lowest: float) -> Figure:
    """ROC curves, ID positive, with the AUROC of each in the legend; the share of OOD accepted on a logarithmic axis.

    Args:
        title: the title above the picture.
        curves: the curves by name.
        lowest: left end of the axis, in (0, 1): the smallest share above 0 that this number of OOD images allows.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(SIZE[0], SIZE[1] + 0.19 * ((len(curves) + 1) // 2)), layout="constrained")
        axes = figure.subplots()
        marks = line_marks([f"{name} {percent(area_under_roc(curve))}" for name, curve in curves.items()])
        for curve, mark in zip(curves.values(), marks, strict=True):
            # log(0) cannot be drawn, so the curve begins with the ID images that are accepted before any OOD image.
            begin = int(np.searchsorted(curve.fallout, 0, side="right")) - 1
            x, y = _thinned(np.maximum(curve.fallout[begin:], lowest), curve.recall[begin:])
            axes.plot(x, y, color=COLOURS[mark.colour], linestyle=mark.style, label=mark.text)
        chance = np.geomspace(lowest, 1, 60)
        axes.plot(chance, chance, color=QUIET, linewidth=0.8)
        axes.axhline(0.95, color=QUIET, linewidth=0.8, linestyle=(0, (2, 2)))
        axes.set_title(title)
        axes.set_xlabel("OOD accepted (false positive rate)")
        axes.set_ylabel("ID accepted")
        axes.set_xscale("log")
        axes.set_xlim(lowest, 1)
        axes.set_ylim(0, 1.005)
        _legend(figure, len(curves))
    return figure


def _thinned(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """About `CURVE_POINTS` points of a rising curve, with its ends, evenly spaced along log x and along y."""
    if len(x) <= CURVE_POINTS:
        return x, y
    half = CURVE_POINTS // 2
    across = np.searchsorted(x, np.geomspace(x[0], x[-1], half))
    along = np.searchsorted(y, np.linspace(y[0], y[-1], half))
    kept = np.unique(np.clip(np.concatenate([across, along, [0, len(x) - 1]]), 0, len(x) - 1))
    return x[kept], y[kept]


def feature_map(title: str, clouds: Sequence[Cloud]) -> Figure:
    """A map of images and prompts in two dimensions without units.

    'id' and 'ood' images are dots. 'positive' prompts are triangles that point up, and 'negative' prompts point down.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=MAP_SIZE, layout="constrained")
        axes = figure.subplots()
        for cloud, mark in zip(clouds, cloud_marks(clouds), strict=True):
            x, y = cloud.points.T
            if mark.marker == "o":
                axes.scatter(x, y, s=14, color=COLOURS[mark.colour], alpha=0.6, linewidths=0, label=cloud.name)
            else:
                face = PAPER if cloud.kind == "positive" else COLOURS[mark.colour]
                axes.scatter(
                    x, y, s=42, marker=mark.marker, facecolor=face, edgecolor=INK, linewidths=0.8, label=cloud.name
                )
        axes.set_title(title)
        axes.set_axis_off()
        _legend(figure, len(clouds), scale=1.4)
        _write_names(figure, clouds)
    return figure


def _write_names(figure: Figure, clouds: Sequence[Cloud]) -> None:
    """Write names above, below or beside their points: the first place that covers no prompt and no earlier name."""
    axes = figure.axes[0]
    figure.draw_without_rendering()
    prompts = [axes.transData.transform(c.points) for c in clouds if c.kind in ("positive", "negative")]
    taken = [Bbox.from_extents(*(point - 4), *(point + 4)) for point in np.concatenate(prompts)] if prompts else []
    places = (
        (0, 12, "center", "bottom"),
        (0, -12, "center", "top"),
        (14, 0, "left", "center"),
        (-14, 0, "right", "center"),
    )
    for cloud in clouds:
        for text, point in cloud.labels:
            note = axes.annotate(text, point, xytext=(0, 0), textcoords="offset points", fontweight="bold")
            for x, y, across, along in (*places, places[0]):
                note.set(position=(x, y), ha=across, va=along)
                box = note.get_window_extent()
                if not any(box.overlaps(other) for other in taken):
                    break
            taken.append(box)


def render(figure: Figure, form: str) -> bytes:
    """A figure as the bytes of a 'png', 'svg' or 'pdf' file; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    metadata = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[form]
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, dpi=DPI, format=form, metadata=metadata)
    # The layout is computed once for all formats, because that takes as long as drawing.
    figure.set_layout_engine("none")
    return buffer.getvalue()


def inline_svg(figure: Figure, key: str, alt: str) -> str:
    """A figure as an SVG element for a page, without legend and title, and in the colours of the page.

    Args:
        figure: the figure; its legend and title are removed.
        key: a part of the ids inside the element, which must differ between the figures of a page.
        alt: a description for people who cannot see it.
    """
    for legend in list(figure.legends):
        legend.remove()
    figure.axes[0].set_title("")
    # The axes get the space of the legend and the title.
    figure.set_layout_engine("constrained")
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue().decode("utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # As wide as the page, up to the width at which letters are as large as those of the page.
    text = re.sub(r' width="([\d.]+pt)" height="[\d.]+pt"', r' style="max-width: calc(1.15 * \1)"', text, count=1)
    # HTML needs no namespaces for SVG.
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{key}-", text)
    variables = {colour.lower(): f"var(--s{i})" for i, colour in enumerate(COLOURS)}
    variables |= {QUIET: "var(--quiet)", PAPER: "var(--paper)"}
    text = re.sub(r"#[0-9a-f]{6}\b", lambda found: variables.get(found[0], found[0]), text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(alt)}" ', 1)


def _legend(figure: Figure, entries: int, *, scale: float = 1.0) -> None:
    """One legend below the axes, where it covers nothing, in two columns if there are several entries."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=2 if entries > 1 else 1, markerscale=scale, handlelength=1.8
    )
