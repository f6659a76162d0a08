"""Calibrates the lexicon of ARIEL on the packaged dev paraphrases and reports it on those held out.

    python -m experiments.ariel.calibrate
    python -m experiments.ariel.calibrate --write ariel_jax/algorithms/ariel/assets/calibration.json

Run it with `--write` whenever the ontology, the paraphrases or the lexicon have changed; a test compares
the packaged file with what calibration finds. Status 1 without `--write` where they differ.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ariel_jax import durable
from ariel_jax.algorithms.ariel import calibration
from ariel_jax.algorithms.ariel.mapper import asset


def table(split: calibration.Split) -> str:
    """Coverage and wrong mappings of every level and of every stage, in Markdown."""
    found = calibration.lexicon_mappings(split)
    everything = [pair for pairs in found.values() for pair in pairs]
    stages = ("exact", "normalised", "framed", "corrected", "lexicon")
    rows = calibration.report(found) | {
        f"by {stage}": calibration.tally(everything, by=stage) for stage in stages
    }
    lines = [
        f"| {split} | n | coverage | mapped | wrong | wrong rate | its 95 % bound |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {t.n} | {t.coverage:.3f} | {t.mapped} | {t.wrong} | {t.wrong_rate:.4f} "
        f"| {t.wrong_bound:.4f} |"
        for name, t in rows.items()
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Returns:
        Exit status.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", type=Path, help="file that gets the calibration")
    args = parser.parse_args(argv)
    found = calibration.calibrate_lexicon().as_json()
    text = json.dumps(found, indent=1) + "\n"
    if args.write is not None:
        durable.write_bytes(args.write, text.encode())
    print(text)
    for split in calibration.SPLITS:
        print(table(split), end="\n\n")
    if args.write is None and found != asset("calibration.json"):
        print("This is not what is packaged: run again with --write.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
