"""The score of a user's own judgements: against scikit-learn, and never of another state of the log."""

import contextlib
import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from ariel_jax.algorithms.ariel import scorer as scorer_module
from ariel_jax.algorithms.ariel.agent import Ariel
from ariel_jax.algorithms.ariel.closure import Closures
from ariel_jax.algorithms.ariel.judge import History
from ariel_jax.algorithms.ariel.scorer import FEWEST, PersonalScorer
from ariel_jax.algorithms.ariel.types import ANY, SLOTS, UNSPEC, Judgement, Node, Policy, Request
from ariel_jax.errors import ConfigError

from .agent_cases import CITY, FACTS, opened

PHONE = dataclasses.replace(CITY, data=("phone",), purpose="dining")
USUAL = [
    (Request(data=("address",), recipient="shop", purpose="delivery", principle="asked"), "appropriate"),
    (Request(data=("phone",), recipient="shop", purpose="life", principle=ANY), "appropriate"),
    (Request(data=("mail",), recipient="shop", purpose="life", principle=ANY), "appropriate"),
    *((Request(data=("city",), recipient="bank", purpose=why, principle="asked", subject=who), "inappropriate")
      for who in ("self", "child") for why in ("life", "dining", "delivery")),
]  # fmt: skip
"""Nine judgements that entail a share of CITY, though the user mostly keeps the city to themselves."""


@pytest.fixture(scope="module")
def facts():
    return Closures(FACTS)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log.sqlite"


def usual(path, profile="standard", said=USUAL, **options):
    ariel = opened(path, policy=Policy.profile(profile), scorer=PersonalScorer(), **options)
    for request, value in said:
        ariel.record(request, value, "user_cli")
    return ariel


def judgements(said):
    return [Judgement(id=i, request=r, value=value) for i, (r, value) in enumerate(said, start=1)]


def history(closures, said):
    return History(closures, judgements(said))


def fresh(ariel, request):
    """By a scorer and a history that remember nothing."""
    closures = Closures(ariel.store.ontology("ann"))
    return PersonalScorer().score(request, History(closures, ariel.store.judgements("ann")))


def by_scikit_learn(said, request, l2):
    """The same by one-hot columns with names, an item of a set at a time."""

    def singles(request):
        return [dataclasses.replace(request, data=(item,)) for item in request.data]

    columns = sorted({(slot, one.slot(slot)[0]) for r, _ in said for one in singles(r) for slot in SLOTS})  # fmt: skip

    def row(one, *, judged):
        nodes = {(slot, one.slot(slot)[0]) for slot in SLOTS}
        if not judged:
            nodes = {node if node in columns else (node[0], ANY) for node in nodes}
        return [*(float(column in nodes) for column in columns), 1.0]

    kept = [(one, value == "appropriate") for r, value in said for one in singles(r)]
    model = LogisticRegression(C=1 / l2, fit_intercept=False, tol=1e-12, max_iter=10_000)
    model.fit([row(one, judged=True) for one, _ in kept], [value for _, value in kept])
    rows = np.array([row(one, judged=False) for one in singles(request)])
    return (rows @ model.coef_[0]).min()


@pytest.mark.parametrize("l2", [0.5, 1.0])
def test_the_score_is_that_of_a_logit_by_scikit_learn(closures, ontology, l2):
    rng = np.random.default_rng(0)

    def draw(*more):
        slots = {slot: str(rng.choice([*ontology.index(slot), *more])) for slot in SLOTS[1:]}
        data = rng.choice(list(ontology.index("data")), int(rng.integers(1, 3)), replace=False)
        return Request(data=tuple(map(str, data)), **slots)

    said = {(r := draw(ANY, UNSPEC)).key: (r, ("appropriate", "inappropriate")[i % 2]) for i in range(24)}  # fmt: skip
    said = list(said.values())
    past, scorer, least = history(closures, said), PersonalScorer(l2=l2), []
    for _ in range(12):
        request = draw(UNSPEC)
        found = scorer.score(request, past)
        assert abs(found - by_scikit_learn(said, request, l2)) < 1e-4
        alone = [scorer.score(dataclasses.replace(request, data=(x,)), past) for x in request.data]
        assert found == min(alone)
        least.append(len(set(alone)) > 1)
    assert any(least)


