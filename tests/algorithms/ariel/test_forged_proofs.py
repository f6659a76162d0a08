"""Whatever is changed in a proof is found, but for what only a log can know."""

import copy
import dataclasses

import pytest

from ariel_jax.algorithms.ariel import checker, proof
from ariel_jax.algorithms.ariel.closure import Closures
from ariel_jax.algorithms.ariel.judge import History, judge
from ariel_jax.algorithms.ariel.types import ANY, SLOTS, UNSPEC, Edge, Policy
from ariel_jax.errors import IntegrityError

from .cases import ask, replaced, said
from .test_proof import CASES, HISTORY

PROPOSED = Edge(id=90, slot="recipient", type="trust", src="doctor", dst="bank", status="proposed")
ASKING = said((ask("contact", ANY), "yes"), (ask("contact.phone", "shop", UNSPEC), "ask"))
DROPPING = said(
    (ask("health", "organisation"), "yes"),
    (ask("health", "shop"), "no"),
    (ask("health", "professional"), "yes"),
)
HALF = said((ask("location.city"), "yes"), (ask("health"), "no"), (ask("contact"), "yes"))
SHARED = said(
    (ask("location.address", "organisation"), "yes"), (ask("age.exact", "organisation"), "yes")
)
ALL = {name: (*case, HISTORY, 2.0) for name, case in CASES.items()} | {
    "always ask": (ask("contact.phone", "bistro"), Policy(), ASKING, None),
    "always ask again": (ask("contact.phone", "shop", UNSPEC), Policy(), ASKING, None),
    "dropped": (ask("health.blood", "employer"), Policy(), DROPPING, None),
    "dropped by a number": (ask("health", "employer"), Policy(reliability=0.4), DROPPING, None),
    "veto": (ask("health", "doctor"), Policy.profile("cautious"), DROPPING, 0.5),
    "latest": (
        ask("health", "bistro"),
        Policy(conflict="latest", reliability="off"),
        DROPPING[:2],
        0.5,
    ),
    "partial": (ask(("contact", "location.city")), Policy(), HALF, None),
    "suggested": (
        ask("health", "doctor"),
        Policy(),
        said((ask("health", "bank"), "yes")),
        None,
    ),
    "a premise for two items": (
        ask(("age.range", "location.city")),
        Policy(bundle="itemwise", trust_proposed=True),
        SHARED,
        None,
    ),
}
SAYS = {
    "always ask": "always_ask",
    "always ask again": "always_ask",
    "dropped": "no_premise",
    "dropped by a number": "no_premise",
    "veto": "veto",
    "latest": "R2",
    "partial": "partial",
    "suggested": "proposed_only",
    "a premise for two items": "R1-itemwise",
}


@pytest.fixture(scope="module")
def proofs(ontology):
    """By case: the proof, edges and history."""
    made = {}
    for name, (request, policy, history, score) in ALL.items():
        facts = ontology.with_edges(PROPOSED)
        packed = History(Closures(facts), history)
        outcome = judge(request, packed, packed.closures, policy, score=score)
        mapping = [
            {"slot": slot, "input": x, "node": x, "by": "id", "score": 1.0}
            for slot in SLOTS
            for x in request.slot(slot)
        ]
        written = proof.build(
            outcome, request, packed, policy, user="u", mapping=mapping, mapper="ids", score=score
        )
        made[name] = (written, facts.edges, history)
        checker.verify_proof(written, facts.edges, history, last_judgement=packed.last_id)
    return made


def test_the_cases_say_what_they_are_for(proofs):
    said_ = {name: proofs[name][0]["rule"] or proofs[name][0]["reason"] for name in SAYS}
    assert said_ == SAYS
    assert proofs["dropped"][0]["dropped"]
    assert proofs["latest"][0]["against"]
    assert proofs["always ask"][0]["against"] == [2]


def places(value, path=()):
    """All places of a JSON value."""
    if path:
        yield path
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    for key in keys:
        yield from places(value[key], (*path, key))


def at(value, path):
    for key in path:
        value = value[key]
    return value


def changed(value):
    """Other values of the same kind, and of another one."""
    if isinstance(value, bool) or value is None:
        return (7, not value)
    if isinstance(value, int | float):
        return (value + 1, float("nan"), str(value), None, value + 0.5)
    words = {"share": "withhold", "appropriate": "inappropriate", "curated": "confirmed"}
    words |= {there: here for here, there in words.items()}
    return (value + "x", words.get(value, "share"), None)


def chained(path, rule):
    """What `verify_proof` says that only the log knows."""
    if path[0] in ("user", "mapper", "engine", "prev_decision_hash", "score"):
        return True
    if path[0] == "mapping" and path[-1] in ("input", "by", "score"):
        return True
    return path[0] == "policy" and (path[-1] != "min_support" or rule in (None, "R0"))


def found(forged, edges, history, last):
    try:
        checker.verify_proof(forged, edges, history, last_judgement=last)
    except IntegrityError:
        return True
    return False


def missed(one, forgeries):
    made, edges, history = one
    last = made["last_judgement"]
    tried, passed = 0, []
    for path, forge in forgeries:
        forged = copy.deepcopy(made)
        forge(at(forged, path[:-1]), path[-1])
        tried += 1
        if not found(forged, edges, history, last):
            passed.append(path)
    assert tried
    return passed


@pytest.mark.parametrize("name", ALL)
def test_every_value_that_is_changed_is_found(proofs, name):
    def put(new):
        return lambda inner, key: inner.__setitem__(key, new)

    one = proofs[name]
    leaves = [p for p in places(one[0]) if not isinstance(at(one[0], p), dict | list)]
    forgeries = [(p, put(new)) for p in leaves for new in changed(at(one[0], p))]
    assert [path for path in missed(one, forgeries) if not chained(path, one[0]["rule"])] == []
    # What may not stand in these fields is found all the same.
    unknown = [("policy", key) for key in one[0]["policy"]] + [("score",), ("user",), ("engine",)]
    assert missed(one, [(p, put(["x"])) for p in unknown]) == []
    assert missed(one, [(("policy", "min_support"), put(n)) for n in (0, -3, True)]) == []


