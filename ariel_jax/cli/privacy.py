"""`ariel-jax privacy`: judgements, proofs and the log of the privacy judge, and serving it to agents."""

import json
import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from ariel_jax.cli import privacy_actions as actions
from ariel_jax.cli.privacy_log import Asked, Judging, Log

NEEDS_JAX = False
_Value = Literal["appropriate", "inappropriate", "ask"]


@dataclass(frozen=True, kw_only=True)
class Record(Asked):
    """Write down a judgement of yours; ANY in a slot means whatever it is."""

    value: Annotated[_Value, tyro.conf.Positional]
    """May it be disclosed; ask: always ask me about this."""
    note: str = ""
    """For yourself; no values of data."""
    supersedes: tuple[int, ...] = ()
    """Other judgements that do not stand any more."""


@dataclass(frozen=True, kw_only=True)
class Import(Log):
    """Write down the judgements of a file, all of them or none."""

    file: Annotated[pathlib.Path, tyro.conf.Positional]
    """JSON lines such as {"data": ["phone number"], "recipient": "restaurant", "value": "appropriate"}; purpose,
    principle, subject, sender, at (a time) and note may be given."""


@dataclass(frozen=True, kw_only=True)
class Ask(Log):
    """Show open questions, or answer one."""

    decision: int | None = None
    """The decision that asked; with --answer by default the latest open one."""
    answer: _Value | None = None
    """May it be disclosed; ask: always ask me about this."""
    once: bool = False
    """For this one disclosure only: no judgement is made of it."""
    generalise: tuple[str, ...] = ()
    """SLOT=NODE: the answer is meant for this wider node, such as recipient=commerce.restaurant, or ANY."""
    meant: tuple[str, ...] = ()
    """SLOT=NODE: what was meant by words that were not understood; once for each of them."""
    supersedes: tuple[int, ...] = ()
    """Of a conflict: judgements that do not stand any more."""
    retract_edges: tuple[int, ...] = ()
    """Of a conflict: facts that are wrong."""


@dataclass(frozen=True, kw_only=True)
class Explain(Log):
    """Say in words why a decision was made."""

    decision: Annotated[int, tyro.conf.Positional]
    """Its number."""
    why_not: Literal["share", "withhold"] | None = None
    """Say what is missing for this verdict instead."""
    proof: bool = False
    """Print its proof instead."""


@dataclass(frozen=True, kw_only=True)
class Verify(Log):
    """Check the chains of the log and every proof in it."""

    decision: int | None = None
    """Check the proof of this decision only."""
    task: str | None = None
    """Check that this is the text of the task that --decision was asked with."""
    heads: pathlib.Path | None = None
    """A file that remembers the latest rows seen: made, then compared and renewed."""


@dataclass(frozen=True, kw_only=True)
class History(Log):
    """List decisions."""

    where: str = ""
    """A condition in SQL, such as "verdict = 'share' AND recipient LIKE 'commerce%'"."""


@dataclass(frozen=True, kw_only=True)
class Rules(Log):
    """List the judgements that stand."""


@dataclass(frozen=True, kw_only=True)
class Retract(Log):
    """Take a judgement back as if it had never been."""

    judgement: Annotated[int, tyro.conf.Positional]
    """Its number."""


@dataclass(frozen=True, kw_only=True)
class Ontology(Log):
    """List nodes and facts, or change them."""

    slot: str | None = None
    """Of this slot only."""
    match: str = ""
    """Only those with this in an id, a label or another name."""
    retract: tuple[int, ...] = ()
    """Facts that do not hold."""
    confirm: tuple[int, ...] = ()
    """Proposed facts that hold."""
    add_node: tuple[str, ...] = ()
    """SLOT ID LABEL of a new node."""
    add_edge: tuple[str, ...] = ()
    """SLOT TYPE SRC DST of a new fact, such as: recipient isa commerce.bistro commerce.restaurant."""
    read: pathlib.Path | None = None
    """Replace all by those of this JSON file."""


@dataclass(frozen=True, kw_only=True)
class Forget(Log):
    """Delete all that the log has about a user, for good."""

    yes: bool = False
    """Do it; without it nothing is deleted."""


@dataclass(frozen=True, kw_only=True)
class Export(Log):
    """Write the log, or the facts, in another form."""

    what: Annotated[
        Literal["decisions", "judgements", "ontology", "asp", "cedar"], tyro.conf.Positional
    ]
    """What to write; ontology: nodes and facts as JSON; asp: a program for clingo that judges the logged requests
    again; cedar: judgements as policies for Cedar."""
    form: Literal["jsonl", "csv"] = "jsonl"
    """Of decisions and judgements."""
    decision: int | None = None
    """Of asp: the request of this decision only."""
    out: pathlib.Path | None = None
    """The file, for this user only; by default standard output."""


@dataclass(frozen=True, kw_only=True)
class Serve(Judging):
    """Answer agents over HTTP on this machine; they cannot choose the profile."""

    host: str = "127.0.0.1"
    """The address to listen at."""
    port: int = 8765
    """The port; 0 lets the system choose."""
    allow_remote: bool = False
    """Allow an address that other machines reach; only behind a proxy with TLS."""
    hosts: tuple[str, ...] = ()
    """More names by which callers may call this server."""


@dataclass(frozen=True, kw_only=True)
class Mcp(Judging):
    """Answer an agent over MCP on standard input and output; it cannot choose the profile."""

    elicit: Literal["off", "once", "judgements"] = "off"
    """Let the client show questions: never; for one disclosure each; or also for judgements, if you know that
    it shows every form to you. A client may answer a question without showing it to you."""


_Command = (
    Annotated[Record, tyro.conf.subcommand("record")]
    | Annotated[Import, tyro.conf.subcommand("import")]
    | Annotated[Ask, tyro.conf.subcommand("ask")]
    | Annotated[Explain, tyro.conf.subcommand("explain")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
    | Annotated[History, tyro.conf.subcommand("log")]
    | Annotated[Rules, tyro.conf.subcommand("rules")]
    | Annotated[Retract, tyro.conf.subcommand("retract")]
    | Annotated[Ontology, tyro.conf.subcommand("ontology")]
    | Annotated[Forget, tyro.conf.subcommand("forget")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Serve, tyro.conf.subcommand("serve")]
    | Annotated[Mcp, tyro.conf.subcommand("mcp")]
)


@dataclass(frozen=True, kw_only=True)
class Args:
    """What to do."""

    command: Annotated[_Command, tyro.conf.arg(name="")]


_ACTIONS: dict[type, Callable[[Any], tuple[int, Any, str]]] = {
    Record: actions.record,
    Import: actions.import_file,
    Ask: actions.ask,
    Explain: actions.explain,
    Verify: actions.verify,
    History: actions.history,
    Rules: actions.rules,
    Retract: actions.retract,
    Ontology: actions.ontology,
    Forget: actions.forget,
    Export: actions.export,
    Serve: actions.serve,
    Mcp: actions.mcp,
}


def run(args: Args) -> int:
    """Does it and prints; returns 0, and for an answer 0 to share, 10 to withhold, 20 to ask.

    Raises:
        ArielError: what the action raises: bad input, a log that cannot be written or was changed.
    """
    status, value, text = _ACTIONS[type(args.command)](args.command)
    if args.command.json:
        print(json.dumps(value, ensure_ascii=False))
    elif text:
        print(text, end="" if text.endswith("\n") else "\n")
    return status
