"""Code coverage by package, from the data file that ``pytest --cov`` left: reported, not gated."""

from __future__ import annotations

import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from coverage import Coverage
from coverage.exceptions import CoverageException


def main() -> int:
    measured = Coverage()
    measured.load()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "coverage.json"
        try:
            measured.json_report(outfile=str(report))
        except CoverageException as error:
            print(f"no coverage: {error}", file=sys.stderr)
            return 1
        files = json.loads(report.read_text())["files"]
    lines: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for name, found in files.items():
        parts = Path(name).parts
        package = parts[1] if parts[0] == "mlgraph" and len(parts) > 2 else parts[0]
        lines[package][0] += found["summary"]["covered_lines"]
        lines[package][1] += found["summary"]["num_statements"]
    for package, (covered, total) in sorted(lines.items()):
        print(f"{package:<10} {covered / max(total, 1):6.1%} of {total:>6,} statements")
    return 0


if __name__ == "__main__":
    sys.exit(main())
