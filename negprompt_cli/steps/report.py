"""A report of evaluated runs: one HTML page that needs no network, and its pictures as files.

Scores are computed again from the recorded configuration and the artifact, whose digest must still be the recorded one,
because an evaluation keeps figures and not images. Sections of a run: figures, distributions of scores, of similarities to
positive and negative prompts (the paper's Figure 3), ROC curves, a map of images and prompts (its Figure 4), tables by
class, and the images that the score gets most wrong. Leaves out: anything that was not evaluated.
"""

import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from negprompt_cli.config import Config, PixelsConfig, load_config
from negprompt_cli.data.encoding.images import open_rgb
from negprompt_cli.data.files.atomic import atomic_write_bytes, atomic_write_text
from negprompt_cli.data.results.evaluations import EvaluationDocument, below_chance, evaluation_path, load_evaluation
from negprompt_cli.engine.metrics.calibration import accepting_threshold
from negprompt_cli.engine.metrics.detection import acceptance_curve, area_under_roc
from negprompt_cli.engine.scores import find_score
from negprompt_cli.errors import UsageError, did_you_mean
from negprompt_cli.progress import Progress
from negprompt_cli.report import figures
from negprompt_cli.report.page import Gallery, Picture, PictureGroup, Section, Table, Thumbnail, render_page
from negprompt_cli.steps.compare import compare_runs, run_facts, run_labels
from negprompt_cli.steps.shared.artifact_file import ArtifactFile
from negprompt_cli.steps.shared.comparison import caption, figures_table, remarks
from negprompt_cli.steps.shared.measure import Measured, Scored, measure
from negprompt_cli.steps.shared.outputs import refuse_existing
from negprompt_cli.steps.shared.workbench import Workbench
from negprompt_cli.wording import file_name, percent, texts

MapKind = Literal["tsne", "pca"]
FORMATS = ("png", "svg", "pdf")
PAGE = "index.html"
MAP_IMAGES = 600
"""Images of one set on the map, prompts of one kind likewise: more would hide each other."""
THUMBNAILS = 12
THUMBNAIL_SIDE = 112
RECALL = 0.95
TALL_ROWS = 24
"""Rows above which a table scrolls in a box of its own."""


@dataclass(frozen=True)
class ReportOptions:
    """What goes into a report.

    `score`: the score of tables by class and of thumbnails; None takes negprompt where it was evaluated, else the first.
    `scores`: the scores of the pictures; None takes all that were evaluated. `formats`: of the picture files.
    """

    score: str | None = None
    scores: tuple[str, ...] | None = None
    formats: tuple[str, ...] = FORMATS
    map_kind: MapKind = "tsne"
    device: str | None = None
    data_root: str | None = None


@dataclass(frozen=True)
class _Run:
    """An evaluated run: its document, and the configuration and artifact to compute its scores from again."""

    label: str
    document: EvaluationDocument
    config: Config
    artifact: ArtifactFile


def run_report(
    runs: Sequence[Path],
    out: Path,
    options: ReportOptions,
    *,
    overwrite: bool,
    progress: Progress,
    bench: Workbench | None = None,
) -> Path:
    """Write the report of evaluated runs into the folder `out`: index.html, and figures/ with every picture.

    Args:
        runs: run folders, or evaluation documents.
        out: the folder to write.
        options: what goes in.
        overwrite: whether a report that is there may be replaced.
        progress: told how it goes.
        bench: a workbench to share the model with other steps.

    Returns:
        The path of the page.

    Raises:
        UsageError: a run is not evaluated, its artifact has changed, data are not there, or an option is wrong.
        NegPromptError: an image is broken, the disk is full.
    """
    for form in options.formats:
        if form not in FORMATS:
            raise UsageError(f"Unknown picture format {form!r}.{did_you_mean(form, FORMATS)}")
    page = out / PAGE
    refuse_existing(page, overwrite=overwrite)
    paths = [evaluation_path(run) for run in runs]
    found = [_find(path, label, options) for path, label in zip(paths, run_labels(paths), strict=True)]
    sections = []
    for number, run in enumerate(found, start=1):
        progress.say(f"report of {run.label}")
        bench = bench.with_config(run.config) if bench else Workbench(run.config, progress)
        sections.append(_section(run, f"run{number}", bench, options, out))
    atomic_write_text(page, render_page(_joint(runs), sections))
    return page