@pytest.mark.parametrize("name", ALL)
def test_every_field_that_is_removed_or_added_is_found(proofs, name):
    one = proofs[name]
    fields = [p for p in places(one[0]) if isinstance(p[-1], str)]
    assert missed(one, [(p, lambda inner, key: inner.pop(key)) for p in fields]) == []
    objects = [(), *(p for p in places(one[0]) if isinstance(at(one[0], p), dict))]
    extra = [((*p, "extra"), lambda inner, key: inner.__setitem__(key, 1)) for p in objects]
    assert missed(one, extra) == []


@pytest.mark.parametrize("name", ALL)
def test_every_entry_that_is_removed_doubled_swapped_or_put_in_is_found(proofs, name):
    one = proofs[name]
    entries = [p for p in places(one[0]) if isinstance(p[-1], int) and p[0] != "mapping"]
    entries += [p for p in places(one[0]) if isinstance(p[-1], int) and len(p) > 2]

    def swap(inner, i):
        inner[i], inner[i + 1] = inner[i + 1], inner[i]

    def foreign(inner, i):
        new = copy.deepcopy(inner[i])
        for key in ("judgement_id", "premise", "edge"):
            if isinstance(new, dict) and key in new:
                new[key] += 1
        inner.insert(i, new if isinstance(new, dict) else "x" if isinstance(new, str) else 77)

    def double(inner, i):
        inner.insert(i, copy.deepcopy(inner[i]))

    for forge in (lambda inner, i: inner.pop(i), double, foreign):
        assert not entries or missed(one, [(p, forge) for p in entries]) == []
    pairs = [p for p in entries if p[-1] + 1 < len(at(one[0], p[:-1]))]
    shown = () if one[0]["rule"] else ("premises",)  # their order is the judge's, where it asks
    pairs = [p for p in pairs if p[:1] != shown]
    assert not pairs or missed(one, [(p, swap) for p in pairs]) == []
    # Into a list that is empty, too.
    empty = [p for p in places(one[0]) if at(one[0], p) == []]
    for new in ("contact", 1, {}, {"judgement_id": 1, "why": "bad=1"}):
        forgeries = [(p, lambda inner, key, new=new: inner[key].append(new)) for p in empty]
        assert not empty or missed(one, forgeries) == []


def test_a_mapping_that_names_other_nodes_is_found(proofs):
    one = proofs["a set"]
    data = [i for i, row in enumerate(one[0]["mapping"]) if row["slot"] == "data"]
    assert len(data) == 2
    removed = [(("mapping", i), lambda inner, key: inner.pop(key)) for i in data]
    assert missed(one, removed) == []
    other = [("mapping", len(one[0]["mapping"]) - 1)]
    assert missed(one, [(p, lambda inner, key: inner.append(inner[key])) for p in other]) == []
    not_read = [(("mapping", 0, "node"), lambda inner, key: inner.__setitem__(key, None))]
    assert missed(one, not_read) == []


def test_a_denial_cannot_be_hidden_behind_the_last_judgement(ontology):
    request = ask("location.city")
    history = said((ask("location.address"), "yes"), (request, "no"))
    packed = History(Closures(ontology), history[:1])
    outcome = judge(request, packed, packed.closures)
    made = proof.build(outcome, request, packed, Policy())
    checker.verify_proof(made, ontology.edges, history)
    checker.verify_proof(made, ontology.edges, history, last_judgement=1)
    with pytest.raises(IntegrityError, match="ends with judgement 1, not 2"):
        checker.verify_proof(made, ontology.edges, history, last_judgement=2)


def test_a_wish_to_be_asked_or_a_withheld_item_cannot_be_passed_over(ontology):
    """Proofs made without it, that claim to have seen it."""
    share = said((ask(("contact.phone", "location.city"), "shop"), "yes"))
    wish = replaced(said((ask("contact.phone"), "ask"))[0], id=2)
    denial = replaced(said((ask("contact.phone"), "no"))[0], id=2)
    request = ask(("contact.phone", "location.city"))
    newer = replaced(share[0], id=3, request=dataclasses.replace(request, recipient="organisation"))
    for other, history in ((wish, share), (denial, [newer])):
        policy = Policy(conflict="latest", reliability="off")
        packed = History(Closures(ontology), history)
        outcome = judge(request, packed, packed.closures, policy)
        assert outcome.verdict == "share"
        made = proof.build(outcome, request, packed, policy) | {"last_judgement": 3}
        checker.verify_proof(made, ontology.edges, history)
        for against in ([], [2]):
            items = {"approved": ["location.city"], "denied": [], "undecided": []}
            items["denied" if other is denial else "undecided"] = ["contact.phone"]
            for claimed in (made["items"], items):
                forged = made | {"against": against, "items": claimed}
                with pytest.raises(IntegrityError):
                    checker.verify_proof(forged, ontology.edges, [*history, other])


def test_half_a_character_in_a_text_has_a_digest(ontology):
    request = dataclasses.replace(ask("location.city"), task_text="\ud800")
    packed = History(Closures(ontology), HISTORY)
    outcome = judge(request, packed, packed.closures)
    made = proof.build(outcome, request, packed, Policy(), text_key=b"k" * 32)
    assert made["request"]["text_hmac"]
    checker.verify_proof(made, ontology.edges, HISTORY)
    assert proof.canonical(made)
