"""Opening ONNX files with onnxruntime: on the CPU, each call on one thread. No torch.

Whoever has many images shares them out among threads, which then wait less for each other than if each product were shared
out.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any


def open_session(path: Path) -> Any:
    """Open a file; the session may be run from several threads at once.

    Raises:
        ImportError: onnxruntime is not installed.
        Exception: the file is no model that it can run; onnxruntime has a class of errors for each of its status codes.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def begin_opening(path: Path) -> "Future[Any]":
    """Begin to open a file in a thread, and go on: onnxruntime lets Python import modules meanwhile.

    Returns:
        What gives the session, or raises as `open_session`.
    """
    with suppress(ImportError):
        import onnxruntime  # noqa: F401 - imported here, because two threads that import may wait for each other
    pool = ThreadPoolExecutor(1)
    session = pool.submit(open_session, path)
    pool.shutdown(wait=False)
    return session
