"""`ariel-jax train-private`: fine-tune a language model on private records under a budget."""

import json
import math
import pathlib
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from ariel_jax import durable
from ariel_jax._checks import in_range, non_negative, one_of, positive, positive_int, seed
from ariel_jax.algorithms.dp_grape import canaries, trainer
from ariel_jax.algorithms.dp_grape.config import Config
from ariel_jax.algorithms.dp_grape.methods import PRIVATE
from ariel_jax.algorithms.dp_grape.report import PrivacyReport
from ariel_jax.algorithms.dp_grape.text import (
    Record,
    TextLoss,
    encode_records,
    made_up_records,
    read_records,
)
from ariel_jax.cli.budget import account_terms, ledger_path
from ariel_jax.cli.console import say
from ariel_jax.errors import ConfigError, missing_extra
from ariel_jax.models import hf
from ariel_jax.models.config import Precision
from ariel_jax.models.quantization import check_not_quantized
from ariel_jax.privacy.ledger import Ledger, Terms, accounts
from ariel_jax.training.export import export_model
from ariel_jax.training.metrics import read_metrics


@dataclass(frozen=True, kw_only=True)
class Args:
    """Flags of `ariel-jax train-private`."""

    data: pathlib.Path
    """Private records, one JSON object a line: {"text": ...} to model texts, or {"text": ..., "label":
    ...} to predict labels; or a .csv file with these columns. A record is what is protected."""
    epsilon: float
    """Budget of this run ..."""
    delta: float = 1e-5
    """... at this delta, which should lie far below 1 / records."""
    out: pathlib.Path | None = None
    """Folder of the run: checkpoints (secret), metrics.jsonl, the report, and in the end model/. The same
    command goes on with it. None: the name of the data and -private, in the current folder."""
    model: Annotated[str, tyro.conf.arg(metavar="nano|FOLDER")] = "nano"
    """A folder in Hugging Face form, or nano, the model that ships with the package."""
    method: str = "dp-grape"
    """How it trains."""
    rank: int = 16
    """Columns of the random projections."""
    clip_norm: float = 1.0
    """Most that a record may change the sum of a step by."""
    steps: int = 100
    """Optimiser steps in all."""
    batch: int = 32
    """Records in a step, on average."""
    lr: float = 1e-3
    """Learning rate of Adam."""
    max_tokens: int = 64
    """Tokens of a record; what is longer is cut."""
    microbatch: int = 8
    """Records whose gradients exist at once."""
    relation: Literal["zero_out", "add_remove"] = "zero_out"
    """Neighbouring data sets: a record that counts as nothing (the number of records is public), or
    one more or less (then it is private: give --records-about)."""
    records_about: int | None = None
    """A public number that the records do not exceed; needed with --relation add_remove."""
    ledger: pathlib.Path | None = None
    """File of the budgets; default DATA.ledger.sqlite beside --data, so that all runs on it share one."""
    witness: pathlib.Path | None = None
    """File, best on another disk, that remembers what the ledger has seen: one put back is refused."""
    account: str | None = None
    """Account of the ledger that pays, one for each data set; default the path of the data file."""
    budget: float | None = None
    """Epsilon of the account for all runs together, where this makes it; default that of this run."""
    strict: bool = False
    """Refuse a delta of 1 / records or more instead of warning."""
    seed: int = 0
    """Of the projections, which are public; noise and draws come from the operating system."""
    checkpoint_s: float = 60.0
    """Seconds between checkpoints."""
    log_every: int = 1
    """Steps between lines of metrics.jsonl."""
    log_private_stats: bool = False
    """Write losses and norms to metrics.jsonl, which no budget covers."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the saved weights; they are trained in float32."""
    audit_canaries: int | None = None
    """Add so many made-up records, each by a secret coin, and let the report say what the trained model
    tells of the coins: a lower bound on epsilon. They are nobody's, change the model a little, and share
    --batch with the records. 100 can show an epsilon of 2.5 at most, 1000 one of 4.8. None: no audit."""
    abandon: bool = False
    """Give the run in --out up instead of going on with it: what it surely did not spend is given back."""


