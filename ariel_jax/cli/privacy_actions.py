"""What `ariel-jax privacy` does: each action returns an exit status, its result as JSON, and as text."""

import dataclasses
import json
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from ariel_jax.algorithms.ariel import importing, interchange, query
from ariel_jax.algorithms.ariel.agent import Ariel
from ariel_jax.algorithms.ariel.ontology import Ontology
from ariel_jax.algorithms.ariel.records import request_json
from ariel_jax.algorithms.ariel.store import Store
from ariel_jax.algorithms.ariel.types import SLOTS, UNSPEC, Edge, Node
from ariel_jax.cli.judge import as_json, question_lines
from ariel_jax.cli.privacy_log import STATUS, log_path, open_judge, user_name
from ariel_jax.durable import storage_error, write_bytes, write_json
from ariel_jax.errors import ConfigError

if TYPE_CHECKING:
    from ariel_jax.cli import privacy as flags

Done = tuple[int, Any, str]


def record(args: "flags.Record") -> Done:
    """Writes a judgement down."""
    with open_judge(args) as ariel:
        made = ariel.record(
            ariel.understand(**args.slots()), args.value, "user_cli", note=args.note,
            supersedes=args.supersedes,
        )  # fmt: skip
        found = {"judgement": made.id, "value": made.value, "nodes": request_json(made.request)}
        words = next(rule["in_words"] for rule in ariel.rules() if rule["judgement"] == made.id)
    text = f"judgement {made.id}: {made.value}: {words}"
    open_slots = [slot for slot in SLOTS if made.request.slot(slot) == (UNSPEC,)]
    if open_slots and made.value != "ask":
        text += (
            f"\nIt covers this very request again and no other: it says nothing about {' and '.join(open_slots)}. "
            f"With --{open_slots[-1]} ANY it would cover more."
        )
    return 0, found, text


def import_file(args: "flags.Import") -> Done:
    """Writes the judgements of a file down."""
    with open_judge(args) as ariel:
        made = importing.import_judgements(ariel, args.file)
    value = {"judgements": [judgement.id for judgement in made]}
    return 0, value, f"{len(made)} judgements were imported from {args.file}"


def ask(args: "flags.Ask") -> Done:
    """Shows open questions, or answers one."""
    if args.answer is None:
        if args.once or args.generalise or args.meant or args.supersedes or args.retract_edges:
            raise ConfigError("those flags belong to an answer: pass --answer too.")
        return _questions(args)
    with open_judge(args) as ariel:
        number = args.decision
        if number is None:
            waiting = ariel.open_questions()
            if not waiting:
                raise ConfigError("no question is open: name one with --decision.")
            number = waiting[-1].id
        found = ariel.answer(
            number, args.answer, once=args.once, generalise=_pairs("generalise", args.generalise),
            slots=_meant(args.meant), supersedes=args.supersedes,
            retract_edges=args.retract_edges, source="user_cli",
        )  # fmt: skip
        said = found.answered or "ask"
        value = as_json(ariel, found)
    return STATUS[said], value, f"{said}  (decision {found.id}, answered: {found.answer})"


def _questions(args: "flags.Ask") -> Done:
    with open_judge(args, read_only=True) as ariel:
        waiting = ariel.open_questions()
    if args.decision is not None:
        waiting = [d for d in waiting if d.id == args.decision]
        if not waiting:
            raise ConfigError(f"decision {args.decision} has no open question.")
    value = [{"decision": d.id, "at": d.created_at, "question": d.question} for d in waiting]
    parts = [
        "\n".join([f"decision {d.id}  {d.created_at[:19]}", *question_lines(d)]) for d in waiting
    ]
    return 0, value, "\n\n".join(parts) or "no question is open"


