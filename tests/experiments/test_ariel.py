"""ARIEL's experiments: what they compute beside the library is tied to it."""

import dataclasses

import numpy as np
import pytest

from ariel_jax import load_pretrained
from ariel_jax.algorithms.ariel import bulk, metrics, synthetic
from ariel_jax.algorithms.ariel.closure import Closures
from ariel_jax.algorithms.ariel.judge import History, judge
from ariel_jax.algorithms.ariel.lm import Chooser, in_context
from ariel_jax.algorithms.ariel.ontology import Ontology
from ariel_jax.algorithms.ariel.types import SLOTS, Policy, Request
from experiments.ariel import (
    common,
    icl,
    in_words,
    latency,
    people,
    priors,
    slow_engines,
    streaming,
    throughput,
    vetoes,
)
from experiments.ariel.clocks import Times
from experiments.ariel.wishes import ASKED, Wishes
from experiments.runner import Settings


def test_the_stream_judges_as_the_bulk_program_does():
    knobs = synthetic.Knobs(
        family="lattice", n_users=3, n_requests=40, sizes=(5, 4, 3, 2), noise=0.1
    )
    made = synthetic.users(knobs)
    rng, seen = np.random.default_rng(0), set()
    for name, policy in streaming.POLICIES.items():
        if policy is None:
            continue
        for u in range(3):
            order, yes = made.order(u), made.said[u] == bulk.APPROPRIATE
            score = rng.standard_normal(40).astype(np.float32)
            person = common.Person(
                order=order, history=made.history[u], said=made.said[u], asked=made.asked[u]
            )
            expected = common.Crowd([person]).judge(policy, [score])
            found = [
                streaming.one(order, made.history[u], yes, r, policy, float(s))
                for r, s in zip(made.asked[u], score, strict=True)
            ]
            assert found == expected.tolist(), name
            seen |= set(found)
    assert seen == {metrics.WITHHOLD, metrics.SHARE, metrics.ASK}


def test_numpy_words_judge_as_the_bulk_program_does():
    order, nodes, value, asked = throughput.problem(70, 300, 0)
    history = bulk.compile_history(order, [a.T for a in order], nodes, value)
    found = bulk.judge_batch(history, asked, Policy(), repeats=False)
    names = ("verdict", "n_app", "n_den", "wit_app", "wit_den")
    for name, theirs in zip(names, throughput.Words(history).judge(asked), strict=True):
        np.testing.assert_array_equal(getattr(found, name), theirs)


@pytest.mark.parametrize("name", slow_engines.ENGINES)
def test_other_engines_judge_as_the_bulk_program_does(name):
    """Approvals and denials that hold a little or much, some of them repeated: all three verdicts."""
    rng = np.random.default_rng(1)
    order = [w[:, None] >= w[None, :] for w in rng.standard_normal((4, 9))]
    nodes = rng.integers(0, 9, (12, 4), np.int32)
    value = rng.integers(0, 2, 12).astype(np.int8)
    asked = np.concatenate([rng.integers(0, 9, (30, 4), np.int32), nodes])
    history = bulk.compile_history(order, [a.T for a in order], nodes, value)
    wanted = np.asarray(bulk.judge_batch(history, asked, Policy()).verdict).tolist()
    assert set(wanted) == {metrics.SHARE, metrics.WITHHOLD, metrics.ASK}
    judge = slow_engines.ENGINES[name](order, nodes, value)
    assert judge(asked) == wanted
    turned = slow_engines.ENGINES[name]([a.T for a in order], nodes, value)
    assert turned(asked) != wanted


def test_shapes_of_throughput_at_each_scale():
    def names(**settings):
        return [case.name for case in throughput.cases(Settings(**settings))]

    cpu = names(scale="cpu")
    for n in ("32", "1,000", "16,000"):
        for b in ("1", "1,024", "1,048,576"):
            assert f"{n} premises, {b} requests" in cpu
        assert f"{n} premises, 10,485,760 requests" in names(scale="gpu")
    assert {"clingo, 32 premises", "plain Python, 1,000 premises"} <= set(cpu)
    blocks = [c.config for c in throughput.cases(Settings(scale="gpu", shapes="smoke"))]
    assert blocks[0]["B"] > blocks[0]["at_once"]  # several programs' requests, as at full shapes


