"""Bits per byte of xz -9e on the held-out texts: a yardstick for nano that needs no training.

Three cases. `concatenated`: one archive of all held-out documents of a domain. `per_file`: one
archive per document. `primed`: the archive of the training text followed by the held-out text,
less the archive of the training text alone; the dictionary covers both, so all of the training
text is in reach. Sizes include the container, as the command line tool writes it.

Run `python -m experiments.nano.compress --corpus DIR` on a folder made by `corpus.py`.
"""

import argparse
import json
import lzma
import sys
from collections.abc import Sequence
from pathlib import Path

from ariel_jax.errors import ArielError, ConfigError
from experiments.nano.files import DOMAINS, read_documents

PRESET = 9 | lzma.PRESET_EXTREME
PRESET_DICTIONARY = 64 << 20  # what preset 9 uses


def xz_size(data: bytes) -> int:
    """Bytes of `data` compressed by `xz -9e`, with a dictionary that covers all of it.

    Up to 64 MiB of data this is exactly what the command line tool gives.
    """
    size = max(PRESET_DICTIONARY, len(data))
    chain = [{"id": lzma.FILTER_LZMA2, "preset": PRESET, "dict_size": size}]
    return len(lzma.compress(data, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, filters=chain))


def compare(training: bytes, heldout: dict[str, Sequence[bytes]]) -> dict[str, dict[str, float]]:
    """Measures all cases for each domain and for all domains together.

    Args:
        training: The whole training text.
        heldout: Held-out documents per domain.

    Returns:
        `{domain: {"bytes", "concatenated", "per_file", "primed"}}` with the key `all` added; the
        last three in bits per byte.

    Raises:
        ConfigError: If a domain has no held-out bytes.
    """
    alone = xz_size(training)
    cases = {**heldout, "all": [part for parts in heldout.values() for part in parts]}
    result = {}
    files = {name: sum(map(xz_size, parts)) for name, parts in heldout.items()}
    files["all"] = sum(files.values())
    for name, parts in cases.items():
        joined = b"".join(parts)
        if not joined:
            raise ConfigError(f"domain {name} has 0 held-out bytes: every domain needs some text")
        sizes = {
            "concatenated": xz_size(joined),
            "per_file": files[name],
            "primed": xz_size(training + joined) - alone,
        }
        bits = {case: 8 * size / len(joined) for case, size in sizes.items()}
        result[name] = {"bytes": len(joined), **bits}
    return result


def measure(out_dir: Path) -> dict[str, dict[str, float]]:
    """`compare` on a folder that `corpus.build` made; about two minutes and 1 GB."""
    out = Path(out_dir)
    texts = {
        split: {
            name: [text.encode() for _, text in read_documents(out, split, name)]
            for name in DOMAINS
        }
        for split in ("train", "heldout")
    }
    training = b"".join(part for name in DOMAINS for part in texts["train"][name])
    return compare(training, texts["heldout"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: prints one JSON line per domain."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.nano.compress", description=__doc__
    )
    parser.add_argument("--corpus", type=Path, required=True, help="folder made by corpus.py")
    options = parser.parse_args(arguments)
    try:
        rows = measure(options.corpus)
    except ArielError as error:
        print(error, file=sys.stderr)
        return 2
    for domain, row in rows.items():
        print(json.dumps({"domain": domain, **row}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
