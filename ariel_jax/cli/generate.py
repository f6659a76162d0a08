"""`ariel-jax generate`: text from a model, streamed, and one line on what it cost."""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro

from ariel_jax import measure
from ariel_jax.algorithms.bmc import Table
from ariel_jax.cli import self_drafting
from ariel_jax.cli.console import say_if_kernels_are_stale
from ariel_jax.decode import (
    Arithmetic,
    Autoregressive,
    CapacityPolicy,
    Completion,
    DraftModel,
    Generation,
    Geometric,
    NGram,
    Report,
    SamplingParams,
    Speculative,
    Sqrt,
    Strategy,
    Upfront,
    generate,
)
from ariel_jax.decode.traffic import bytes_per_step
from ariel_jax.errors import ConfigError
from ariel_jax.models import hf
from ariel_jax.models.config import Precision

# Every decoding method adds its row, and its choice of capacity its own below:
# name -> what makes it, and what a number after a colon means
STRATEGIES: dict[str, tuple[Callable[..., Strategy], str]] = {
    "autoregressive": (Autoregressive, ""),
    "ngram": (lambda k=4: Speculative(NGram(k=k)), "DRAFTS"),
}
CAPACITIES: dict[str, tuple[Callable[..., CapacityPolicy], str]] = {
    "upfront": (Upfront, "ROWS"),
    "arithmetic": (Arithmetic, "ROWS"),
    "doubling": (Geometric, ""),
    "sqrt": (Sqrt, ""),
}
PRECISIONS = {"f32": Precision.f32, "bf16": Precision.bf16}


