"""`ariel-jax quantize`: a model with weights of 8 or 4 bits, and what that costs in quality."""

import dataclasses
import json
import math
import pathlib
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import tyro

from ariel_jax.cli.console import say
from ariel_jax.errors import ConfigError
from ariel_jax.models import hf
from ariel_jax.models.hf.save import check_target
from ariel_jax.models.params import DecoderParams
from ariel_jax.models.quantization import LayerError, quantize, report
from ariel_jax.training.scoring import score_documents
from ariel_jax.training.text import read_text

N_WORST = 10  # weights in the table


@dataclass(frozen=True, kw_only=True)
class Args:
    """Flags of `ariel-jax quantize`."""

    model: Annotated[str, tyro.conf.arg(metavar="nano|FOLDER")] = "nano"
    """A folder in Hugging Face form, or nano."""
    out: Annotated[pathlib.Path, tyro.conf.arg(metavar="FOLDER")]
    """The folder to write."""
    bits: Literal[8, 4] = 8
    """Bits of each number of a projection."""
    group: int | None = None
    """Neighbouring inputs that share a scale; by default a whole row with 8 bits, 64 with 4."""
    vocab_bits: Literal[8, 4] = 8
    """Bits of the token embedding and the output head."""
    text: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Also score this UTF-8 text, as one document, before and after."""
    json: bool = False
    """Print one JSON object instead of a table."""


def run(args: Args) -> int:
    """Writes the model and prints what became of its weights; returns 0.

    Raises:
        ArielError: whatever loading, quantising and saving refuse; then nothing was written.
    """
    text = None if args.text is None else read_text(args.text)
    check_target(args.out)  # saving does so too, but only after all the work
    model = hf.load_pretrained(args.model)
    if model.source is not None and args.out.resolve() == model.source.resolve():
        raise ConfigError(
            f"--out {args.out} is the model itself, which would be lost. Choose another folder."
        )
    quantized = dataclasses.replace(
        model,
        params=quantize(model.params, bits=args.bits, group=args.group, vocab_bits=args.vocab_bits),
    )
    errors = report(model.params, quantized.params)
    found: dict[str, Any] = {
        "weights": [dataclasses.asdict(error) for error in errors],
        "bytes_before": _bytes(model.params),
        "bytes_after": _bytes(quantized.params),
    }
    if text is not None:
        found |= {"before": _score(model, text), "after": _score(quantized, text)}
    hf.save_pretrained(quantized, args.out)
    say(f"written to {args.out}")
    print(json.dumps(found) if args.json else _text(args, found, errors))
    return 0


def _bytes(params: DecoderParams) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(params))


def _score(model: hf.Model, text: str) -> dict[str, float]:
    """Perplexity per token and bits per byte of a text, the start token not charged."""
    start = [model.generation.bos_id, *model.eos_ids]
    start_id = next((token for token in start if token is not None), None)
    if start_id is None:
        raise ConfigError(
            f"{model.source} names no token that a text begins with. Add bos_token_id to its "
            "config.json, or leave --text out."
        )
    ids = model.tokenizer.encode(text, add_special_tokens=False)
    if not ids:
        raise ConfigError("the text has no tokens: name a file that holds text.")
    say(f"scoring {len(ids):,} tokens")
    (score,) = score_documents(model.cfg, model.params, [ids], start_id=start_id)
    nats = float(score.nats.sum(dtype="float64"))
    return {
        "perplexity": math.exp(nats / len(ids)),
        "bits_per_byte": nats / math.log(2) / len(text.encode()),
    }


def _text(args: Args, found: dict[str, Any], errors: tuple[LayerError, ...]) -> str:
    worst = sorted(errors, key=lambda error: -error.relative_error)[:N_WORST]
    lines = [
        f"| worst {len(worst)} of {len(errors)} weights | relative error | largest error "
        "| bytes before | bytes after |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {e.path} | {e.relative_error:.4f} | {e.max_abs_error:.4g} | {e.bytes_before:,} "
        f"| {e.bytes_after:,} |"
        for e in worst
    ]
    before, after = found["bytes_before"], found["bytes_after"]
    lines.append(
        f"\nall weights in memory: {before:,} bytes before, {after:,} after ({after / before:.3f})"
    )
    if args.text is not None:
        one, two = found["before"], found["after"]
        lines.append(
            f"{args.text}: perplexity {one['perplexity']:.4f} before, {two['perplexity']:.4f} after"
            f" ({100 * (two['perplexity'] / one['perplexity'] - 1):+.2f} %); bits per byte "
            f"{one['bits_per_byte']:.4f} before, {two['bits_per_byte']:.4f} after"
        )
    return "\n".join(lines)