def _find(path: Path, label: str, options: ReportOptions) -> _Run:
    """A run's document, configuration and artifact; for several seeds those of the first."""
    document = load_evaluation(path)
    file = path.with_name(f"{path.stem}.config.yaml")
    if not file.is_file():
        raise UsageError(
            f"{path} has no {file.name} beside it, which a report computes the scores from. Evaluate again."
        )
    flags: dict[str, Any] = {}
    if options.device:
        flags["compute.device"] = options.device
    if options.data_root:
        flags["data.root"] = options.data_root
    recorded = document.seeds[0] if document.seeds else document.prompts
    prompts = Path(recorded.path)
    if not prompts.is_file():
        # A run folder that was moved still holds its artifact.
        parent = path.parent / f"seed-{recorded.seed}" if document.seeds else path.parent
        prompts = parent / prompts.name
    artifact = ArtifactFile(prompts)
    if artifact.prompts.sha256 != recorded.sha256:
        raise UsageError(f"{prompts} has changed since {path} was written. Evaluate it again, then report.")
    scores = document.scores
    for name in (*(options.scores or ()), *([options.score] if options.score else ())):
        if name not in scores:
            raise UsageError(f"{path} was not evaluated with score {name!r}.{did_you_mean(name, scores)}")
    main = options.score or ("negprompt" if "negprompt" in scores else scores[0])
    # The main score comes first in every picture.
    flags["evaluate.scores"] = [main, *(n for n in options.scores or scores if n != main)]
    flags["evaluate.ci"] = False
    return _Run(label, document, load_config(str(file), flags=flags), artifact)


def _joint(runs: Sequence[Path]) -> Table | None:
    """The table of all runs, or why there is none."""
    if len(runs) == 1:
        return None
    try:
        comparison = compare_runs(runs)
    except UsageError as error:
        return Table("All runs", [], [], note=f"No joint table: {error}")
    header, rows, _ = figures_table(comparison)
    return Table("All runs", header, texts(rows), note=" ".join([caption(comparison), *remarks(comparison)]), names=2)


def _section(run: _Run, key: str, bench: Workbench, options: ReportOptions, out: Path) -> Section:
    """Everything about one run; writes its pictures."""
    measured = measure(bench, run.artifact)
    groups = _pictures(measured, options, bench.config.seed, out / "figures", "" if key == "run1" else f"{key}-")
    document, main = run.document, measured.scores[0]
    facts = [
        ("ID images", f"{document.id.name}: {document.id.images} images of {document.id.classes} classes"),
        ("ID accuracy", f"{percent(document.id.accuracy)} %"),
        *((name, value) for name, value in run_facts(document).items() if value != "-"),
        ("artifact", f"{run.artifact.path} (sha256 {measured.prompts.sha256[:16]}…)"),
        ("weights", f"sha256 {document.model.weights_sha256[:16]}…"),
        *((f"score {s.name}", f"{s.title}: {s.formula}. {s.paper}.") for s in map(find_score, measured.scores)),
        ("evaluated with", ", ".join(f"{name} {version}" for name, version in document.versions.items()) or "-"),
    ]
    if document.seeds:
        facts.append(("shown below", f"pictures, tables by class and images of seed {document.seeds[0].seed}"))
    header, rows = document.table()
    return Section(
        key=key,
        title=f"{run.label} on {document.id.name}",
        limited=document.limited,
        facts=facts,
        results=Table(
            f"AUROC / FPR95{document.spread}", header, texts(rows), note=str(below_chance(document.rows) or "")
        ),
        pictures=groups,
        tables=[id_class_table(measured, main), *ood_class_tables(measured, main)],
        galleries=galleries(measured, main),
    )


def _pictures(measured: Measured, options: ReportOptions, seed: int, folder: Path, prefix: str) -> list[PictureGroup]:
    """Draw every picture, write its files, and keep it as PNG for the page."""

    def keep(name: str, alt: str, figure: Figure) -> Picture:
        png = figures.render(figure, "png")
        for form in options.formats:
            data = png if form == "png" else figures.render(figure, form)
            atomic_write_bytes(folder / f"{prefix}{name}.{form}", data)
        return Picture(alt, png, [f"figures/{prefix}{name}.{form}" for form in options.formats])

    sets = _sets(measured)
    groups = [
        PictureGroup(
            "Scores of ID and OOD images",
            "Densities of each score; ID filled. The grey line is the threshold that accepts 95 % of ID: the share of an "
            "OOD set to the right of it is its FPR95.",
            [
                keep(
                    f"scores-{score}",
                    f"Distributions of {score} on ID and OOD images",
                    figures.distributions(
                        score,
                        "score (higher = more ID)",
                        [figures.Group(label, scored.table.scores[score]) for label, scored in sets],
                        threshold=accepting_threshold(measured.id_set.table.scores[score], RECALL),
                    ),
                )
                for score in measured.scores
            ],
        ),
        PictureGroup(
            "Similarity to prompts",
            "Cosines of images with the prompts (the paper's Figure 3): the nearest positive prompt, the nearest negative "
            "prompt, and the mean over all negative prompts.",
            [
                keep(name, title, figures.distributions(title, "cosine", values))
                for name, title, values in _similarities(measured)
            ],
        ),
        PictureGroup(
            "ROC curves",
            "ID positive; the dotted line is 95 % of ID accepted. The legend gives AUROC in per cent.",
            [
                keep(
                    f"roc-{file_name(ood.name)}",
                    f"ROC curves on {ood.name}",
                    figures.roc(ood.name, _curves(measured, ood)),
                )
                for ood in measured.ood_sets
            ],
        ),
    ]
    kind = {"tsne": "t-SNE", "pca": "PCA"}[options.map_kind]
    figure = figures.feature_map(f"{kind} of images and prompts", _clouds(measured, options.map_kind, seed))
    note = (
        f"{kind} of image and prompt features (the paper's Figure 4), at most {MAP_IMAGES} of each. CLIP's images and texts "
        "form two separate cones, so images are centred on the mean image and prompts on the mean positive prompt first."
    )
    groups.append(PictureGroup("Images and prompts", note, [keep("map", f"{kind} of images and prompts", figure)]))
    return groups


