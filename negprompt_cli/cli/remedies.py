"""The option or command that helps with an error: turns the names of remedies into advice for the command line.

The engine, the data code and the steps raise errors with the name of a remedy and the facts that it needs. Facts are quoted
for a shell, so that commands can be copied. Advice that begins with a line break is printed below the message; other advice
follows on the same line.
"""

import shlex

from negprompt_cli.errors import NegPromptError, SeveralErrors

REMEDIES = {
    "overwrite": "Pass --overwrite to replace it, or choose another place.",
    "overwrite-output": "Pass --overwrite to replace it, or --run or --out to write elsewhere.",
    "learn-positive": (
        "Learn them first:\n  negprompt train-positive --data {data} --run {run}\n"
        "or pass --positive zero-shot to use 'a photo of a <class>' untrained, or --positive PATH."
    ),
    "learn-prompts": (
        "Learn one first:\n  negprompt train-positive --data {data} --run {run}\n"
        "  negprompt train-negative --data {data} --run {run}\nor pass --prompts PATH."
    ),
    "learn-positive-seeds": "Run `negprompt train-positive` with the same --seeds and --run first, or pass --positive.",
    "learn-prompts-seeds": (
        "Run `negprompt train-positive` and `negprompt train-negative` with the same --seeds and --run first."
    ),
    "learn-negative": "Run `negprompt train-negative` first.",
    "needs-negatives": "Run `negprompt train-negative` first, or pass --scores mcm,max-logit.",
    "same-data": "Pass the same --data, and the same data.train_classes, to both stages.",
    "overwrite-all": "Pass --overwrite to make everything again, or --run to name another folder.",
    "train-only": (
        "`negprompt train-positive` and `negprompt train-negative` can train on these images; then pass a threshold of your "
        "own to `negprompt score` with --threshold."
    ),
    "calibrate": "Run `negprompt calibrate`.",
    "calibrate-or-threshold": "Choose one on held-out ID images with `negprompt calibrate`, or pass --threshold.",
    "calibrate-export": "Run `negprompt calibrate` on the artifact and export it again.",
    "export": "`negprompt export` writes one from an artifact.",
    "exported-model": "Remove --model and --pretrained, or score with an artifact of that model.",
    "exported-score": "Remove --score, or export the artifact again with this --score.",
    "exported-device": "Remove --device, or score with the artifact instead.",
    "exported-runtime": "Remove --runtime, or score with the artifact instead.",
    "exported-precision": "Remove --precision, or score with the artifact instead.",
    "fp16": "Remove --fp16, or pass --format onnx.",
    "other-format": "Try another --format.",
    "other-format-or-fp32": "Try another --format, or remove --fp16.",
    "format-pt2": "Or pass --format pt2.",
    "backbone": (
        "Pass the model that it was trained with as --model and --pretrained. CoOp's ViT-B/16 is --model ViT-B-16-quickgelu "
        "--pretrained openai."
    ),
    "acceptance": "Or lower --acceptance.",
    "no-words": "Pass --no-words.",
    "busy": "Choose one with --run or --out.",
    # Devices and models
    "device-cpu": "Use --device cpu.",
    "device-cpu-shared": "Run one process, or pass --device cpu so that the processes share the CPU cores.",
    "fewer-processes": "Start fewer, with --gpus or torchrun's --nproc-per-node.",
    "one-process": "Remove --gpus, and do not start the command with torchrun.",
    "one-launcher": "Remove --gpus, or set torchrun's --nproc-per-node.",
    "local-scores": "Name other --scores than {names}, or use a ViT such as --model ViT-B-16.",
    "precision-cpu": "Use --precision fp32 or --precision bf16.",
    "pretrained": "Pass --pretrained with an open_clip tag or the path of a weights file.",
    "other-model": "Use --model {model}.",
    "moved-model": "Pass its new place with --model local-dir:FOLDER.",
    "offline-model": "Pass such a folder with --model local-dir:FOLDER, or a weights file with --pretrained FILE.",
    "cache-elsewhere": "Or pass --no-cache to run without a cache.",
    "runtime-torch": "Or remove --runtime onnx.",
    "decoder-pil": "Or use --decoder pil.",
    # Data
    "list-sets": "`negprompt data ls` lists the catalogue.",
    "data-elsewhere": "\nIf it is in another folder, name that folder with --data-root or NEGPROMPT_DATA_ROOT.",
    "data-download": (
        "\nDownload it with: negprompt data download {name} --data-root {data_root}\n"
        "If it is in another folder, name that folder with --data-root or NEGPROMPT_DATA_ROOT."
    ),
    "data-root": "Free space, or choose another disk with --data-root.",
    "class-names": "Pass --class-names FILE with one name per line, in the order of the labels.",
    "match-classes": (
        "Select the classes that match with '#', rename them with --class-names, or make prompts for these classes with "
        "`negprompt transfer`."
    ),
    "new-class": "To add the class to a detector: negprompt transfer --extend --images {folder}.",
    "old-classes": "Pass the data of the old classes as --data, or a folder with all classes as --images.",
    "training-images": "\nName other --scores than {names}, or name the data folder with --data-root.",
    "negative-words": (
        "Or pass a file of negative words, one per line, as --negative-words FILE; for csp also a file of adjectives, with "
        "--set evaluate.adjectives=FILE."
    ),
    "test-time": "Name it with --test-time.",
    "word-scores": "Add neglabel, neglabel-images, neglabel-filtered or csp to --scores.",
    "ood": "Pass --ood, for example --ood inaturalist,sun,places,dtd or --ood path/to/images.",
    "leave-out-share": "Choose another --share, or a data set with more classes.",
    "leave-out-kinds": "Remove the image, or remove {kind} from --kinds.",
    # Verification
    "moved-artifact-model": "If it has moved, pass --model.",
    "moved-images": "If they have moved, pass --data or --data-root.",
    "name-parent": "If it is elsewhere, pass --parent PATH.",
    # Results
    "make-again": (
        "Make it again with the command and the options that made it (`negprompt fit`, or `negprompt train-positive` and "
        "then `negprompt train-negative`; `negprompt transfer`; `negprompt import`) and --overwrite."
    ),
    "append-or-overwrite": "Pass --append to add the missing rows, or --overwrite to replace the file.",
    "sort-again": "To resume an interrupted run in this folder, pass --append.",
    "append-later": "Run the command again with --append to add the other rows.",
    "other-out": "Choose another --out, or pass --overwrite to replace the file.",
    "out-file": "Pass --out FILE.parquet.",
    "row-format": "Or name the format with --format.",
    "evaluate": "`negprompt evaluate` writes it.",
    "model-of-artifact": "Pass the --model and --pretrained of its training, or train again.",
    "no-resume": "Or remove --resume to start from the beginning.",
    "list-presets": "`negprompt config ls` lists the presets.",
    "list-keys": "`negprompt config show` lists the keys.",
    "scores": "Select some of them with --scores.",
    "zero-shot-scores": "Remove --templates, or add mcm-zero-shot to --scores.",
    "all-scores": "`negprompt evaluate` computes the others.",
    "copy": "If the file system does not support links, pass --copy.",
}
"""The advice for each remedy; names in braces are facts of the error."""


def full_message(error: NegPromptError) -> str:
    """The message of an error with the advice for a person at the command line.

    Args:
        error: the error that ended a command. If it has no remedy, that of the error it was raised from applies.
    """
    if isinstance(error, SeveralErrors):
        return "\n".join(full_message(one) for one in error.errors)
    advice = _advice(error)
    return f"{error}{'' if not advice or advice.startswith(chr(10)) else ' '}{advice}"


def _advice(error: BaseException | None) -> str:
    while isinstance(error, NegPromptError):
        if error.remedy:
            return REMEDIES[error.remedy].format(**{k: shlex.quote(str(v)) for k, v in error.facts.items()})
        error = error.__cause__
    return ""
