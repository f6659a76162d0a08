"""Puts the times that `ariel-jax kernels bench --scale cpu --out FOLDER` wrote into the package.

    python tools/package_records.py FOLDER/kernels.json

One file for each kind of processor, a row a line; what was there for that kind is replaced. Prints the
table of products that stands in docs/benchmarks.md.
"""

import json
import pathlib
import re
import sys
from typing import Any

from ariel_jax.pallas_kernels.tune import LEAST_GAIN, PACKAGED, SAME

ROOT = pathlib.Path(__file__).parents[1]
ADDITIONS = {"bfloat16_products": "bf16", "whole_products": "vnni", "tiles": "amx"}
SHOWN = ("768 to 768", "768 to 3072", "3072 to 768", "2048 to 8192", "8192 to 2048", "192 to 512")


def name_of(run: dict[str, Any]) -> str:
    """Of the file, by what must be the same for the times to stand in."""
    parts = [run["instructions"], *(word for key, word in ADDITIONS.items() if run[key])]
    return "_".join(parts) + (f"_{run['threads']}_threads" if run["threads"] != 2 else "")


def packaged(run: dict[str, Any]) -> str:
    """The content of the file."""
    head = {key: run[key] for key in (*SAME, "machine", "read_bytes_per_s")}
    rows = [
        json.dumps({"op": row["op"], "shape": row["shape"], "seconds": _rounded(row["seconds"])})
        for row in run["rows"]
    ]
    return json.dumps(head)[:-1] + ', "rows": [\n' + ",\n".join(rows) + "\n]}\n"


def _rounded(seconds: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.3g}") for name, value in seconds.items()}


def table(run: dict[str, Any]) -> str:
    """Milliseconds of products, kernel / XLA, for 1, 4 and 8 rows."""
    found: dict[tuple[str, str], dict[int, str]] = {}
    for row in run["rows"]:
        match = re.fullmatch(r"(\d+) x (\d+ to \d+), \w+/(\w+)/\w+", row["shape"])
        if row["op"] == "linear" and match:
            times = [f"{1e3 * row['seconds'][name]:.2f}" for name in ("native", "reference")]
            key = (match.group(2), match.group(3))
            found.setdefault(key, {})[int(match.group(1))] = " / ".join(times)
    lines = ["| in to out | weights | 1 row | 4 rows | 8 rows |", "|---|---|---|---|---|"]
    for (shape, weights), times in sorted(found.items(), key=_place):
        if shape in SHOWN and {1, 4, 8} <= times.keys():
            lines.append(f"| {shape} | {weights} | {times[1]} | {times[4]} | {times[8]} |")
    return "\n".join(lines)


def _place(item: tuple[tuple[str, str], Any]) -> tuple[int, int]:
    shape, weights = item[0]
    order = ("float32", "bfloat16", "int8", "int4")
    return (SHOWN.index(shape) if shape in SHOWN else len(SHOWN), order.index(weights))


def main() -> int:
    """Returns the exit status."""
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    run = json.loads(pathlib.Path(sys.argv[1]).read_text())
    path = PACKAGED / f"{name_of(run)}.json"
    path.write_text(packaged(run))
    slow = sum(
        row["seconds"]["native"] > LEAST_GAIN * row["seconds"]["reference"] for row in run["rows"]
    )
    print(table(run))
    print(f"\n{path.relative_to(ROOT)}: {len(run['rows'])} rows; on {slow} the kernel does not pay")
    return 0


if __name__ == "__main__":
    sys.exit(main())