@dataclass(frozen=True, kw_only=True)
class Args:
    """Flags of `ariel-jax generate`."""

    text: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="PROMPT")] = None
    """The prompt. Without it, --prompt or --file, standard input is read."""
    prompt: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    """The prompt as a flag, for one that begins with a dash."""
    file: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Read the prompt from this file."""
    lines: bool = False
    """Each line of the prompt is a prompt of its own; all are decoded as one batch (with --json)."""
    model: Annotated[str, tyro.conf.arg(metavar="nano|FOLDER")] = "nano"
    """A folder in Hugging Face form, or nano, the model that ships with the package."""
    chat: bool = False
    """Put the prompt into the model's chat template, as the user's first message."""
    strategy: Annotated[str, tyro.conf.arg(metavar="NAME[:N]")] = "autoregressive"
    """How tokens are found: autoregressive one by one, ngram[:DRAFTS] drafts from the text so far,
    draft[:DRAFTS] from the model of --draft-model, del[:DRAFTS] from the model's own first layers."""
    draft_model: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """A smaller model with the same tokenizer, for --strategy draft."""
    exits: Annotated[str | None, tyro.conf.arg(metavar="LAYER,LAYER,...")] = None
    """For --strategy del: layers after which drafting may end; default those that the checkpoint
    notes, else up to five."""
    controller: (
        Literal["del", "del-e", "del-gamma", "fixed", "finite-state", "draft-verify"] | None
    ) = None
    """For --strategy del: what chooses layer and number of drafts; default del."""
    verifier: Literal["coupled", "greedy", "rejection"] | None = None
    """For --strategy del: which drafts hold; default coupled, the tokens of plain decoding."""
    costs: Literal["measured", "layers"] | None = None
    """For --strategy del: what a round costs, as measured here (default; kept for the next time), or
    in layers as the paper counts."""
    live: bool = False
    """For --strategy del: a line on stderr that tells exit, drafts and what holds while decoding."""
    capacity: Annotated[str, tyro.conf.arg(metavar="NAME[:N]")] = "upfront"
    """How cache rows are reserved: upfront[:ROWS] once; arithmetic[:ROWS] more, doubling, sqrt or the
    next of table:ROWS,ROWS,... whenever they run out."""
    max_new: int = 128
    """Tokens to generate at most."""
    compile_ahead: bool = False
    """Compile for the next capacity while decoding goes on; for machines with idle processors."""
    min_new: int = 0
    """No end of text before this many tokens."""
    temperature: float = 0.0
    """0 takes the likeliest token each time."""
    top_k: int = 0
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the likeliest tokens up to this mass."""
    min_p: float = 0.0
    """Keep tokens at least this fraction as likely as the likeliest."""
    repetition_penalty: float = 1.0
    """Above 1 makes tokens that occurred already less likely."""
    seed: int = 0
    """Decides all draws; the k-th prompt of --lines gets seed + k."""
    stop: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """End the text before this string; may be repeated."""
    ignore_eos: bool = False
    """Go on after an end-of-text token."""
    stream: bool = True
    """Print text as soon as it is final."""
    stream_every: int = 16
    """Decoding steps between two looks at the text."""
    precision: Literal["auto", "f32", "bf16"] = "auto"
    """Of weights, activations and cache; auto is f32 on a CPU, where bf16 is slower."""
    json: bool = False
    """Print one JSON object per prompt instead of text."""


def run(args: Args) -> int:
    """Prints the generated text and, on stderr, what it cost.

    Returns:
        0, or 1 if the model produced no numbers to choose a token from.

    Raises:
        ArielError: no or several prompts, unknown names, or whatever loading and decoding refuse.
    """
    name, _, _ = args.strategy.partition(":")
    if (name == "draft") != (args.draft_model is not None):
        raise ConfigError(
            f"--strategy {args.strategy} with --draft-model {args.draft_model}: --strategy draft "
            "needs a draft model, and no other one takes it."
        )
    is_own = self_drafting.check(args)
    strategy = None if name == "draft" or is_own else named_strategy(args.strategy)
    policy = parse_capacity(args.capacity)
    prompts = read_prompts(args)
    precision = None if args.precision == "auto" else PRECISIONS[args.precision]()
    model = hf.load_pretrained(args.model, precision=precision)
    encoded = [_encode(model, p, as_chat=args.chat) for p in prompts]
    extra = live = None
    if is_own:
        strategy, extra = self_drafting.make(args, model, encoded)
        live = self_drafting.Live(strategy, model.cfg.n_layers, shown=args.live)
    elif strategy is None:
        small = hf.load_pretrained(str(args.draft_model), precision=precision)
        strategy, extra = _drafting(args.strategy, model, small), small.params
    streaming = args.stream and not args.json
    try:
        out = _generate(args, model, encoded, strategy, policy, extra, live, streaming=streaming)
    except FloatingPointError as error:
        print(f"ariel-jax: error: {error}", file=sys.stderr)
        return 1
    cost = summary(model, out.report, out.completions)
    if live is not None and live.latest is not None:
        cost["del"] = dataclasses.asdict(live.latest)
        live.explain()
    if args.json:
        for k, completion in enumerate(out.completions):
            print(json.dumps({"index": k} | dataclasses.asdict(completion) | {"report": cost}))
        return 0
    print("" if streaming else out.texts[0], flush=True)
    print(cost_line(cost), file=sys.stderr)
    say_if_kernels_are_stale()
    if live is not None:
        print(live.line(), file=sys.stderr)
    return 0


def _generate(
    args: Args,
    model: hf.Model,
    prompts: list[list[int]],
    strategy: Strategy,
    policy: CapacityPolicy,
    extra: Any,
    live: self_drafting.Live | None,
    *,
    streaming: bool,
) -> Generation:
    return generate(
        model,
        prompts,
        max_new=args.max_new,
        strategy=strategy,
        capacity=policy,
        extra=extra,
        compile_ahead=args.compile_ahead,
        sampling=[_sampling(args, args.seed + k) for k in range(len(prompts))],
        stop=args.stop,
        ignore_eos=args.ignore_eos,
        on_text=_print_now if streaming else None,
        on_progress=live,
        stream_every=args.stream_every,
    )


def named_strategy(text: str) -> Strategy:
    """The decoding method of `NAME` or `NAME:N`.

    Raises:
        ConfigError: an unknown name, or an N that is no whole number or belongs to none.
    """
    return _named("--strategy", text, STRATEGIES, "draft[:DRAFTS]", "del[:DRAFTS]")


def _drafting(text: str, model: hf.Model, small: hf.Model) -> Strategy:
    """`draft[:DRAFTS]` with a model that must share the tokenizer."""
    texts = ("def f(x):\n    return x", "The 3 quick brown foxes.\n")
    ours, theirs = ([m.tokenizer.encode(t) for t in texts] for m in (model, small))
    if ours != theirs:
        raise ConfigError(
            f"{small.source} splits text into other tokens than {model.source}: a draft model must "
            "have the same tokenizer."
        )
    known = {"draft": (lambda k=4: Speculative(DraftModel(small.cfg, k=k)), "DRAFTS")}
    return _named("--strategy", text, known)


def parse_capacity(text: str) -> CapacityPolicy:
    """The capacity policy of `NAME` or `NAME:N`.

    Raises:
        ConfigError: an unknown name, or an N that is no whole number or belongs to none.
    """
    name, _, numbers = text.partition(":")
    if name == "table" and all(part.isdecimal() for part in numbers.split(",")):
        return Table(tuple(int(part) for part in numbers.split(",")))
    return _named("--capacity", text, CAPACITIES, "table:ROWS,ROWS,...")


def _named(
    flag: str, text: str, known: dict[str, tuple[Callable[..., Any], str]], *more: str
) -> Any:
    name, colon, number = text.partition(":")
    make, parameter = known.get(name, (None, ""))
    if make is None or (colon and not (parameter and number.isdecimal())):
        allowed = [f"{n}[:{p}]" if p else n for n, (_, p) in known.items()] + list(more)
        raise ConfigError(f"{flag} {text!r} is not known: pass one of {', '.join(allowed)}.")
    return make(int(number)) if colon else make()


def read_prompts(args: Args) -> list[str]:
    """The prompts, from wherever the arguments say.

    Raises:
        ConfigError: none, several sources, an unreadable or empty one.
    """
    given = [s for s in (args.text, args.prompt, args.file) if s is not None]
    if len(given) > 1:
        raise ConfigError(
            "the prompt was given more than once: pass it as an argument, with --prompt or with "
            "--file, one of them."
        )
    if args.lines and not args.json:
        raise ConfigError("--lines makes several texts: pass --json too, one object is one text.")
    if args.file is not None:
        text = _read(args.file)
    elif given:
        text = str(given[0])
    elif sys.stdin.isatty():
        raise ConfigError(
            "there is no prompt: pass it as an argument, with --prompt, with --file, or on "
            "standard input."
        )
    else:
        try:
            text = sys.stdin.read()
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"standard input is not UTF-8: {error}. Pass text in that encoding."
            ) from error
    prompts = [line for line in text.splitlines() if line] if args.lines else [text]
    if not prompts or not all(prompts):
        raise ConfigError("the prompt is empty: pass at least one character.")
    return prompts


def _read(file: pathlib.Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"it is not UTF-8: {error}"
        raise ConfigError(
            f"cannot read the prompt from {file}: {reason}. Pass a readable text file."
        ) from error


def _encode(model: hf.Model, prompt: str, *, as_chat: bool) -> list[int]:
    if not as_chat:
        return model.tokenizer.encode(prompt)
    if isinstance(model.tokenizer, hf.Tokenizer):
        return model.tokenizer.encode_chat([{"role": "user", "content": prompt}])
    raise ConfigError(
        f"--chat needs a tokenizer, and {model.source} has none; give a folder with tokenizer.json."
    )


def _sampling(args: Args, seed: int) -> SamplingParams:
    return SamplingParams(
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        min_p=args.min_p,
        repetition_penalty=args.repetition_penalty,
        min_new=args.min_new,
        seed=seed,
    )


def _print_now(request: int, text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def summary(model: hf.Model, report: Report, completions: tuple[Completion, ...]) -> dict[str, Any]:
    """What a call cost, ready for JSON.

    Args:
        model: with cfg and params.
        report: of the run.
        completions: of the run.

    Returns:
        Times in seconds, bytes, counts. `read_share` is the share of the measured read bandwidth
        that decoding reached: the weights and the valid keys and values of each step, over its
        time. It is None where fewer than two tokens were decoded.
    """
    # A row held on average its prompt and half of what it generated, in the steps that it took.
    drawn = np.array([len(c.tokens) - 1 for c in completions])
    held = np.array([c.n_prompt + len(c.tokens) / 2 for c in completions])
    took_part = drawn / max(int(drawn.max()), 1)
    share = rate = None
    if report.decode_steps:
        rate = bytes_per_step(model.cfg, model.params, held, share=took_part) / report.s_per_step
        share = rate / measure.ceilings().read_bytes_per_s
    return dataclasses.asdict(report) | {
        "platform": jax.default_backend(),
        "n_prompt": sum(c.n_prompt for c in completions),
        "tokens_per_s": report.tokens_per_s,
        "s_per_step": report.s_per_step,
        "read_bytes_per_s": rate,
        "read_share": share,
    }


def cost_line(cost: dict[str, Any]) -> str:
    """The summary as one line."""

    def n(count: int, what: str) -> str:
        return f"{count:,} {what}" + ("" if count == 1 else "s")

    parts = [n(cost["new_tokens"], "token")]
    if cost["decode_steps"]:
        unit = "step" if cost["proposed"] else "token"
        parts += [
            f"{cost['tokens_per_s']:.1f} tokens/s",
            f"{1e3 * cost['s_per_step']:.2f} ms/{unit}",
        ]
    if cost["proposed"]:
        parts.append(f"{cost['accepted']:,} of {n(cost['proposed'], 'draft')} held")
    parts.append(f"prefill {1e3 * cost['prefill_s']:.0f} ms for {n(cost['n_prompt'], 'token')}")
    if cost["read_share"] is not None:
        parts.append(f"{100 * cost['read_share']:.0f} % of read bandwidth")
    parts += [
        n(cost["growths"], "growth")
        + (f" ({1e3 * cost['grow_s']:.0f} ms)" if cost["growths"] else ""),
        f"{n(cost['compiles'], 'compile')} ({cost['compile_s']:.1f} s)",
        f"cache {cost['cache_bytes'] / 1e6:.1f} MB",
    ]
    return " | ".join(parts)