def run(args: Args) -> int:
    """Trains, saves and reports.

    Returns:
        0; 130 when a signal ended the run after a checkpoint; 1 when the audit refutes the claim.
    """
    _check(args)
    path = _ledger(args)
    out = (args.out or pathlib.Path(f"{args.data.stem}-private")).resolve()
    if args.abandon:
        return _abandon(args, path, out)
    records = read_records(args.data)
    model, tokenizer = _model(args)
    prepared, terms, planted = _prepared(args, path, records, model, tokenizer)
    trainer.check(prepared, terms, strict=args.strict)
    loss = TextLoss(model.cfg)
    before = None
    if planted is not None:  # the run takes the first weights over
        before = canaries.losses(loss, model.params, planted, at_once=args.microbatch)
    _introduce(args, prepared, terms, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise durable.storage_error(path.parent, error) from error
    with Ledger(path, terms, witness=args.witness) as ledger:
        fitted = trainer.fit(
            prepared,
            ledger,
            out,
            strict=args.strict,
            checkpoint_every_s=args.checkpoint_s,
            log_every=args.log_every,
            log_private_stats=args.log_private_stats,
        )
    if fitted.interrupted:
        say(
            f"stopped after step {fitted.step} of {args.steps}; the same command goes on. Its price stays "
            f"reserved in {path}."
        )
        return 130
    export_model(model.cfg, fitted.params, tokenizer, out / "model", dtype=args.dtype)
    report = fitted.report
    if planted is not None and before is not None:
        after = canaries.losses(loss, fitted.params, planted, at_once=args.microbatch)
        claim = {"epsilon": report.epsilon, "delta": report.delta}
        scores = canaries.falls(before, after)
        report = report.with_audit(canaries.audit(scores, fitted.canaries, **claim))
    _write(out, report, picture=_picture(out, terms, args.epsilon))
    return 1 if report.audit is not None and report.audit.refutes else 0


def _model(args: Args) -> tuple[hf.Model, hf.Tokenizer]:
    model = hf.load_pretrained(args.model, precision=Precision.f32())
    check_not_quantized(model.params, f"training on {args.model}")
    if not isinstance(model.tokenizer, hf.Tokenizer):
        raise ConfigError(f"{args.model} has no tokenizer.json: choose a folder with one.")
    if args.max_tokens > model.cfg.max_positions:
        raise ConfigError(
            f"--max-tokens {args.max_tokens} exceeds the model's {model.cfg.max_positions} positions: "
            "pass fewer."
        )
    return model, model.tokenizer


def _prepared(
    args: Args,
    path: pathlib.Path,
    records: list[Record],
    model: hf.Model,
    tokenizer: hf.Tokenizer,
) -> tuple[trainer.PrivateRun, Terms, dict[str, Any] | None]:
    """(run, terms, canaries)."""
    arrays = encode_records(records, tokenizer, max_tokens=args.max_tokens)
    terms = _terms(args, path)
    about = _about(args, len(records)) + (args.audit_canaries or 0)
    planted = _canaries(args, tokenizer.vocab_size)
    plan, rows = trainer.plan_for(
        about=about,
        probability=args.batch / about,
        steps=args.steps,
        epsilon=args.epsilon,
        delta=args.delta,
        relation=args.relation,
        microbatch=args.microbatch,
        account_epsilon=terms.epsilon,
    )
    settings = trainer.Settings(
        method=args.method,
        clip_norm=args.clip_norm,
        expected_batch=float(args.batch),
        rows=rows,
        learning_rate=args.lr,
        cfg=Config(rank=args.rank),
        seed=args.seed,
        microbatch=args.microbatch,
        about=args.records_about,
        canaries=args.audit_canaries,
    )
    arrays = arrays if planted is None else canaries.appended(arrays, planted)
    loss = TextLoss(model.cfg)
    run = trainer.prepare(model.params, loss=loss, records=arrays, plan=plan, settings=settings)
    return run, terms, planted


def _canaries(args: Args, vocabulary: int) -> dict[str, Any] | None:
    """A function of the flags, so that a run that goes on has the same; their coins are the run's."""
    if args.audit_canaries is None:
        return None
    return made_up_records(
        args.audit_canaries,
        vocabulary=vocabulary,
        max_tokens=args.max_tokens,
        seed_of_all=args.seed,
    )


def _check(args: Args) -> None:
    """Refuses what needs no file to be refused."""
    in_range(0, trainer.MOST_EPSILON, ends="(]", epsilon=args.epsilon)
    positive(clip_norm=args.clip_norm, lr=args.lr)
    non_negative(checkpoint_s=args.checkpoint_s)
    in_range(0, 1, ends="()", delta=args.delta)
    one_of(PRIVATE, method=args.method)
    positive_int(
        rank=args.rank,
        steps=args.steps,
        batch=args.batch,
        max_tokens=args.max_tokens,
        microbatch=args.microbatch,
        log_every=args.log_every,
    )
    seed(seed=args.seed)
    if args.audit_canaries is not None:
        canaries.check_count(args.audit_canaries)
    if args.budget is not None:
        in_range(0, trainer.MOST_EPSILON, ends="(]", budget=args.budget)
    if (args.records_about is not None) != (args.relation == "add_remove"):
        raise ConfigError(
            f"--relation {args.relation} with --records-about {args.records_about}: add_remove needs a "
            "public number that the records do not exceed, and zero_out takes their own."
        )


def _abandon(args: Args, path: pathlib.Path, out: pathlib.Path) -> int:
    terms = _terms(args, path)
    if terms.account not in accounts(path):
        raise ConfigError(
            f"the ledger {path} has no account {terms.account!r}: name those that paid with --ledger and "
            "--account."
        )
    with Ledger(path, terms, witness=args.witness) as ledger:
        used = trainer.abandon(ledger, out).epsilon(terms.delta)
        now = ledger.epsilon()
    say(
        f"the run in {out} is given up and charged epsilon {used:.4f}; {terms.account!r} in {path} now "
        f"stands at {now:.4f} of {terms.epsilon:g}"
    )
    return 0


def _about(args: Args, n: int) -> int:
    about = n if args.records_about is None else args.records_about
    if about < n:
        raise ConfigError(
            f"--records-about {about} is below the number of records in {args.data}: pass a public number "
            "that they do not exceed."
        )
    if args.batch > about:
        raise ConfigError(
            f"--batch {args.batch} exceeds the {about} records: pass at most so many."
        )
    return about


def _ledger(args: Args) -> pathlib.Path:
    return ledger_path(args.data, args.ledger)


def _terms(args: Args, path: pathlib.Path) -> Terms:
    return account_terms(
        path,
        args.data,
        unit="record",
        relation=args.relation,
        epsilon=args.epsilon,
        delta=args.delta,
        account=args.account,
        budget=args.budget,
        ledger=args.ledger,
    )


def _introduce(args: Args, prepared: trainer.PrivateRun, terms: Terms, path: pathlib.Path) -> None:
    plan, trained = prepared.plan, prepared.method.n_trained
    say(
        f"{args.method}: {trained:,} numbers trained for each record; {args.steps} steps of about "
        f"{args.batch} records, noise {plan.noise_multiplier:.3f} x clip norm {args.clip_norm:g}; "
        f"epsilon {args.epsilon:g} at delta {args.delta:g} ({args.relation}), paid by "
        f"{terms.account!r} in {path}"
    )
    if args.audit_canaries is not None:
        say(
            f"{args.audit_canaries} canaries beside the records, each in the data by a secret coin: nobody's "
            "texts, which the model learns from, too"
        )


def _write(out: pathlib.Path, report: PrivacyReport, picture: pathlib.Path | None) -> None:
    durable.write_json(out / "privacy.json", report.to_json())
    durable.write_bytes(out / "privacy.md", report.markdown().encode())
    say(report.guarantee)
    say(
        f"charged to {report.account!r} in {report.ledger}, which now stands at epsilon "
        f"{report.account_epsilon:.4f} of {report.account_limit:g}"
    )
    if report.audit is not None:
        say(f"audit: {report.audited()}")
    for line in report.not_protected:
        say(f"not covered: {line}")
    found: dict[str, Any] = {
        "model": str(out / "model"),
        "report": str(out / "privacy.md"),
        "picture": None if picture is None else str(picture),
        "steps": report.steps,
        "epsilon": report.epsilon,
        "delta": report.delta,
    }
    if report.audit is not None:
        found["audit_lower_bound"] = report.audit.lower_bound
    print(json.dumps(found))


def _picture(out: pathlib.Path, terms: Terms, planned: float) -> pathlib.Path | None:
    """Epsilon spent over the steps, and the loss where it was written; None without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        say(str(missing_extra("matplotlib", "plot", "the picture of the run")))
        return None
    rows = read_metrics(out / "metrics.jsonl")
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot()
    steps = [row["step"] for row in rows]
    axes.plot(steps, [row["epsilon"] for row in rows], color="tab:blue", label="epsilon spent")
    axes.axhline(planned, color="tab:blue", linestyle=":", label="budget of the run")
    axes.set_xlabel("step")
    axes.set_ylabel(f"epsilon at delta {terms.delta:g}")
    axes.set_ylim(bottom=0)
    if any("loss" in row for row in rows):
        losses = axes.twinx()
        losses.plot(
            steps,
            [row.get("loss", math.nan) for row in rows],
            color="tab:orange",
            label="loss (not private)",
        )
        losses.set_ylabel("loss, not private", color="tab:orange")
    axes.legend(loc="lower right")
    path = out / "curve.png"
    with durable.replacing(path) as file:
        figure.savefig(file, format="png", dpi=120)
    return path
