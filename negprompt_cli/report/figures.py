"""The pictures of a report, one panel each, so that a page can stack them in a narrow window.

Colours are Okabe and Ito's palette, which colour-blind people can tell apart, with line styles besides; the first colour
is always ID. Drawn with matplotlib's object interface, so that no display and no global state is touched.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from negprompt_cli.wording import percent

FloatArray = npt.NDArray[np.float64]

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
STYLES = ("-", "--", "-.", ":")
BINS = 48
SIZE = (4.6, 3.5)
DPI = 180
STYLE: dict[Any, Any] = {
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11.5,
    "legend.fontsize": 9,
    "legend.frameon": False,
    # Text stays text in SVG and PDF, and the same figure is the same file.
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "svg.hashsalt": "negprompt",
}


@dataclass(frozen=True, eq=False)
class Group:
    """A named set of values (n,); the first group of a picture is ID."""

    name: str
    values: FloatArray


@dataclass(frozen=True, eq=False)
class Curve:
    """A ROC curve: share of OOD accepted against share of ID accepted, both (m,) and rising."""

    name: str
    ood_accepted: FloatArray
    id_accepted: FloatArray
    auroc: float


@dataclass(frozen=True, eq=False)
class Cloud:
    """Named points (n, 2) on a map; `kind` is what they are."""

    name: str
    kind: str
    points: FloatArray


def distributions(title: str, axis: str, groups: Sequence[Group], *, threshold: float | None = None) -> Figure:
    """Densities of groups over one axis, ID filled; a vertical line at a threshold, where there is one."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        everything = np.concatenate([group.values for group in groups])
        # A few extreme values must not squeeze the rest into one bin.
        low, high = np.quantile(everything, [0.001, 0.999])
        edges = np.linspace(low, high if high > low else low + 1e-9, BINS + 1).tolist()
        for i, group in enumerate(groups):
            inside = np.clip(group.values, edges[0], edges[-1])
            look = _look(i)
            if i == 0:
                axes.hist(inside, edges, density=True, color=look.colour, alpha=0.35, label=group.name)
            axes.hist(
                inside,
                edges,
                density=True,
                histtype="step",
                color=look.colour,
                linestyle=look.style,
                linewidth=1.8,
                label=None if i == 0 else group.name,
            )
        if threshold is not None:
            axes.axvline(threshold, color="#666666", linewidth=1.1, label="95 % of ID accepted")
        axes.set_title(title)
        axes.set_xlabel(axis)
        axes.set_ylabel("density")
        axes.set_yticks([])
        axes.locator_params(axis="x", nbins=5)
        axes.ticklabel_format(axis="x", useOffset=False)
        _legend(figure, len(groups) + (threshold is not None))
    return figure


def roc(title: str, curves: Sequence[Curve]) -> Figure:
    """ROC curves, ID positive, with the AUROC of each in the legend."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(SIZE[0], SIZE[1] + 0.19 * ((len(curves) + 1) // 2)), layout="constrained")
        axes = figure.subplots()
        for i, curve in enumerate(curves):
            look = _look(i)
            label = f"{curve.name} {percent(curve.auroc)}"
            axes.plot(curve.ood_accepted, curve.id_accepted, color=look.colour, linestyle=look.style, label=label)
        axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
        axes.axhline(0.95, color="#999999", linewidth=0.8, linestyle=(0, (2, 2)))
        axes.set_title(title)
        axes.set_xlabel("OOD accepted (false positive rate)")
        axes.set_ylabel("ID accepted (true positive rate)")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.005)
        _legend(figure, len(curves))
    return figure


def feature_map(title: str, clouds: Sequence[Cloud]) -> Figure:
    """Images and prompts on a map of two dimensions without units.

    Kinds of cloud: 'id' and 'ood' images are dots, 'positive' prompts upright and 'negative' ones upside-down triangles.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(SIZE[0] + 0.6, SIZE[1] + 1.4), layout="constrained")
        axes = figure.subplots()
        images = 0
        for cloud in clouds:
            x, y = cloud.points.T
            if cloud.kind in ("id", "ood"):
                axes.scatter(x, y, s=7, color=_look(images).colour, alpha=0.55, linewidths=0, label=cloud.name)
                images += 1
            else:
                positive = cloud.kind == "positive"
                face, marker = ("#FFFFFF", "^") if positive else ("#D55E00", "v")
                axes.scatter(
                    x, y, s=26, marker=marker, facecolor=face, edgecolor="#000000", linewidths=0.7, label=cloud.name
                )
        axes.set_title(title)
        axes.set_xticks([])
        axes.set_yticks([])
        _legend(figure, len(clouds), scale=1.6)
    return figure


def render(figure: Figure, form: str) -> bytes:
    """A figure as the bytes of a 'png', 'svg' or 'pdf' file, the same for the same figure."""
    buffer = io.BytesIO()
    metadata = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[form]
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, dpi=DPI, format=form, metadata=metadata)
    return buffer.getvalue()


@dataclass(frozen=True)
class _Look:
    colour: str
    style: str


def _look(place: int) -> _Look:
    """Colour and line style number `place`: both in turn, so that 28 lines differ and neighbours differ in both."""
    return _Look(COLOURS[place % len(COLOURS)], STYLES[place % len(STYLES)])


def _legend(figure: Figure, entries: int, *, scale: float = 1.0) -> None:
    """One legend below the axes, where it covers nothing, in two columns as soon as there are several entries."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=2 if entries > 1 else 1, markerscale=scale, handlelength=1.8
    )
