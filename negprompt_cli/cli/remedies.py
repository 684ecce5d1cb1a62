"""Which option or command helps with an error: the one place that turns the names of remedies into command-line advice.

The engine, the data code and the steps raise errors with a `remedy` and the facts it needs. Facts are quoted for a shell, so
that commands can be copied. An advice that begins with a line break follows below the message; others continue its line.
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
        "`negprompt train-positive` and `negprompt train-negative` train on what there is; `negprompt score --threshold` "
        "takes a threshold of your own."
    ),
    "calibrate": "Run `negprompt calibrate`.",
    "calibrate-or-threshold": "Choose one on held-out ID images with `negprompt calibrate`, or pass --threshold.",
    "calibrate-export": "Run `negprompt calibrate` on the artifact and export it again.",
    "export": "`negprompt export` writes one from an artifact.",
    "exported-model": "Leave out --model and --pretrained, or score with an artifact of that model.",
    "exported-score": "Leave out --score, or export the artifact again with this --score.",
    "exported-device": "Leave out --device, or score with the artifact instead.",
    "exported-runtime": "Leave out --runtime, or score with the artifact instead.",
    "exported-precision": "Leave out --precision, or score with the artifact instead.",
    "fp16": "Leave out --fp16, or pass --format onnx.",
    "other-format": "Try the other --format.",
    "other-format-or-fp32": "Try the other --format, or leave out --fp16.",
    "format-pt2": "Or pass --format pt2.",
    "backbone": (
        "Name the backbone it was trained with by --model and --pretrained. CoOp's ViT-B/16 is --model ViT-B-16-quickgelu "
        "--pretrained openai."
    ),
    "acceptance": "Or lower --acceptance.",
    "no-words": "Pass --no-words.",
    "busy": "Another place is another --run or --out.",
    # Devices and models
    "device-cpu": "Use --device cpu.",
    "device-cpu-shared": "Run one process, or pass --device cpu so that the processes share the CPU cores.",
    "fewer-processes": "Start fewer, with --gpus or torchrun's --nproc-per-node.",
    "one-process": "Leave out --gpus, and do not start the command with torchrun.",
    "one-launcher": "Leave out --gpus, or set torchrun's --nproc-per-node.",
    "local-scores": "Leave out {names} with --scores, or use a ViT such as --model ViT-B-16.",
    "precision-cpu": "Use --precision fp32 or --precision bf16.",
    "pretrained": "Pass --pretrained with an open_clip tag or the path of a weights file.",
    "other-model": "Use --model {model}.",
    "moved-model": "Say where it is now with --model local-dir:FOLDER.",
    "offline-model": "Pass such a folder with --model local-dir:FOLDER, or a weights file with --pretrained FILE.",
    "cache-elsewhere": "Or run without a cache: --no-cache.",
    "runtime-torch": "Or leave out --runtime onnx.",
    "decoder-pil": "Or use --decoder pil.",
    # Data
    "list-sets": "`negprompt data ls` lists the catalogue.",
    "data-elsewhere": "\nIf it is in another folder, name that folder with --data-root or NEGPROMPT_DATA_ROOT.",
    "data-download": (
        "\nDownload it with: negprompt data download {name} --data-root {data_root}\n"
        "If it is in another folder, name that folder with --data-root or NEGPROMPT_DATA_ROOT."
    ),
    "data-root": "Free space, or choose another disk with --data-root.",
    "class-names": "Give --class-names FILE with one name per line, in the order of the labels.",
    "match-classes": (
        "Select the classes that match with '#', rename them with --class-names, or give the prompts these classes with "
        "`negprompt transfer`."
    ),
    "new-class": "To add the class to a detector: negprompt transfer --extend --images {folder}.",
    "old-classes": "Name the data of the old classes with --data, or give --images a folder that has all classes.",
    "training-images": "\nLeave out {names} with --scores, or name the data folder with --data-root.",
    "negative-words": (
        "Or give a list of negative words, one per line, with --negative-words FILE (for csp also one of adjectives, with "
        "--set evaluate.adjectives=FILE)."
    ),
    "test-time": "Ask for it with --test-time.",
    "word-scores": "Pass --scores with neglabel, neglabel-images, neglabel-filtered or csp.",
    "ood": "Pass --ood, for example --ood inaturalist,sun,places,dtd or --ood path/to/images.",
    "leave-out-share": "Choose another --share, or a data set with more classes.",
    "leave-out-kinds": "Remove the image, or leave {kind} out of --kinds.",
    # Verification
    "moved-artifact-model": "If it has moved, pass --model.",
    "moved-images": "If they have moved, pass --data or --data-root.",
    "name-parent": "If it is elsewhere, pass --parent PATH.",
    # Results
    "make-again": (
        "Make it again with the command and the options that made it (`negprompt fit`, or `negprompt train-positive` and "
        "then `negprompt train-negative`; `negprompt transfer`; `negprompt import`) and --overwrite."
    ),
    "append-or-overwrite": "Pass --append to add the rows that are missing, or --overwrite to replace the file.",
    "sort-again": "With --append an interrupted run adds to its own folder.",
    "append-later": "A later run with --append adds the others.",
    "other-out": "Choose another --out, or pass --overwrite to replace the file.",
    "out-file": "Pass --out FILE.parquet.",
    "row-format": "Or name the format with --format.",
    "evaluate": "`negprompt evaluate` writes it.",
    "model-of-artifact": "Pass the --model and --pretrained that it was learned for, or train again.",
    "no-resume": "Or leave out --resume to start from the beginning.",
    "list-presets": "`negprompt config ls` lists the presets.",
    "list-keys": "`negprompt config show` lists the keys.",
    "scores": "Pass --scores with some of them.",
    "zero-shot-scores": "Leave out --templates, or add mcm-zero-shot to --scores.",
    "all-scores": "`negprompt evaluate` computes the others.",
    "copy": "Where the file system has no links, pass --copy.",
}
"""The advice by name of the remedy; names in braces are facts of the error."""


def full_message(error: NegPromptError) -> str:
    """The message of an error with the advice for a person at the command line.

    Args:
        error: what ended a command. Where it has no remedy itself, that of the error it was raised from applies.
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