def test_what_no_judgement_names_counts_as_any(facts):
    past, scorer = history(facts, USUAL), PersonalScorer()
    for slot, node in (("principle", UNSPEC), ("data", "sketch"), ("recipient", "firm")):
        pair = ((x,) if slot == "data" else x for x in (node, ANY))
        unnamed, any_ = (dataclasses.replace(PHONE, **{slot: x}) for x in pair)
        assert scorer.score(unnamed, past) == scorer.score(any_, past) != scorer.score(PHONE, past)


def test_there_is_no_score_of_few_judgements_or_of_one_kind(facts):
    scorer = PersonalScorer()
    assert FEWEST == 8
    for said in ((), USUAL[:7], USUAL[-7:]):
        assert scorer.score(CITY, history(facts, said)) is None
    assert scorer.score(CITY, history(facts, USUAL[:8])) is not None
    assert PersonalScorer(fewest=4).score(CITY, history(facts, USUAL[:4])) is not None
    for value in ("appropriate", "inappropriate"):
        alike = [(request, value) for request, _ in USUAL]
        assert scorer.score(CITY, history(facts, alike)) is None


def test_only_what_the_user_said_and_stands_counts(facts):
    """What agents claim, wishes to be asked and what was superseded neither count nor make enough."""
    more = [
        Judgement(id=20, request=CITY, value="appropriate", source="agent_claimed"),
        Judgement(id=21, request=CITY, value="ask"),
        Judgement(id=22, request=PHONE, value="appropriate", superseded_by=23),
    ]
    scorer = PersonalScorer()
    few, enough = judgements(USUAL[:7]), judgements(USUAL)
    assert scorer.score(CITY, History(facts, [*few, *more])) is None
    plain = scorer.score(CITY, History(facts, enough))
    assert scorer.score(CITY, History(facts, [*enough, *more])) == plain
    counts = dataclasses.replace(more[0], source="imported_by_user")  # control
    assert scorer.score(CITY, History(facts, [*enough, counts])) > plain


def test_a_share_that_looks_unlike_what_the_user_decides_is_asked(path):
    with usual(path, "plain") as plain:
        assert (plain.judge(CITY).verdict, plain.judge(CITY).proof["score"]) == ("share", None)
    with usual(path, "standard", said=()) as ariel:
        asked, shared = ariel.judge(CITY), ariel.judge(PHONE)
        assert (asked.verdict, asked.outcome.reason, asked.may_share) == ("ask", "veto", False)
        assert asked.proof["score"] == fresh(ariel, CITY) < 0 < fresh(ariel, PHONE)
        assert (shared.verdict, shared.proof["score"]) == ("share", fresh(ariel, PHONE))
        assert "unlike what you usually decide" in asked.question["why"]
        assert "not sure" in ariel.explain(asked)
        assert [f.would_be for f in ariel.judge_many([CITY, PHONE])] == ["ask", "share"]
        assert len(ariel.log()) == 4
        # The user's answer is the last word: the same request is a repeat.
        assert ariel.answer(asked, "appropriate").may_share
        again = ariel.judge(CITY)
        assert (again.verdict, again.outcome.rule, again.proof["score"]) == ("share", "R0", None)
        assert ariel.verify() == 5


def test_cautious_asks_both_ways_where_it_is_not_clear(path):
    denied = dataclasses.replace(CITY, data=("address",), recipient="bank")
    clear = dataclasses.replace(denied, subject="child")  # the user refused more of this kind
    with usual(path, "cautious") as ariel:
        said = [ariel.judge(request) for request in (PHONE, denied, clear, USUAL[0][0])]
        assert [d.verdict for d in said] == ["ask", "ask", "withhold", "share"]
        assert [d.outcome.reason for d in said] == ["veto", "veto", "", ""]
        scores = [d.proof["score"] for d in said]
        assert 0 < scores[0] < 1
        assert -1 < scores[1] < 0
        assert scores[2] < -1
        assert scores[3] is None  # a repeat
        assert ariel.verify() == 4
    with usual(path, "standard", said=()) as ariel:
        assert [ariel.judge(r).verdict for r in (denied, clear)] == ["withhold"] * 2