def test_times_leave_warming_up_out_and_aim_at_the_99th_percentile():
    times = Times(1)
    for ms in (900.0, *range(1, 101)):
        times.add("call", float(ms))
    median, tail, slowest = times.figures("call", aim=99.5, due=True)
    assert [median.value, tail.value, slowest.value] == [50.5, 99.01, 100.0]
    assert [f.verdict for f in (median, tail, slowest)] == ["", "PASS", ""]
    assert [f.verdict for f in times.figures("call", aim=99, due=True)] == ["", "MISSED", ""]


def test_the_user_of_latency_is_asked_what_the_judgements_can_answer():
    user = latency.User(400, Settings(scale="smoke", flags={"folder": ""}))
    case = latency.cases(Settings(scale="cpu"))[0]
    assert case.config["n_judgements"] == 10_000
    history = History(Closures(user.core), user.said)
    verdicts = [judge(r, history, history.closures).verdict for r, _ in user.more(200)]
    assert set(verdicts) == {"share", "withhold", "ask"}


def test_wishes_respect_the_ontology():
    core = Ontology.core()
    closures = Closures(core)
    wishes = Wishes(core, np.random.default_rng(0))
    requests, wanted = wishes.requests(120)

    def covers(x: Request, y: Request, polarity: str) -> bool:
        return all(
            closures.covers(slot, polarity, x.slot(slot)[0], y.slot(slot)[0]) for slot in SLOTS
        )

    chains = 0
    for x, likes_x in zip(requests, wanted, strict=True):
        for y, likes_y in zip(requests, wanted, strict=True):
            if x != y and likes_y and covers(x, y, "approve"):
                assert likes_x
                chains += 1
            if x != y and not likes_y and covers(x, y, "deny"):
                assert not likes_x
                chains += 1
    assert chains > 0
    assert len({r.data for r in requests}) > 5
    assert set(ASKED) <= set(SLOTS)


def test_a_language_model_is_asked_about_the_users_that_the_trained_one_is_asked_about():
    settings = Settings(scale="smoke", flags={"model": ""})
    trained, words = icl.cases(settings)
    assert (trained.name, words.name) == ("made-up users", "language model")
    assert icl.cases(Settings(scale="cpu"))[1].config["priors"] == [2, 5, 10, 20, 40]
    found = {figure.metric: figure for figure in icl.measure(words, settings)}
    c = words.config
    (user,) = priors.unseen("lattice", 1, c["sizes"], 0)
    said = priors.told(user, 3, c["n_requests"])
    whole = priors.told(user, 3)
    assert said.person.asked.tolist() == whole.person.asked[: c["n_requests"]].tolist()
    chooser = Chooser(load_pretrained(common.TINY_MODEL))
    for kind in ("random", "nearest"):
        nodes, label = said.priors[kind]
        odds = in_context.log_odds(
            chooser, in_words.names(c["sizes"]), nodes, label, said.person.asked
        )
        name = f"lattice, 3 priors, language model, {kind} priors"
        right = float(((odds.log_odds > 0) == said.wanted).mean())
        figure = found[f"{name}: accuracy"]
        assert figure.value == right
        assert figure.verdict == ""  # nothing is expected of such a model
        assert figure.baseline == float(((said.scores["majority"] > 0) == said.wanted).mean())
        copied = float((label[:, -1] == said.wanted).mean())
        assert (
            found[f"lattice, 3 priors, copying the last of {kind} priors: accuracy"].value == copied
        )
        assert found[f"{name}: priors that its context had room for"].value == 3
    # Its priors are those of its user, the nearest of all of them last.
    history, label = user.history[0], user.said[0]
    for request, nodes, values in zip(said.person.asked, *said.priors["nearest"], strict=True):
        shared = (history == request).sum(1)
        assert (nodes[-1] == request).sum() == shared.max()
        for node, value in zip(nodes, values, strict=True):
            assert value in label[(history == node).all(1)]


