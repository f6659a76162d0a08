"""Corpus of the shipped model nano, rebuilt from the running Python's standard library.

Three domains: `code` (the library's sources), `english` (language reference topics, docstrings,
long comments, the licence) and `templates` (generated, see `templates.py`). Every document belongs
to one split: `train`, `heldout` (evaluation) or `reserved` (private-training tasks; only listed,
never written). The split of a file is a function of its path alone, so it is the same everywhere.

Run `python -m experiments.nano.corpus --out DIR` to build the corpus, the tokenizer and the token
files, and add `--check` to compare only. The committed `manifest.json` lists every document with
its hash; another Python release has other sources, which is reported and does not stop the build.
"""

import argparse
import dataclasses
import hashlib
import json
import platform
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

from ariel_jax.errors import ArielError
from experiments.nano import templates
from experiments.nano.files import DOMAINS, SPLITS, write_bytes
from experiments.nano.sources import (
    Document,
    builtin_documents,
    library_documents,
    read_reserved,
)
from experiments.nano.tokenizer import VOCAB_SIZE, train_tokenizer, write_tokens

MANIFEST_PATH = Path(__file__).resolve().parent / "manifest.json"
TRAIN_SHARDS = 90
HELDOUT_SHARDS = 4
HELDOUT_FIRST_SHARD = 1_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the manifest: `bytes` is the UTF-8 size, `sha256` the hash of the UTF-8 text."""

    path: str
    domain: str
    split: str
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a corpus consists of.

    Attributes:
        python: Version of the interpreter whose library was read.
        tokenizer_sha256: Hash of `tokenizer.json`, or an empty string before it is trained.
        documents: One row per document, sorted by domain and path.
    """

    python: str
    tokenizer_sha256: str
    documents: tuple[Row, ...]

    def totals(self) -> dict[str, dict[str, int]]:
        """Bytes per domain and split, as `{domain: {split: bytes}}`."""
        sums: dict[str, dict[str, int]] = {}
        for row in self.documents:
            split = sums.setdefault(row.domain, {})
            split[row.split] = split.get(row.split, 0) + row.bytes
        return sums

    def to_json(self) -> str:
        """The manifest as JSON with one document per line, so that diffs stay readable."""
        columns = [field.name for field in dataclasses.fields(Row)]
        rows = ",\n".join(
            json.dumps([getattr(row, name) for name in columns], separators=(",", ":"))
            for row in self.documents
        )
        head = {
            "python": self.python,
            "tokenizer_sha256": self.tokenizer_sha256,
            "totals": self.totals(),
            "columns": columns,
        }
        lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in head.items())
        return f'{{\n{lines},\n"documents": [\n{rows}\n]\n}}\n'

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """Reads what `to_json` wrote."""
        data = json.loads(text)
        return cls(
            python=data["python"],
            tokenizer_sha256=data["tokenizer_sha256"],
            documents=tuple(
                Row(**dict(zip(data["columns"], row, strict=True))) for row in data["documents"]
            ),
        )


def template_documents(train_shards: int, heldout_shards: int) -> Iterator[Document]:
    """Generated documents, one shard per seed; held-out shards repeat no training text."""
    known: set[str] = set()
    for seed in range(train_shards):
        parts = templates.shard(seed)
        known.update(parts)
        yield Document(path=f"templates/{seed:07d}", domain="templates", split="train", parts=parts)
    for seed in range(HELDOUT_FIRST_SHARD, HELDOUT_FIRST_SHARD + heldout_shards):
        parts = tuple(text for text in templates.shard(seed) if text not in known)
        yield Document(
            path=f"templates/{seed:07d}", domain="templates", split="heldout", parts=parts
        )


def collect(
    root: Path | None = None,
    *,
    reserved: frozenset[str] | None = None,
    train_shards: int = TRAIN_SHARDS,
    heldout_shards: int = HELDOUT_SHARDS,
) -> list[Document]:
    """All documents of the corpus, sorted by domain and path.

    Args:
        root: Folder to read instead of the running Python's standard library. The docstrings of
            modules written in C are added only for the latter.
        reserved: Reserved modules; the committed list by default.
        train_shards: Number of template shards to train on.
        heldout_shards: Number of template shards held out.
    """
    names = read_reserved() if reserved is None else reserved
    library = Path(sysconfig.get_path("stdlib")) if root is None else root
    found = list(library_documents(library, names))
    if root is None:
        found += builtin_documents()
    found += template_documents(train_shards, heldout_shards)
    return sorted(found, key=lambda item: (item.domain, item.path))


def describe(documents: Sequence[Document], *, tokenizer_sha256: str = "") -> Manifest:
    """Manifest of a list of documents."""
    rows = []
    for item in documents:
        data = item.text.encode()
        rows.append(
            Row(
                path=item.path,
                domain=item.domain,
                split=item.split,
                bytes=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
            )
        )
    return Manifest(
        python=platform.python_version(),
        tokenizer_sha256=tokenizer_sha256,
        documents=tuple(rows),
    )


