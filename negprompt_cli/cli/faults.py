"""Messages for faults of the machine: full disks, too little memory, killed processes, locales without UTF-8.

Such a fault is neither a person's mistake nor a bug, so each has a message that says what happened and what to do. Python
and torch raise many kinds of errors for them; torch's are recognised by name, because this module must not import torch.
"""


def explain(error: Exception) -> str | None:
    """The message for a fault of the machine, or None if `error` is not one.

    Args:
        error: the error that ended a command.
    """
    text = str(error)
    if any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return (
            "The device ran out of memory even with a batch of one. Other programs may use some of its memory (nvidia-smi "
            "lists them). Otherwise pass --precision bf16, a smaller --model, or --device cpu."
        )
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        return (
            "The machine ran out of memory. Pass fewer --workers, a smaller --image-batch or --memory, or close other "
            "programs. Image features encoded so far are in the cache."
        )
    if "DataLoader worker" in text:
        what = text.splitlines()[0].rstrip(". ")
        return (
            f"A process that decodes images was killed ({what}). The system kills processes when memory runs out, or shared "
            "memory in a container. Pass fewer --workers (0 for none). Image features encoded so far are in the cache."
        )
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("negprompt_cli"):
        return f"This needs the package {error.name}, which is not installed here. `pip install negprompt` installs it."
    if isinstance(error, UnicodeEncodeError):
        shown = ascii(error.object[:200])
        if error.encoding.startswith("utf"):
            return f"{shown} contains bytes that are not UTF-8, which cannot be written here. Rename the file."
        return f"The locale's encoding, {error.encoding}, cannot express {shown}. Set PYTHONUTF8=1 or LC_ALL=C.UTF-8."
    if isinstance(error, OSError):
        place = error.filename if error.filename is not None else "Reading or writing failed"
        return f"{place}: {error.strerror or text or type(error).__name__}."
    return None
