"""Export: the detector as an ONNX file or a torch.export program, compared with PyTorch before it is written.

`data.results.exported`, which reads ONNX files, describes their inputs, outputs and metadata. The exported file and the
model are run on the same random pixels, for one image and for several; the export is refused if the results differ.

The file does not decode or resize images; its metadata describe how.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from negprompt_cli.data.encoding.decoders import pixel_rules
from negprompt_cli.data.encoding.onnx_files import MAX_BATCH, onnx_model, quiet_exporter
from negprompt_cli.data.encoding.preprocessing import Preprocessing
from negprompt_cli.data.files.atomic import atomic_path
from negprompt_cli.data.results.exported import KEY, ExportMetadata
from negprompt_cli.data.results.provenance import versions
from negprompt_cli.engine.detector_module import DetectorModule
from negprompt_cli.engine.judgement import INPUT, NEGATIVE_OUTPUTS, OUTPUTS
from negprompt_cli.errors import NegPromptError, UsageError, first_line
from negprompt_cli.steps.shared.scorer import Scorer

TOLERANCE = 1e-4
"""Largest allowed difference of an output from PyTorch's, as a share of its largest value."""
HALF_TOLERANCE = 5e-2
"""The same for weights in float16, which changes the probabilities of random pixels by a few per cent."""
CHECKED_BATCHES = (1, 5)
FEW_WEIGHTS = 1024
"""Smaller tensors stay float32: biases, scales and norms take almost no space."""

Run = Callable[[Tensor], tuple[Tensor, ...]]
"""A loaded exported file: a function from pixels to outputs."""


@dataclass(frozen=True)
class Exported:
    """The result of an export. `difference`: the largest one from PyTorch, as a share of the output's largest value."""

    path: Path
    format: str
    difference: float
    metadata: ExportMetadata


def export_metadata(scorer: Scorer, *, half: bool) -> ExportMetadata:
    """The metadata that a user of the file needs.

    Raises:
        UsageError: the model does not describe its preprocessing.
    """
    prompts, verdicts, model = scorer.prompts, scorer.verdicts, scorer.prompts.model
    scores = verdicts.calibration_scores
    return ExportMetadata(
        versions=versions(),
        model=model,
        prompts_sha256=prompts.sha256,
        preprocessing=preprocessing_of(scorer),
        classes=prompts.classes,
        negatives=prompts.negatives_per_class,
        score=scorer.choice.name,
        temperature=scorer.choice.temperature,
        threshold=verdicts.threshold,
        by_class={prompts.classes[label].key: value for label, value in verdicts.by_class.items()},
        calibrated_for=verdicts.calibrated_for,
        calibration_scores=None if scores is None else tuple(scores.tolist()),
        weights="float16" if half else "float32",
    )


def preprocessing_of(scorer: Scorer) -> Preprocessing:
    """How an RGB image becomes pixels.

    Raises:
        UsageError: the model does not describe it.
    """
    from open_clip.transform import PreprocessCfg

    given = getattr(scorer.clip.model.visual, "preprocess_cfg", None)
    if not given:
        raise UsageError(
            f"{scorer.clip.identity} does not describe how its images are preprocessed, so it cannot be exported."
        )
    config = PreprocessCfg(**given)
    size = (config.size, config.size) if isinstance(config.size, int) else (config.size[0], config.size[1])
    return Preprocessing.model_validate(
        {
            "size": size,
            "resize_mode": config.resize_mode,
            # "random" is for training; open_clip then uses bicubic.
            "interpolation": "bilinear" if config.interpolation == "bilinear" else "bicubic",
            "fill_color": config.fill_color,
            "pixels": pixel_rules(scorer.clip),
            "mean": config.mean,
            "std": config.std,
        }
    )


def detector_module(scorer: Scorer) -> DetectorModule:
    """The scorer as one module on the CPU, with a copy of the weights."""
    visual: Any = copy.deepcopy(scorer.clip.model.visual)
    return DetectorModule(
        visual.cpu(),
        scorer.bank,
        score=scorer.choice.name,
        temperature=scorer.choice.temperature,
        options=scorer.choice.options,
        threshold=scorer.threshold,
        by_class=scorer.verdicts.by_class,
    ).eval()


