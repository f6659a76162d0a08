"""`ariel-jax generate-private`: few-shot answers from private demonstrations, under a budget."""

import dataclasses
import json
import pathlib
import tempfile
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from ariel_jax import durable
from ariel_jax._checks import in_range, non_negative_int, positive, positive_int, seed
from ariel_jax.algorithms import mozo
from ariel_jax.algorithms.mozo.price import MOST_EPSILON
from ariel_jax.cli.budget import account_terms, ledger_path
from ariel_jax.cli.console import say
from ariel_jax.errors import ConfigError
from ariel_jax.models import hf
from ariel_jax.models.config import Precision
from ariel_jax.privacy.ledger import Ledger, Terms

PRECISIONS = {"f32": Precision.f32, "bf16": Precision.bf16}
ORDER = 16  # of a Renyi ball: at epsilon 2 and delta 1e-5 an order of 8 leaves a third as much
REDRAW = 5  # tokens, after which demonstrations are drawn anew unless the user says otherwise


@dataclass(frozen=True, kw_only=True)
class Args:
    """Flags of `ariel-jax generate-private`."""

    demos: pathlib.Path
    """Private demonstrations, one JSON object a line: {"input": ..., "output": ...} or {"text": ...}, with
    an "owner" if you like. A demonstration is what is protected, with --sample-owners an owner."""
    epsilon: float
    """Budget of this run: of all its answers together ..."""
    delta: float = 1e-5
    """... at this delta, below 1 / demonstrations."""
    query: str | None = None
    """What is asked. Queries are public."""
    queries: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A file with one query a line, all under one budget; prints one JSON object for each."""
    synthesize: int = 0
    """Instead of answers, write so many more demonstrations (JSONL), to be used without limit."""
    model: Annotated[str, tyro.conf.arg(metavar="nano|FOLDER")] = "nano"
    """A folder in Hugging Face form, or nano, the model that ships with the package."""
    instruction: str = ""
    """Public text before every prompt."""
    format: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="FILE")] = None
    """How prompts are written: a JSON object with "demonstration", "text", "query" and "stop" (a list);
    default "Input: {input}\\nOutput: {output}\\n\\n", ended by a line's end."""
    max_new: int = 64
    """Tokens of an answer at most; all of them are paid for beforehand."""
    shots: float = 4
    """Demonstrations in a draw: on average (poisson), or exactly."""
    redraw_every: int | None = None
    """Tokens after which demonstrations are drawn anew; 0: once an answer. Default 5 where they are drawn
    in secret."""
    sampler: Literal["poisson", "without_replacement", "partition", "none"] = "poisson"
    """How demonstrations are drawn: each by its own coin, a fixed number, a fixed group for each query, or
    all of them every time."""
    contract: Literal["scale", "linear", "clip", "renyi", "renyi_linear"] = "scale"
    """What bounds a demonstration's row; see the documentation. The first three bound what it adds to any
    token's log-ratio, the others its Renyi divergence at one order."""
    pool: Literal["product", "arithmetic"] = "product"
    """How rows are mixed: a product of ratios, or, with renyi and renyi_linear only, a mean of
    probabilities."""
    alpha: int | None = None
    """Order of renyi and renyi_linear; default 16. Small budgets need large orders."""
    top_k: int = 100
    """Only the k tokens that are likeliest without demonstrations can be drawn; 0: all."""
    temperature: float = 1.0
    """Of the zero-shot row: public, and free of charge."""
    demos_about: int | None = None
    """A public number that the demonstrations (with --sample-owners the owners) do not exceed; for poisson
    and none. With it one more or less is protected (add_remove), their own number too, which is neither
    used nor printed. Without it that number is public, and what is protected is one against nothing in
    its place (zero_out); replace_one with the other samplers."""
    max_demo_tokens: int = 128
    """Tokens that a demonstration has room for: a public number, not the longest one's."""
    cut: bool = False
    """Cut a demonstration that is longer, by itself, instead of refusing it."""
    sample_owners: bool = False
    """Protect owners: draw owners, and show one demonstration of each."""
    on_exhausted: Literal["raise", "public"] = "raise"
    """Where the budget is spent: refuse, or answer without demonstrations."""
    ledger: pathlib.Path | None = None
    """File of the budgets; default DEMOS.ledger.sqlite beside --demos, so that all runs on it share one."""
    witness: pathlib.Path | None = None
    """File, best on another disk, that remembers what the ledger has seen: one put back is refused."""
    account: str | None = None
    """Account of the ledger that pays; default the path of the file and what is protected."""
    budget: float | None = None
    """Epsilon of the account for all runs together, where this makes it; default that of this run."""
    store: Literal["auto", "device", "host", "none"] = "auto"
    """Where what the model has read of the demonstrations is kept; none: read again for each draw;
    auto: on the device, where it fits and there are enough answers to be worth reading all of them."""
    report: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the privacy report: .json, or Markdown."""
    insecure_seed: int | None = None
    """For tests: draws and tokens that anybody can repeat. Marks the account as NOT PRIVATE for good."""
    precision: Literal["auto", "f32", "bf16"] = "auto"
    """Of weights, activations and cache; auto is f32 on a CPU, where bf16 is slower."""
    json: bool = False
    """Print one JSON object instead of text."""


def run(args: Args) -> int:
    """Prints the answers and, on stderr, what they guarantee; returns 0."""
    _check(args)
    _check_report(args)
    queries = _queries(args)
    records = mozo.load(args.demos)
    precision = None if args.precision == "auto" else PRECISIONS[args.precision]()
    model = hf.load_pretrained(args.model, precision=precision)
    if not isinstance(model.tokenizer, hf.Tokenizer):
        raise ConfigError(f"{args.model} has no tokenizer.json: choose a folder with one.")
    encoded = mozo.encode(
        records,
        model.tokenizer,
        _format(args),
        max_tokens=args.max_demo_tokens,
        too_long="cut" if args.cut else "refuse",
        owner_policy="sample_owners" if args.sample_owners else None,
    )
    path = ledger_path(args.demos, args.ledger)
    terms = _terms(args, path)
    n_answers = args.synthesize or len(queries)
    plan = _plan(args, len(encoded.units), n_answers, terms, model.cfg.vocab_size)
    say(
        f"{plan.describe(n_answers)}; epsilon {args.epsilon:g} at delta {args.delta:g} ({plan.relation}), "
        f"paid by {terms.account!r} in {path}"
    )
    for line in plan.cautions():
        say(f"warning: {line}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise durable.storage_error(path.parent, error) from error
    options: dict[str, Any] = {
        "on_exhausted": args.on_exhausted,
        "place": args.store,
        "seed": args.insecure_seed,
        "insecure_seed_ok": args.insecure_seed is not None,
    }
    with Ledger(path, terms, witness=args.witness) as ledger:
        if args.synthesize:
            report = _synthesize(args, model, encoded, plan, ledger, options)
        else:
            report = _answer(args, model, encoded, queries, plan, ledger, options)
    _explain(args, report)
    return 0


def _answer(
    args: Args,
    model: hf.Model,
    encoded: mozo.Encoded,
    queries: list[str],
    plan: mozo.Plan,
    ledger: Ledger,
    options: dict[str, Any],
) -> mozo.PrivacyReport:
    def answered(number: int, answer: mozo.Answer) -> None:
        if args.queries is not None or args.json:
            body = {"query": queries[number]} | dataclasses.asdict(answer)
            print(json.dumps(body, ensure_ascii=False), flush=True)
        else:
            print(answer.text.strip(), flush=True)
        _progress(number, len(queries), answer)

    return mozo.generate(
        model, encoded, queries, plan, ledger, on_answer=answered, **options
    ).privacy


def _synthesize(
    args: Args,
    model: hf.Model,
    encoded: mozo.Encoded,
    plan: mozo.Plan,
    ledger: Ledger,
    options: dict[str, Any],
) -> mozo.PrivacyReport:
    made = mozo.synthesize(
        model,
        encoded,
        args.synthesize,
        plan,
        ledger,
        kind="text" if encoded.are_texts else "demonstration",
        on_answer=lambda number, answer: _progress(number, args.synthesize, answer),
        **options,
    )
    for demonstration in made.demonstrations:
        print(json.dumps(demonstration.fields(), ensure_ascii=False))
    say(f"{len(made.demonstrations)} of {args.synthesize} texts have all parts of a demonstration")
    return made.privacy


def _progress(number: int, of: int, answer: mozo.Answer) -> None:
    public = "" if answer.is_private else ", without demonstrations"
    say(f"[{number + 1}/{of}] {len(answer.tokens)} tokens, {answer.finish_reason}{public}")


def _check(args: Args) -> None:
    """Refuses what needs no file to be refused."""
    in_range(0, MOST_EPSILON, ends="(]", epsilon=args.epsilon)
    in_range(0, 1, ends="()", delta=args.delta)
    positive(shots=args.shots, temperature=args.temperature)
    positive_int(max_new=args.max_new, max_demo_tokens=args.max_demo_tokens)
    non_negative_int(synthesize=args.synthesize, top_k=args.top_k)
    seed(insecure_seed=args.insecure_seed)
    if args.budget is not None:
        in_range(0, MOST_EPSILON, ends="(]", budget=args.budget)
    if args.redraw_every is not None:
        non_negative_int(redraw_every=args.redraw_every)
    if args.demos_about is not None:
        positive_int(demos_about=args.demos_about)
        if args.sampler not in ("poisson", "none"):
            raise ConfigError(
                f"--demos-about with --sampler {args.sampler}: there the number of demonstrations is public "
                "and enters the price. Leave it out, or take --sampler poisson."
            )
    _config(args, top_k=None)
    given = [args.query is not None, args.queries is not None, args.synthesize > 0]
    if sum(given) != 1:
        raise ConfigError(
            f"{sum(given)} of --query, --queries and --synthesize were given: pass one of them."
        )


def _check_report(args: Args) -> None:
    """Refuses a report that cannot be written before anything is spent."""
    if args.report is None:
        return
    ledger = ledger_path(args.demos, args.ledger)
    inputs = {
        "--demos": args.demos,
        "--queries": args.queries,
        "--format": args.format,
        "--ledger": ledger,
        "--witness": args.witness,
    }
    for flag, path in inputs.items():
        if path is not None and path.resolve() == args.report.resolve():
            raise ConfigError(f"--report {args.report} is the file of {flag}: name another one.")
    if args.report.is_dir():
        raise ConfigError(f"--report {args.report} is a folder: name a file in it.")
    if args.report.parent.resolve() == ledger.parent:
        return  # made where it is missing, and written by the ledger before it reserves
    try:
        with tempfile.TemporaryFile(dir=args.report.parent):
            pass
    except OSError as error:
        raise durable.storage_error(args.report, error) from error


def _queries(args: Args) -> list[str]:
    if args.queries is None:
        return [] if args.query is None else [args.query]
    try:
        text = args.queries.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"it is not UTF-8: {error}"
        raise ConfigError(
            f"cannot read queries from {args.queries}: {reason}. Pass a readable text file."
        ) from error
    found = [line for line in text.split("\n") if line.strip()]
    if not found:
        raise ConfigError(f"{args.queries} holds no queries: write one a line.")
    return found


def _format(args: Args) -> mozo.PromptFormat:
    body: Any = {}
    if args.format is not None:
        try:
            body = json.loads(args.format.read_text("utf-8-sig"))
        except OSError as error:
            raise ConfigError(
                f"cannot read the format from {args.format}: {error.strerror}. Pass a readable JSON file."
            ) from error
        except ValueError as error:
            raise ConfigError(f"{args.format} is no JSON in UTF-8: {error}.") from error
        except RecursionError:
            raise ConfigError(f"{args.format} is nested too deeply to be a format.") from None
    names = ("demonstration", "text", "query", "stop")
    stop: Any = body.get("stop", []) if isinstance(body, dict) else None
    good = isinstance(stop, list) and all(
        isinstance(value, str) for name, value in body.items() if name != "stop"
    )
    if not good or set(body) - set(names):
        raise ConfigError(
            f"{args.format} is no format: write a JSON object with texts for any of {', '.join(names[:3])} "
            'and a list of texts for "stop".'
        )
    if "stop" in body:
        body = body | {"stop": tuple(stop)}
    return mozo.PromptFormat(instruction=args.instruction, **body)


def _terms(args: Args, path: pathlib.Path) -> Terms:
    return account_terms(
        path,
        args.demos,
        unit="owner" if args.sample_owners else "record",
        relation=_neighbours(args) if args.sampler in ("poisson", "none") else "replace_one",
        epsilon=args.epsilon,
        delta=args.delta,
        account=args.account,
        budget=args.budget,
        ledger=args.ledger,
    )


def _neighbours(args: Args) -> str:
    """One more or less where no number comes from the file, as of `train-private`."""
    return "zero_out" if args.demos_about is None else "add_remove"


def _plan(args: Args, n_units: int, n_answers: int, terms: Terms, vocabulary: int) -> mozo.Plan:
    is_drawn = args.sampler in ("poisson", "without_replacement")
    redraw = (REDRAW if is_drawn else None) if args.redraw_every is None else args.redraw_every
    about = n_units if args.demos_about is None else args.demos_about
    if about < n_units:
        raise ConfigError(
            f"--demos-about {about} is below the number of demonstrations (or owners) in {args.demos}: "
            "pass a public number that they do not exceed."
        )
    top_k = None if args.top_k == 0 else min(args.top_k, vocabulary)
    return mozo.plan_for(
        _config(args, top_k),
        n_demonstrations=about,
        epsilon=args.epsilon,
        delta=args.delta,
        n_queries=n_answers,
        max_tokens=args.max_new,
        sampler=args.sampler,
        neighbours=_neighbours(args),
        subset=about if args.sampler == "none" else args.shots,
        redraw_every=redraw or None,
        unit="owner" if args.sample_owners else "demonstration",
        tau0=args.temperature,
        account_epsilon=terms.epsilon,
    )


def _config(args: Args, top_k: int | None) -> mozo.Config:
    alpha = ORDER if args.alpha is None and args.contract in mozo.BALLS else args.alpha
    return mozo.Config(top_k=top_k, contract=args.contract, pool=args.pool, alpha=alpha)


def _explain(args: Args, report: mozo.PrivacyReport) -> None:
    say(report.guarantee)
    say(
        f"charged to {report.account!r} in {report.ledger}, which now stands at epsilon "
        f"{report.account_epsilon:.4f} of {report.account_limit:g}"
    )
    for line in report.not_protected:
        say(f"not covered: {line}")
    if args.report is not None:
        if args.report.suffix == ".json":
            durable.write_json(args.report, report.to_json())
        else:
            durable.write_bytes(args.report, report.markdown().encode())
