"""`ariel-jax ledger`: what privacy budgets have paid for, and whether their file is intact; writes nothing."""

import datetime
import json
import math
import pathlib
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from ariel_jax.durable import Event
from ariel_jax.errors import ConfigError
from ariel_jax.privacy.ledger import OPENED, RESERVED, SETTLED, Ledger, accounts
from ariel_jax.privacy.renyi import Price


@dataclass(frozen=True, kw_only=True)
class Args:
    """Flags of `ariel-jax ledger`."""

    what: Annotated[Literal["show", "verify"], tyro.conf.Positional]
    """Show the accounts and their events; or check the chain of events, and --witness."""
    file: Annotated[pathlib.Path, tyro.conf.Positional]
    """The ledger, such as DATA.ledger.sqlite."""
    account: str | None = None
    """Of show: this account only."""
    witness: pathlib.Path | None = None
    """Of verify: the file that remembers the latest event seen."""
    json: bool = False
    """Print one JSON object instead of text."""


def run(args: Args) -> int:
    """Prints; returns 0.

    Raises:
        ConfigError: no such file, account or witness, or a flag of the other use.
        IntegrityError: the file is no ledger, or was changed.
        LedgerRollbackError: it lacks events that the witness has seen.
        StorageError: it cannot be read.
    """
    other = "witness" if args.what == "show" else "account"
    if getattr(args, other) is not None:
        right = "verify" if args.what == "show" else "show"
        raise ConfigError(
            f"--{other} {getattr(args, other)} belongs to `ariel-jax ledger {right}`."
        )
    if not args.file.is_file():
        raise ConfigError(f"there is no ledger {args.file}: name the file of one.")
    return _show(args) if args.what == "show" else _verify(args)


def _verify(args: Args) -> int:
    if args.witness is not None and not args.witness.is_file():
        raise ConfigError(
            f"there is no witness {args.witness}: without it nobody knows whether the ledger was put back. "
            "Name the file that Ledger(witness=...) or --witness wrote."
        )
    there = accounts(args.file)
    if not there:
        raise ConfigError(f"{args.file} has no account yet: there is nothing to check.")
    terms = next(iter(there.values()))  # the chain is one for all accounts
    with Ledger(args.file, terms, witness=args.witness, read_only=True) as ledger:
        n_events, head = ledger.verify(), ledger.head()
    found = {
        "file": str(args.file),
        "events": n_events,
        "head": list(head),
        "witness": None if args.witness is None else str(args.witness),
    }
    if args.json:
        print(json.dumps(found))
        return 0
    print(f"{args.file}: {n_events} events, none changed, removed between others or put elsewhere")
    if args.witness is None:
        print(
            "Nothing was compared that lies elsewhere: whether the latest events were removed, or an older "
            "copy was put in place, only --witness FILE tells."
        )
    else:
        print(f"It has the latest event that {args.witness} has seen.")
    return 0


def _show(args: Args) -> int:
    there = accounts(args.file)
    if args.account is not None and args.account not in there:
        raise ConfigError(f"{args.file} has no account {args.account!r}: it has {sorted(there)}.")
    names = [args.account] if args.account is not None else list(there)
    found = []
    for name in names:
        with Ledger(args.file, there[name], read_only=True) as ledger:
            found.append(_statement(ledger))
    if args.json:
        print(json.dumps({"file": str(args.file), "accounts": _finite(found)}))
    else:
        print("\n\n".join(map(_text, found)) if found else f"{args.file} has no account yet.")
    return 0


def _statement(ledger: Ledger) -> dict[str, Any]:
    """One account, ready for JSON but for infinities."""
    report, terms = ledger.report(), ledger.terms
    stands = report["epsilon_with_reservations"]
    report["epsilon_left"] = max(terms.epsilon - stands, 0.0)
    return report | {"events": [_line(event, terms.delta) for event in ledger.history()]}


def _line(event: Event, delta: float) -> dict[str, Any]:
    """An event in words, and what it would cost alone."""
    when = datetime.datetime.fromtimestamp(event.time_ns / 1e9, datetime.UTC)
    line: dict[str, Any] = {
        "number": event.number,
        "time": when.isoformat(timespec="seconds"),
        "kind": event.kind,
    }
    if event.kind in (RESERVED, SETTLED):
        price = Price.from_json(event.body["price" if event.kind == RESERVED else "used"])
        line |= {"what": price.what or "nothing", "epsilon_alone": price.epsilon(delta)}
    if event.kind == RESERVED:
        line["details"] = event.body["details"]
    if event.kind == SETTLED:
        line["reservation"] = event.body["ticket"]
    if event.kind not in (OPENED, RESERVED, SETTLED):
        line["what"] = str(event.body.get("reason", ""))
    return line


def _finite(value: Any) -> Any:
    """JSON has no infinity: None."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(found: dict[str, Any]) -> str:
    n_open = len(found["open"])
    reserved = (
        "nothing is reserved"
        if not n_open
        else f"{found['epsilon_with_reservations']:.4f} with {n_open} open reservations"
    )
    lines = [
        f"account   {found['account']}",
        f"protects  neighbours by {found['relation']}; epsilon {found['epsilon']:g} at delta "
        f"{found['delta']:g}",
        f"spent     epsilon {found['epsilon_spent']:.4f}; {reserved}",
        f"left      epsilon {found['epsilon_left']:.4f}",
        *(f"VOID      not private any more: {reason}" for reason in found["void"]),
        "events",
    ]
    for event in found["events"]:
        words = {
            OPENED: "opened",
            RESERVED: f"reserved: {event.get('what')}",
            SETTLED: f"settled reservation {event.get('reservation')}: {event.get('what')}",
        }.get(event["kind"], f"{event['kind']}: {event.get('what')}")
        alone = f" (epsilon {event['epsilon_alone']:.4f} alone)" if "epsilon_alone" in event else ""
        lines.append(f"  {event['number']:4d}  {event['time']}  {words}{alone}")
    return "\n".join(lines)