def _sets(measured: Measured) -> list[tuple[str, Scored]]:
    """ID and the OOD sets under the names pictures show."""
    return [(f"ID {measured.id_set.name}", measured.id_set), *((f"OOD {s.name}", s) for s in measured.ood_sets)]


def _cosines(scored: Scored, prompts: Tensor) -> Tensor:
    """(N, rows) cosines of a set's images with prompt features of any leading shape."""
    return scored.encoded.features @ prompts.flatten(0, -2).cpu().float().T


def _similarities(measured: Measured) -> Iterator[tuple[str, str, list[figures.Group]]]:
    """File name, title and groups of each distribution of similarities."""

    def groups(prompts: Tensor, reduce: Callable[[Tensor], Tensor]) -> list[figures.Group]:
        return [
            figures.Group(label, reduce(_cosines(scored, prompts)).double().numpy())
            for label, scored in _sets(measured)
        ]

    bank = measured.bank
    yield "similarity-positive", "nearest positive prompt", groups(bank.positives, lambda c: c.amax(dim=1))
    if bank.negatives is not None:
        yield "similarity-negative", "nearest negative prompt", groups(bank.negatives, lambda c: c.amax(dim=1))
        yield "similarity-negative-mean", "mean over negative prompts", groups(bank.negatives, lambda c: c.mean(dim=1))


def _curves(measured: Measured, ood: Scored) -> list[figures.Curve]:
    curves = []
    for score in measured.scores:
        curve = acceptance_curve(measured.id_set.table.scores[score], ood.table.scores[score])
        curves.append(figures.Curve(score, curve.fallout, curve.recall, area_under_roc(curve)))
    return curves


def _clouds(measured: Measured, kind: MapKind, seed: int) -> list[figures.Cloud]:
    """Two-dimensional places of images and prompts."""
    generator = np.random.default_rng(seed)

    def some(features: Tensor) -> npt.NDArray[np.float32]:
        chosen = np.sort(generator.permutation(len(features))[:MAP_IMAGES])
        return features.cpu().float()[torch.from_numpy(chosen)].numpy()

    named = [
        (label, "id" if i == 0 else "ood", some(s.encoded.features)) for i, (label, s) in enumerate(_sets(measured))
    ]
    mean_image = measured.id_set.encoded.features.mean(dim=0).numpy()
    mean_text = measured.bank.positives.mean(dim=0).cpu().float().numpy()
    parts = [(label, role, features - mean_image) for label, role, features in named]
    parts.append(("positive prompts", "positive", some(measured.bank.positives) - mean_text))
    if measured.bank.negatives is not None:
        parts.append(("negative prompts", "negative", some(measured.bank.negatives.flatten(0, 1)) - mean_text))
    places = _project(np.concatenate([features for _, _, features in parts]), kind, seed)
    ends = np.cumsum([len(features) for _, _, features in parts])
    return [
        figures.Cloud(label, role, points)
        for (label, role, _), points in zip(parts, np.split(places, ends[:-1]), strict=True)
    ]


