"""Open ONNX files with onnxruntime on the CPU, with one thread per call. This module needs no torch.

With many images, callers distribute images among threads. Threads then wait less for each other than if they shared each
matrix product.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any


def open_session(path: Path) -> Any:
    """Open a file; several threads may run the session at once.

    Raises:
        ImportError: onnxruntime is not installed.
        Exception: onnxruntime cannot run the file; it has a different exception for each of its status codes.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def begin_opening(path: Path) -> "Future[Any]":
    """Open a file in a background thread; Python can import modules while onnxruntime reads the file.

    Returns:
        A future with the session, or with the error of `open_session`.
    """
    with suppress(ImportError):
        import onnxruntime  # noqa: F401 - two threads that import at once could wait for each other
    pool = ThreadPoolExecutor(1)
    session = pool.submit(open_session, path)
    pool.shutdown(wait=False)
    return session
