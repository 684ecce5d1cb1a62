"""Coverage-guided fuzzing (atheris) of the readers of foreign bytes, for a bounded time.

    python tests/fuzz/run.py [--seconds 40] [TARGET ...]

Each target of `targets.py` is fuzzed in a process of its own, from its examples, for an equal share of the time; a run of
more than ten seconds or three gigabytes is a finding, like any error but the package's own. The exit status is 1 where
something was found; the input is printed and kept. Where atheris is not installed it is said and the status is 0.
"""

import argparse
import importlib.util
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
INSTRUMENTED = ["negprompt_cli", "yaml", "tarfile", "zipfile", "csv", "json"]
RUN_SECONDS, RUN_MEBIBYTES = 10, 3000
LEAST_SECONDS = 1


def load_targets() -> dict[str, Any]:
    """The targets, their readers instrumented: imported once, since that takes longer than a short turn of fuzzing."""
    import atheris

    sys.path.insert(0, str(TESTS))
    with atheris.instrument_imports(include=INSTRUMENTED):
        from fuzz.targets import TARGETS
    warnings.simplefilter("ignore")
    return dict(TARGETS)


def fuzz(target: Any, folder: Path, seconds: int) -> None:
    """Fuzz one target in this process until libFuzzer ends the process; findings are kept in `folder`."""
    import atheris

    corpus, work = folder / "corpus", folder / "work"
    corpus.mkdir()
    work.mkdir()
    for number, example in enumerate(target.examples()):
        (corpus / str(number)).write_bytes(example)
    options = [
        f"-max_total_time={seconds}",
        f"-timeout={RUN_SECONDS}",
        f"-rss_limit_mb={RUN_MEBIBYTES}",
        "-max_len=4096",
        "-print_final_stats=1",
        f"-artifact_prefix={folder}/",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], lambda data: target(data, work))
    atheris.Fuzz()


def forked(log: Path, job: Callable[[], None]) -> int:
    """Run `job` in a forked process with its output in `log`; return its exit status."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        out = os.open(log, os.O_WRONLY | os.O_CREAT)
        os.dup2(out, 1)
        os.dup2(out, 2)
        job()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def report(name: str, folder: Path, status: int) -> None:
    """Say what came of one target."""
    said = (folder / "log").read_text(encoding="utf-8", errors="replace")
    runs = next((line.split()[-1] for line in said.splitlines() if "number_of_executed_units" in line), "?")
    print(f"{name}: {runs} runs, {'a finding' if status else 'nothing found'}", flush=True)
    if status:
        print(said[-6000:])
        for path in sorted(p for p in folder.iterdir() if p.is_file() and p.name != "log"):
            print(f"input kept in {path}: {path.read_bytes()[:400]!r}")


def main() -> int:
    """Parse the line and fuzz."""
    parser = argparse.ArgumentParser(description="Fuzz the readers of foreign bytes.")
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=40, help="for all targets together")
    asked = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed (it has no wheel for this Python or platform): fuzzing is skipped")
        return 0
    targets = load_targets()
    unknown = sorted(set(asked.targets) - set(targets))
    if unknown:
        parser.error(f"no such target: {', '.join(unknown)}; there are {', '.join(targets)}")
    names = asked.targets or list(targets)
    each = max(LEAST_SECONDS, asked.seconds // len(names))
    worst = 0
    for name in names:
        # Not a TemporaryDirectory: the forked process, which ends in its own way, would remove it.
        folder, target = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-")), targets[name]
        status = forked(folder / "log", lambda f=folder, t=target: fuzz(t, f, each))
        report(name, folder, status)
        worst = max(worst, abs(status))
        if not status:
            shutil.rmtree(folder)
    return min(1, worst)


if __name__ == "__main__":
    sys.exit(main())