def test_the_population_of_a_fold_has_nobody_of_it():
    table = people.table_of("", seed=0, tiny=True)
    folds = people.Folds(table, 3, 0)
    persons, rows = folds.people(1, folds.model(1))
    assert set(folds.fold[table.user[rows]]) == {1}
    assert table.is_test[rows].all()
    assert len(rows) == sum(len(p.asked) for p in persons)
    before = folds.model(1).weights[0].copy()
    flipped = table.label.copy()
    flipped[folds.fold[table.user] == 1] ^= 1  # what the fold's users said changes nothing
    flipped[table.is_test] ^= 1  # nor do answers that are tested
    other = people.Folds(table.__class__(**{**vars(table), "label": flipped}), 3, 0)
    np.testing.assert_array_equal(other.model(1).weights[0], before)
    flipped[folds.fold[table.user] == 0] ^= 1
    other = people.Folds(table.__class__(**{**vars(table), "label": flipped}), 3, 0)
    assert (other.model(1).weights[0] != before).any()


@pytest.fixture(scope="module")
def folds():
    return people.Folds(people.table_of("", seed=0, tiny=True), 3, 0)


def test_vetoes_are_chosen_without_the_users_that_are_tested(folds):
    found = vetoes.training(folds, 1, vetoes.STRICT)
    table = folds.table
    others = table.is_test & (folds.fold[table.user] != 1)
    assert len(found.wanted) == others.sum() == len(found.score)
    flipped = np.where(folds.fold[table.user] == 1, table.label ^ 1, table.label)
    changed = people.Folds(table.__class__(**{**vars(table), "label": flipped}), 3, 0)
    again = vetoes.training(changed, 1, vetoes.STRICT)
    np.testing.assert_array_equal(again.score, found.score)
    for policy in vetoes.STRICT:
        np.testing.assert_array_equal(again.said[policy], found.said[policy])
    other = vetoes.training(changed, 0, vetoes.STRICT)  # control: there the flipped ones take part
    assert (other.wanted != vetoes.training(folds, 0, vetoes.STRICT).wanted).any()


def test_vetoes_in_numpy_are_those_of_the_judge(folds):
    model = folds.model(0)
    persons, _ = folds.people(0, model)
    scores = common.logits(persons, folds.sizes, model)
    crowd = common.Crowd(persons)
    bare = crowd.judge(vetoes.BARE)
    for share, withhold in ((0.5, None), (None, -0.5), (1.0, -0.25)):
        policy = dataclasses.replace(vetoes.BARE, veto_share=share, veto_withhold=withhold)
        said = crowd.judge(policy, scores)
        np.testing.assert_array_equal(vetoes.vetoed(bare, np.concatenate(scores), policy), said)
        assert (said != bare).any()


def test_what_is_chosen_is_what_the_rules_say():
    ask, share, withhold = metrics.ASK, metrics.SHARE, metrics.WITHHOLD
    # 100 shares, of which those at score 0.4 are wrong; 100 withheld rightly; 200 asked.
    said = np.repeat([share, share, withhold, ask], [80, 20, 100, 200])
    score = np.repeat([2.2, 0.4, -2.2, 0.0], [80, 20, 100, 200])
    wanted = np.repeat([True, False, False, True], [80, 20, 100, 200])
    found = vetoes.Training(said={vetoes.BARE: said}, score=score, wanted=wanted)
    assert vetoes.smallest(found).veto_share == 0.5
    sure = vetoes.surely_right(found)
    assert (sure.veto_share, sure.veto_withhold) == (0.5, None)
    few = vetoes.fewest_false_shares(found)
    assert (few.veto_share, few.veto_withhold) == (0.5, None)
    # A finer grid finds what stands between two limits of the other one.
    between = vetoes.Training(
        said={vetoes.BARE: np.repeat([share, share, ask], [80, 20, 100])},
        score=np.repeat([3.7, 3.4, 0.0], [80, 20, 100]),
        wanted=np.repeat([True, False, True], [80, 20, 100]),
    )
    assert vetoes.fewest_false_shares(between).veto_share is None
    assert vetoes.fewest_false_shares(between, vetoes.FINE).veto_share == 3.5
    # Where the false shares are needed to decide enough, they stay.
    rare = vetoes.Training(
        said={vetoes.BARE: np.concatenate([said, np.full(230, ask)])},
        score=np.concatenate([score, np.zeros(230)]),
        wanted=np.concatenate([wanted, np.ones(230, bool)]),
    )
    assert vetoes.fewest_false_shares(rare).veto_share in (None, 0.0, 0.25)
