"""Print the commands of README sections as a bash script, word for word, Python blocks included.

    python .ci/readme_section.py "Your own images" "From Python" | bash -euxo pipefail

Leaves out lines that install something: what is installed is what is tested.
"""

import re
import sys
from pathlib import Path


def main(*titles: str) -> None:
    """Write the script to stdout."""
    text = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    for title in titles:
        write_section(text, title)


def write_section(text: str, title: str) -> None:
    """Write the commands below the heading `title`."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)^## ", text, re.DOTALL | re.MULTILINE)
    if found is None:
        sys.exit(f"README.md has no section '{title}'.")
    for language, block in re.findall(r"^```(bash|python)\n(.*?)^```$", found[1], re.DOTALL | re.MULTILINE):
        lines = [line for line in block.splitlines() if not line.startswith("pip install")]
        print("\n".join(lines if language == "bash" else ["python - <<'END_OF_PYTHON'", *lines, "END_OF_PYTHON"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