def write_documents(documents: Sequence[Document], out_dir: Path) -> None:
    """Writes `SPLIT/DOMAIN.jsonl`, one `{"path", "text"}` per line; reserved ones stay out."""
    for split in SPLITS:
        for domain in DOMAINS:
            lines = []
            for item in documents:
                if (item.split, item.domain) != (split, domain):
                    continue
                for index, text in enumerate(item.parts):
                    path = item.path if len(item.parts) == 1 else f"{item.path}#{index}"
                    lines.append(json.dumps({"path": path, "text": text}, ensure_ascii=False))
            write_bytes(
                out_dir / split / f"{domain}.jsonl", "".join(f"{x}\n" for x in lines).encode()
            )


def build(
    out_dir: Path,
    documents: Sequence[Document] | None = None,
    *,
    vocab_size: int = VOCAB_SIZE,
) -> Manifest:
    """Builds corpus, tokenizer and token files.

    Writes below `out_dir`: `train/` and `heldout/` with one `.jsonl` per domain, `tokenizer/`,
    `tokens/` and `manifest.json`. The same interpreter release gives the same bytes.

    Args:
        out_dir: Folder to write to; made if missing.
        documents: What to write instead of the whole corpus.
        vocab_size: Entries of the tokenizer.

    Returns:
        The manifest of what was built.
    """
    out = Path(out_dir)
    found = collect() if documents is None else documents
    write_documents(found, out)
    digest = train_tokenizer(out, vocab_size=vocab_size)
    write_tokens(out)
    manifest = describe(found, tokenizer_sha256=digest)
    write_bytes(out / "manifest.json", manifest.to_json().encode())
    return manifest


def differences(ours: Manifest, theirs: Manifest) -> list[str]:
    """What distinguishes two manifests, one line per document; empty if they are equal.

    Args:
        ours: The committed manifest.
        theirs: The manifest of the corpus at hand.
    """
    lines = []
    if ours.python != theirs.python:
        lines.append(f"python: committed {ours.python}, here {theirs.python}")
    known = {(row.domain, row.path): row for row in ours.documents}
    found = {(row.domain, row.path): row for row in theirs.documents}
    for key in sorted(known.keys() | found.keys()):
        name = " ".join(key)
        if key not in found:
            lines.append(f"{name}: missing here")
        elif key not in known:
            lines.append(f"{name}: not in the committed corpus")
        elif known[key] != found[key]:
            lines.append(
                f"{name}: committed {known[key].split}, {known[key].bytes} bytes, "
                f"{known[key].sha256[:12]}; here {found[key].split}, {found[key].bytes} bytes, "
                f"{found[key].sha256[:12]}"
            )
    if ours.tokenizer_sha256 and theirs.tokenizer_sha256:
        if ours.tokenizer_sha256 != theirs.tokenizer_sha256:
            lines.append("tokenizer.json: another hash")
    return lines


def report(ours: Manifest, theirs: Manifest) -> str:
    """Says in words whether the corpus at hand is the committed one, and lists what differs."""
    lines = differences(ours, theirs)
    if not lines:
        return f"The corpus equals the committed manifest ({len(ours.documents)} documents)."
    why = (
        f"It was made with Python {ours.python} and this is Python {theirs.python}, whose sources "
        "differ; figures of a model trained here need not equal the published ones."
        if ours.python != theirs.python
        else "The version is the same, so this installation was changed or lacks parts "
        "(some distributions package the tests apart)."
    )
    head = f"The corpus is NOT the committed one: {len(lines)} differences. {why}"
    return "\n".join([head, *lines])


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 1 if `--check` finds differences, 2 for an error."""
    parser = argparse.ArgumentParser(prog="python -m experiments.nano.corpus", description=__doc__)
    parser.add_argument("--out", type=Path, help="folder for corpus, tokenizer and token files")
    parser.add_argument("--check", action="store_true", help="only compare with the manifest")
    parser.add_argument(
        "--write-manifest", action="store_true", help="replace the committed manifest"
    )
    options = parser.parse_args(arguments)
    if not options.check and options.out is None:
        parser.error("give --out DIR to build the corpus there, or --check to compare only")
    try:
        manifest = describe(collect()) if options.check else build(options.out)
        if options.write_manifest:
            write_bytes(MANIFEST_PATH, manifest.to_json().encode())
        committed = Manifest.from_json(MANIFEST_PATH.read_text("utf-8"))
    except ArielError as error:
        print(error, file=sys.stderr)
        return 2
    print(report(committed, manifest))
    for domain, splits in manifest.totals().items():
        print(domain, " ".join(f"{split}={size}" for split, size in sorted(splits.items())))
    return 1 if options.check and differences(committed, manifest) else 0


if __name__ == "__main__":
    raise SystemExit(main())