def _project(features: npt.NDArray[np.float32], kind: MapKind, seed: int) -> npt.NDArray[np.float64]:
    """(n, F) features to (n, 2) places: the first principal components, or t-SNE of the first fifty of them."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    wanted = 2 if kind == "pca" else min(50, *features.shape)
    reduced = PCA(n_components=wanted, random_state=seed).fit_transform(features.astype(np.float64))
    if kind == "tsne":
        perplexity = min(30.0, (len(features) - 1) / 3)
        reduced = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced)
    return np.asarray(reduced, dtype=np.float64)


def id_class_table(measured: Measured, score: str) -> Table:
    """A row per ID class, the most rejected first."""
    labels, predictions = measured.id_set.encoded.labels.numpy(), measured.id_set.table.predictions
    values, names = measured.id_set.table.scores[score], measured.prompts.names
    threshold = accepting_threshold(values, RECALL)
    rows = []
    for label in np.unique(labels).tolist():
        mine = labels == label
        wrong = Counter(predictions[mine & (predictions != label)].tolist())
        accuracy, rejected = float((predictions[mine] == label).mean()), float((values[mine] < threshold).mean())
        rows.append((names[label], _most_common(wrong, names), int(mine.sum()), accuracy, rejected))
    note = "Rejected: share of the class's images below the threshold that accepts 95 % of all ID images, per cent."
    return _by_class(f"ID classes by {score}", ("accuracy", "rejected"), rows, note)


def ood_class_tables(measured: Measured, score: str) -> Iterator[Table]:
    """For each OOD set with classes a row per class, the most accepted first."""
    names, id_values = measured.prompts.names, measured.id_set.table.scores[score]
    threshold = accepting_threshold(id_values, RECALL)
    for scored in measured.ood_sets:
        labels = scored.encoded.labels.numpy()
        rows = []
        for label in np.unique(labels[labels >= 0]).tolist():
            mine = labels == label
            values = scored.table.scores[score][mine]
            taken = _most_common(Counter(scored.table.predictions[mine].tolist()), names)
            area = area_under_roc(acceptance_curve(id_values, values))
            own = scored.encoded.images.classes[label].name
            rows.append((own, taken, int(mine.sum()), area, float((values >= threshold).mean())))
        if rows:
            note = "Accepted: share of the class's images at or above the threshold that accepts 95 % of ID, per cent."
            yield _by_class(f"Classes of {scored.name} by {score}", ("AUROC", "accepted"), rows, note)


def _by_class(
    title: str, figures: tuple[str, str], rows: Sequence[tuple[str, str, int, float, float]], note: str
) -> Table:
    """A table of classes: name, what it is taken for, images and two fractions, the highest last one first."""
    cells = [
        [name, taken, str(images), percent(first), percent(last)]
        for name, taken, images, first, last in sorted(rows, key=lambda row: -row[-1])
    ]
    header = ["class", "most often taken for", "images", *figures]
    return Table(title, header, cells, note=note, names=2, tall=len(rows) > TALL_ROWS)


def _most_common(counts: Counter[int], names: Sequence[str]) -> str:
    """The class that is counted most, with its count; a dash where there is none."""
    return next((f"{names[label]} ({count})" for label, count in counts.most_common(1)), "-")


def galleries(measured: Measured, score: str) -> list[Gallery]:
    """The images that the score gets most wrong."""
    made = [
        _gallery(
            measured,
            scored,
            score,
            np.argsort(-scored.table.scores[score], kind="stable"),
            f"Most ID-like images of {scored.name}",
            f"The OOD images with the highest {score} score.",
        )
        for scored in measured.ood_sets
    ]
    least = np.argsort(measured.id_set.table.scores[score], kind="stable")
    made.append(
        _gallery(
            measured,
            measured.id_set,
            score,
            least,
            f"Most OOD-like images of {measured.id_set.name}",
            f"The ID images with the lowest {score} score.",
        )
    )
    return made


def _gallery(
    measured: Measured, scored: Scored, score: str, order: npt.NDArray[np.intp], title: str, note: str
) -> Gallery:
    names, bank = measured.prompts.names, measured.bank
    rules = measured.prompts.config.model.pixels
    chosen = order[:THUMBNAILS].tolist()
    features = scored.encoded.features[chosen]
    positives = features @ bank.positives.cpu().float().T
    nearest = positives.max(dim=1)
    negatives = None if bank.negatives is None else (features @ bank.negatives.flatten(0, 1).cpu().float().T).max(dim=1)
    thumbnails = []
    for place, index in enumerate(chosen):
        label = int(scored.encoded.labels[index])
        own = scored.encoded.images.classes[label].name if label >= 0 else scored.encoded.images.paths[index].name
        lines = [f"nearest class: {names[int(nearest.indices[place])]} ({float(nearest.values[place]):.3f})"]
        if negatives is not None and bank.negatives is not None:
            which, number = divmod(int(negatives.indices[place]), bank.negatives.shape[1])
            lines.append(f"nearest negative: {names[which]} no. {number + 1} ({float(negatives.values[place]):.3f})")
        lines.append(f"score {scored.table.scores[score][index]:.5g}")
        thumbnails.append(Thumbnail(_thumbnail(scored.encoded.images.paths[index], rules), own, lines))
    return Gallery(
        title, f"{note} Below each its own class, the nearest prompts with their cosines, and the score.", thumbnails
    )


def _thumbnail(path: Path, rules: PixelsConfig) -> bytes:
    """A small JPEG of an image file, read by `rules`."""
    image = open_rgb(path, rules)
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