def _meant(given: tuple[str, ...]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for pair in given:
        for slot, node in _pairs("meant", (pair,)).items():
            found.setdefault(slot, []).append(node)
    return found


def _pairs(flag: str, given: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for pair in given:
        slot, _, node = pair.partition("=")
        if slot not in SLOTS or not node or slot in found:
            raise ConfigError(
                f"--{flag.replace('_', '-')} {pair!r} is not allowed: pass SLOT=NODE with each slot once, of "
                f"{', '.join(SLOTS)}."
            )
        found[slot] = node
    return found


def explain(args: "flags.Explain") -> Done:
    """Says why, why not, or prints the proof."""
    with open_judge(args, read_only=True) as ariel:
        found = ariel.decision(args.decision)
        if args.proof:
            return 0, found.proof, found.proof_json
        value: dict[str, Any] = {"decision": found.id, "verdict": found.verdict}
        if args.why_not is None:
            text = ariel.explain(found)
            return 0, value | {"explanation": text}, text
        gaps = ariel.why_not(found, args.why_not)
    text = "\n".join(gap.text for gap in gaps)
    none = f"no judgement that stands is anywhere near {args.why_not!r}"
    value_wanted = "appropriate" if args.why_not == "share" else "inappropriate"
    if found.outcome.reason == "veto" and found.proof["premises"][0]["value"] == value_wanted:
        none = f"no judgement is missing for {args.why_not!r}: the score, or the want of one, asked"
    return 0, value | {"why_not": [dataclasses.asdict(gap) for gap in gaps]}, text or none


def verify(args: "flags.Verify") -> Done:
    """Checks chains and proofs, against remembered heads too, and the text of a task."""
    if args.task is not None and args.decision is None:
        raise ConfigError("--task needs --decision: say which decision was asked with it.")
    with open_judge(args, read_only=True) as ariel:
        remembered = _heads(args.heads)
        checked = ariel.store.verify(heads=remembered)
        proofs = ariel.verify(args.decision)
        told = args.task is None or args.decision is None or ariel.is_text(args.decision, args.task)
    if not told:
        raise ConfigError(
            f"by the key in this file --task is not the text that decision {args.decision} was asked with: "
            "pass it letter by letter. The log and its proofs hold."
        )
    if args.heads is not None:
        write_json(args.heads, {u: list(h) for u, h in checked.heads.items()}, private=True)
    value = {
        "file": str(log_path(args)), "rows": checked.rows, "users": checked.users, "proofs": proofs,
        "tombstones": checked.tombstones, "heads": {u: list(h) for u, h in checked.heads.items()},
    }  # fmt: skip
    text = (
        f"{value['file']}: {checked.rows} rows of {checked.users} users, none changed, removed between others or "
        f"put elsewhere; {proofs} proofs hold"
    )
    if args.heads is None:
        text += "\nWhether the latest rows were removed, only --heads FILE tells."
    return 0, value, text


def _heads(file: pathlib.Path | None) -> dict[str, tuple[int, str]]:
    if file is None or not file.exists():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        return {str(user): (int(number), str(hash_)) for user, (number, hash_) in value.items()}
    except OSError as error:
        raise storage_error(file, error) from error
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{file} is no file of heads: name one that --heads wrote, or a new one."
        ) from error


def history(args: "flags.History") -> Done:
    """Lists decisions."""
    with open_judge(args, read_only=True) as ariel:
        rows = ariel.log(args.where)
    lines = [
        f"{row['id']:5d}  {row['created_at'][:19]}  {row['verdict']:8s}  {row['answer'] or row['rule'] or row['reason']}"
        f"  {row['data']} -> {row['recipient']} ({row['purpose']})"
        for row in rows
    ]
    return 0, rows, "\n".join(lines) or "no decisions"


def rules(args: "flags.Rules") -> Done:
    """Lists standing judgements."""
    with open_judge(args, read_only=True) as ariel:
        found = ariel.rules()
    lines = [f"{rule['judgement']:5d}  {rule['value']:13s}  {rule['in_words']}" for rule in found]
    return 0, found, "\n".join(lines) or "no judgements"


def retract(args: "flags.Retract") -> Done:
    """Takes a judgement back."""
    with open_judge(args) as ariel:
        before = {rule["judgement"] for rule in ariel.rules()}
        ariel.retract(args.judgement, source="user_cli")
        again = [rule for rule in ariel.rules() if rule["judgement"] not in before]
    text = f"judgement {args.judgement} was taken back" + "".join(
        f"\njudgement {rule['judgement']} stands again: {rule['value']}: {rule['in_words']}" for rule in again
    )  # fmt: skip
    return 0, {"judgement": args.judgement, "stands_again": again}, text


def ontology(args: "flags.Ontology") -> Done:
    """Lists or changes nodes and facts."""
    changes = args.retract or args.confirm or args.add_node or args.add_edge or args.read
    with open_judge(args, read_only=not changes) as ariel, ariel.store.held_for(bool(changes)):
        if args.read is not None:
            ariel.set_ontology(
                interchange.load_ontology(args.read),
                why=f"read from {args.read.name}",
                source="user_cli",
            )
        for edge in args.retract:
            ariel.retract_edge(edge, source="user_cli")
        for edge in args.confirm:
            ariel.confirm_edge(edge, source="user_cli")
        _add(ariel, args)
        facts = ariel.ontology
    return 0, _chosen(facts, args), _listed(facts, args)


def _add(ariel: Ariel, args: "flags.Ontology") -> None:
    if args.add_node:
        if len(args.add_node) != 3:
            raise ConfigError("--add-node takes three words: SLOT ID LABEL.")
        slot, id_, label = args.add_node
        ariel.add(nodes=[Node(slot=slot, id=id_, label=label, origin="user")], source="user_cli")
    if args.add_edge:
        if len(args.add_edge) != 4:
            raise ConfigError("--add-edge takes four words: SLOT TYPE SRC DST.")
        slot, kind, src, dst = args.add_edge
        edge: Any = {
            "id": ariel.ontology.next_edge_id,
            "slot": slot,
            "type": kind,
            "src": src,
            "dst": dst,
        }
        ariel.add(edges=[Edge(**edge, status="confirmed", origin="user")], source="user_cli")


def _chosen(facts: Ontology, args: "flags.Ontology") -> dict[str, Any]:
    def matches(*names: str) -> bool:
        return any(args.match.casefold() in name.casefold() for name in names)

    value = facts.as_json()
    slots = SLOTS if args.slot is None else (args.slot,)
    for slot in slots:
        facts.index(slot)
    return {
        "hash": facts.hash,
        "nodes": [n for n in value["nodes"]
                  if n["slot"] in slots and matches(n["id"], n["label"], *n["aliases"])],
        "edges": [e for e in value["edges"] if e["slot"] in slots and matches(e["src"], e["dst"])],
    }  # fmt: skip


def _listed(facts: Ontology, args: "flags.Ontology") -> str:
    value = _chosen(facts, args)
    lines = [f"ontology {value['hash']}"]
    lines += [f"  {n['slot']:10s} {n['id']:28s} {n['label']}" for n in value["nodes"]]
    lines += [
        f"  {e['id']:5d} {e['slot']:10s} {e['src']} {e['type']} {e['dst']}  ({e['status']})"
        for e in value["edges"]
    ]
    return "\n".join(lines)


def forget(args: "flags.Forget") -> Done:
    """Deletes a user's log."""
    if not args.yes:
        raise ConfigError(
            "forget deletes all judgements, decisions and facts of the user for good: pass --yes to do it."
        )
    path = log_path(args)
    if not path.is_file():
        raise ConfigError(f"there is no privacy log {path}: nothing was deleted.")
    with Store(path) as store:
        stone = store.forget(user_name(args))
    value = {"tombstone": stone.id, "judgements": stone.judgements, "decisions": stone.decisions}
    return 0, value, (
        f"{stone.judgements} judgements and {stone.decisions} decisions were deleted from the file; copies "
        "elsewhere, such as backups and exports, are not."
    )  # fmt: skip


def export(args: "flags.Export") -> Done:
    """Writes the log or the facts."""
    with open_judge(args, read_only=True) as ariel:
        more: dict[str, Any] = {}
        ariel.store.check_chain(ariel.user)
        if args.what == "ontology":
            text = json.dumps(ariel.ontology.as_json(), indent=2, ensure_ascii=False) + "\n"
        elif args.what == "cedar":
            judged = ariel.store.judgements(ariel.user)
            text, more["entities"] = interchange.to_cedar(ariel.ontology, judged)
        elif args.what == "asp":
            text = _asp(ariel, args.decision)
        else:
            store, user = ariel.store, ariel.user
            text = query.export(
                args.what, args.form, store.decisions(user), store.judgements(user, standing=False)
            )
    if args.out is None:
        return 0, {"text": text, **more}, text
    write_bytes(args.out, text.encode(), private=True)
    files = [args.out]
    for name, value in more.items():
        files.append(args.out.with_name(f"{args.out.name}.{name}.json"))
        write_json(files[-1], value, private=True)
    names = [str(file) for file in files]
    return 0, {"files": names}, f"written to {' and '.join(names)}, for this user only"


def _asp(ariel: Ariel, decision: int | None) -> str:
    """A program for clingo about the requests of the log, or of one decision."""
    found = (
        [ariel.decision(decision)] if decision is not None else ariel.store.decisions(ariel.user)
    )
    requests = {
        f"decision_{d.id}": d.request
        for d in found
        if d.outcome.reason not in ("unmapped", "mapper_failed") and len(d.request.data) == 1
    }
    if not requests:
        raise ConfigError(
            "there is no decision about a single item that was understood: judge one first."
        )
    judged = ariel.store.judgements(ariel.user)
    return interchange.to_asp(ariel.ontology, judged, requests) + "\n"


def serve(args: "flags.Serve") -> Done:
    """Runs the HTTP server until it is interrupted."""
    from ariel_jax.cli.console import say
    from ariel_jax.serving import http, privacy

    path = log_path(args)
    files = {
        role: path.with_name(f"{path.name}.{role}-key") for role in (privacy.AGENT, privacy.HUMAN)
    }
    names = {privacy.AGENT: "ARIEL_JAX_AGENT_KEY", privacy.HUMAN: "ARIEL_JAX_HUMAN_KEY"}
    with open_judge(args) as ariel:
        keys = http.Keys(**{role: http.key_from(names[role], files[role]) for role in files})
        app = http.application(privacy.routes(ariel), keys, hosts=(*http.LOOPBACK, *args.hosts))
        for role, file in files.items():
            say(f"key of the {role}: ${names[role]}, else {file}")
        http.serve(
            app, host=args.host, port=args.port, allow_remote=args.allow_remote,
            ready=lambda where: say(f"listening at {where}"),
        )  # fmt: skip
    return 0, {"served": str(path)}, ""


def mcp(args: "flags.Mcp") -> Done:
    """Runs the MCP server until its client goes away."""
    from ariel_jax.serving.mcp import server

    with open_judge(args) as ariel:
        server(ariel, elicit=args.elicit).run()
    sys.stdout.flush()
    return 0, None, ""