def run_export(scorer: Scorer, out: Path, *, form: str, half: bool = False) -> Exported:
    """Export to `out` as "onnx" or "pt2", and check the file.

    Args:
        scorer: model, prompts, score and threshold.
        form: "onnx" or "pt2".
        half: store weights in float16, only for ONNX. The file is half as large and still computes in float32.

    Raises:
        UsageError: a library is missing, the model does not describe its preprocessing, or `half` with "pt2".
        NegPromptError: the model cannot be exported, or the outputs of the file differ from PyTorch's.
    """
    if half and form != "onnx":
        raise UsageError("Only the format onnx can store weights in float16.", remedy="fp16")
    metadata = export_metadata(scorer, half=half)
    module = detector_module(scorer)
    height, width = metadata.preprocessing.size
    with atomic_path(out) as temporary:
        write, load = {"onnx": (write_onnx, load_onnx), "pt2": (write_pt2, load_pt2)}[form]
        # Two images, because the exporter would make a batch of one constant.
        write(module, torch.zeros(2, 3, height, width), metadata, temporary)
        difference = check_export(load(temporary), module, (height, width))
        if not difference <= (limit := HALF_TOLERANCE if half else TOLERANCE):
            raise NegPromptError(
                f"The exported model differs from PyTorch by {difference:.2g} of its outputs' range, which is more than "
                f"{limit:g}. No file was written.",
                remedy="other-format-or-fp32" if half else "other-format",
            )
    return Exported(out, form, difference, metadata)


def check_export(run: Run, reference: DetectorModule, size: tuple[int, int]) -> float:
    """The largest difference of probabilities and scores from PyTorch's, as a share of the output's largest value."""
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for count in CHECKED_BATCHES:
        pixels = torch.randn(count, 3, *size, generator=generator)
        with torch.no_grad():
            expected = reference(pixels)
        for want, have in zip(expected[:2], run(pixels)[:2], strict=True):
            if want.shape != have.shape:
                return float("inf")
            worst = max(worst, float((want - have).abs().max() / want.abs().max()))
    return worst


def write_onnx(module: DetectorModule, pixels: Tensor, metadata: ExportMetadata, path: Path) -> None:
    """Write one ONNX file with the weights inside; the first dimension, the number of images, is free.

    Raises:
        NegPromptError: the exporter does not support the model.
    """
    import onnx

    proto = onnx_model(module, pixels, takes=INPUT, gives=[*OUTPUTS, *(NEGATIVE_OUTPUTS if metadata.negatives else ())])
    if metadata.weights == "float16":
        _halve_weights(proto, onnx)
    onnx.helper.set_model_props(proto, {KEY: metadata.text()})
    onnx.save(proto, path)


def _halve_weights(proto: Any, onnx: Any) -> None:
    """Store large float32 weights in float16, with a cast back to float32 before each use.

    The file does not compute in float16, because CPU kernels for it are wrong or missing in several runtimes.
    """
    float32, float16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    casts = []
    for weights in proto.graph.initializer:
        if weights.data_type != float32 or math.prod(weights.dims) < FEW_WEIGHTS:
            continue
        name, values = weights.name, onnx.numpy_helper.to_array(weights)
        weights.CopyFrom(onnx.numpy_helper.from_array(values.astype("float16"), f"{name}.float16"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}.float16"], [name], to=float32))
        for info in proto.graph.value_info:
            if info.name == name:
                info.name = f"{name}.float16"
                info.type.tensor_type.elem_type = float16
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def load_onnx(path: Path) -> Run:
    """Load an ONNX file with onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda pixels: tuple(torch.from_numpy(a) for a in session.run(None, {INPUT: pixels.numpy()}))


def write_pt2(module: DetectorModule, pixels: Tensor, metadata: ExportMetadata, path: Path) -> None:
    """Write a torch.export program with a free first dimension, and the metadata as the extra file "negprompt".

    Raises:
        NegPromptError: the model cannot be traced.
    """
    with quiet_exporter():
        try:
            batch = torch.export.Dim("batch", max=MAX_BATCH)
            program = torch.export.export(module, (pixels,), dynamic_shapes={INPUT: {0: batch}}, strict=False)
            torch.export.save(program, path, extra_files={KEY: metadata.text()})
        except Exception as error:  # exporters raise many kinds of errors
            raise NegPromptError(f"The model cannot be exported: {first_line(error)}") from error


def load_pt2(path: Path) -> Run:
    """Load a torch.export program."""
    run: Run = torch.export.load(path).module()
    return run
