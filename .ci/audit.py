"""Read what pip-audit wrote: fail where a vulnerability is known, say where nothing could be looked up.

    python .ci/audit.py audit.json

pip-audit ends alike with a vulnerability and without its database, so its answer is read here. Without network, or behind
a package mirror that does not pass the database on, nothing can be audited: that is said, and is no failure.
"""

import json
import sys
from pathlib import Path


def main(path: Path) -> int:
    """Print the verdict; 1 where a vulnerability is known."""
    try:
        dependencies = json.loads(path.read_text(encoding="utf-8"))["dependencies"]
    except (OSError, ValueError, KeyError):
        print("NOT AUDITED: pip-audit gave no answer; its database cannot be reached from here.")
        return 0
    audited = [d for d in dependencies if "skip_reason" not in d]
    known = [(d, v) for d in audited for v in d["vulns"]]
    for dependency, found in known:
        fixed = ", ".join(found.get("fix_versions", [])) or "no version yet"
        print(f"{dependency['name']} {dependency['version']}: {found['id']}, fixed in {fixed}")
    if not audited:
        print(
            f"NOT AUDITED: the database knows none of the {len(dependencies)} packages; it cannot be reached from here."
        )
    else:
        print(f"{len(audited)} of {len(dependencies)} packages audited, {len(known)} vulnerabilities known")
    return 1 if known else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