def test_without_a_score_what_it_could_turn_is_asked_and_says_why(path):
    with usual(path, said=USUAL[:7]) as ariel:
        asked = ariel.judge(CITY)
        assert (asked.outcome.reason, asked.proof["score"]) == ("veto", None)
        assert "cannot be told yet" in asked.question["why"]
        assert "cannot be told yet" in ariel.explain(asked)
        assert ariel.judge(USUAL[0][0]).outcome.rule == "R0"
        # One more judgement and there is one, in the very step that writes it down.
        _, found = ariel.record_and_judge(*USUAL[7], "user_cli", PHONE)
        assert (found.verdict, found.proof["score"]) == ("share", fresh(ariel, PHONE))
        assert ariel.verify() == 3


def test_the_score_is_always_of_the_judgements_that_stand(path):
    """Whatever changed them: this process, another one, or a step that was undone."""
    seen = []

    def check(ariel):
        found = ariel.judge(CITY)
        assert found.proof["score"] == fresh(ariel, CITY)
        seen.append(found.proof["score"])

    with usual(path) as ariel:
        check(ariel)
        more = ariel.record(dataclasses.replace(CITY, data=("mail",)), "appropriate", "user_cli")
        check(ariel)
        with Ariel.open(path, user="ann") as other:
            other.record(dataclasses.replace(CITY, recipient="firm"), "appropriate", "user_ui")
            other.retract(more.id, source="user_cli")
        check(ariel)
        with contextlib.suppress(KeyError), ariel.store.transaction():
            ariel.record(dataclasses.replace(CITY, sender=UNSPEC), "appropriate", "user_cli")
            check(ariel)
            raise KeyError
        with Ariel.open(path, user="ann") as other:  # another row under the number that was undone
            other.record(dataclasses.replace(CITY, sender=UNSPEC), "inappropriate", "user_cli")
        check(ariel)
        ariel.add(nodes=[Node(slot="data", id="age", label="Age")], source="user_cli")
        check(ariel)
        assert len(set(seen[:5])) == 5  # each time it is another one
        assert seen[5] == seen[4]  # a node that no judgement names changes nothing
        assert ariel.verify() == 5  # the sixth was undone


def test_it_is_fitted_once_for_the_same_judgements_and_only_where_it_can_veto(path, monkeypatch):
    fitted = []
    fit = scorer_module.personal_logit
    monkeypatch.setattr(
        scorer_module, "personal_logit", lambda *a, **o: fitted.append(1) or fit(*a, **o)
    )
    with usual(path, "plain") as ariel:
        ariel.judge(CITY)
    with usual(path, said=()) as ariel:
        ariel.judge(dataclasses.replace(CITY, recipient="firm"))  # no premise
        ariel.judge(USUAL[0][0])  # a repeat
        assert not fitted
        ariel.judge(CITY)
        ariel.judge_many([CITY, PHONE, CITY])
        ariel.judge(PHONE)
        assert len(fitted) == 1


def test_nothing_of_a_user_who_was_forgotten_is_scored_by(path):
    with usual(path) as ariel:
        ariel.judge(CITY)
        ariel.forget()
    with usual(path, said=USUAL[:3]) as ariel:
        assert ariel.judge(PHONE).proof["score"] is None


@pytest.mark.parametrize(
    "wrong", [{"fewest": 0}, {"fewest": 2.5}, {"l2": 0.0}, {"l2": float("nan")}]
)
def test_arguments_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError):
        PersonalScorer(**wrong)


@pytest.mark.parametrize("wrong", ["personal", 0.5, PersonalScorer])
def test_what_is_no_scorer_is_refused_before_a_log_is_begun(path, wrong):
    with pytest.raises(ConfigError, match="is not allowed: pass PersonalScorer"):
        opened(path, scorer=wrong)
    assert not path.exists()
