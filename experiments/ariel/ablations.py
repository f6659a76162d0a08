"""What each part of the judge is for: switched off one at a time.

    python -m experiments.ariel.ablations --scale cpu --out results

`edges`: users whose wishes follow the packaged ontology (what reveals more is riskier). The judge with typed
edges, and with one undirected reading of "broader", by which an approval of an age range would release the exact
age. `orders`: made-up users of three families; conflict policies, reliability, support, and orders that forget
that trust depends on the kind of data. `bundles`: approvals of items taken for an approval of all together,
where users refuse a share of such bundles. Expected: typed edges never share falsely and one hierarchy does;
forgetting the context costs precision; itemwise approval shares more of the bundles that users refuse. About two minutes on
two cores.
"""

import dataclasses
import itertools
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from ariel_jax.algorithms.ariel import metrics, synthetic
from ariel_jax.algorithms.ariel.closure import Closures
from ariel_jax.algorithms.ariel.importers import APPROPRIATE, ASKS
from ariel_jax.algorithms.ariel.judge import History, judge
from ariel_jax.algorithms.ariel.many import Many
from ariel_jax.algorithms.ariel.ontology import Ontology
from ariel_jax.algorithms.ariel.types import Judgement, Policy
from experiments import runner
from experiments.ariel import common
from experiments.ariel.wishes import Wishes
from experiments.runner import Case, Figure, Settings

CONFLICTS = ("escalate", "deny_overrides", "latest", "majority")
NUMBERS = {"share": metrics.SHARE, "withhold": metrics.WITHHOLD, "ask": metrics.ASK}


def cases(settings: Settings) -> Sequence[Case]:
    """Edges, orders by family, bundles."""
    tiny = settings.is_tiny
    users = {
        "n_users": 2 if tiny else 60,
        "n_history": 20 if tiny else 60,
        "n_requests": 15 if tiny else 60,
    }
    families = ("lattice",) if tiny else ("lattice", "conditional", "segments")
    return [
        Case(name="edges", config=users, expected_s=60.0),
        *(
            Case(
                name=f"orders, {f}",
                config={"n_users": 8 if tiny else 200, "family": f},
                expected_s=10.0,
            )
            for f in families
        ),
        Case(name="bundles", config=users, expected_s=30.0),
    ]


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """The figures of one case."""
    if case.name.startswith("orders"):
        yield from _orders(case, settings)
    else:
        yield from (_edges if case.name == "edges" else _bundles)(case, settings)


def one_hierarchy(ontology: Ontology) -> Ontology:
    """The same edges as if each said only which node is broader: what is revealed becomes the parent."""
    edges = [
        dataclasses.replace(e, type="isa") if e.type in ("reveals", "trust", "stricter") else e
        for e in ontology.edges
    ]
    nodes = [node for nodes in ontology.nodes.values() for node in nodes]
    return Ontology.of(nodes, edges)


def _edges(case: Case, settings: Settings) -> Iterator[Figure]:
    core, c = Ontology.core(), case.config
    for name, ontology in (("typed edges", core), ("one hierarchy", one_hierarchy(core))):
        closures, said, wanted = Closures(ontology), [], []
        for user in range(c["n_users"]):
            wishes = Wishes(core, np.random.default_rng([settings.seed, user]))
            history = wishes.judgements(c["n_history"])
            requests, yes = wishes.requests(c["n_requests"])
            said += [NUMBERS[s.verdict] for s in Many(closures, history).judge(requests)]
            wanted += yes
        report = metrics.evaluate(np.array(said), np.array(wanted))
        good = (report.false_share.k == 0) == (name == "typed edges")
        expected = "0" if name == "typed edges" else "above 0"
        yield Figure(
            metric=f"{name}: coverage", value=round(report.coverage, 4), unit="1", kind="measured"
        )
        yield Figure(
            metric=f"{name}: false shares {report.false_share}", value=round(report.false_share.value, 4),
            unit="1", kind="measured", **runner.judge(good, expected, due=not settings.is_tiny),
        )  # fmt: skip
        yield Figure(metric=f"{name}: false withholds {report.false_withhold}", value=round(report.false_withhold.value, 4), unit="1", kind="measured")  # fmt: skip


def _orders(case: Case, settings: Settings) -> Iterator[Figure]:
    c = case.config
    knobs = synthetic.Knobs(family=c["family"], n_users=c["n_users"], exceptions=0.05, noise=0.03)
    made = synthetic.users(knobs, settings.seed)
    wanted = made.wanted.ravel()
    known = wanted != ASKS
    for scoped in (True, False) if c["family"] == "conditional" else (True,):
        crowd = common.Crowd([
            common.Person(order=made.order(u, scoped=scoped), history=made.history[u], said=made.said[u],
                          asked=made.asked[u], context=made.context if scoped else None)
            for u in range(c["n_users"])
        ])  # fmt: skip
        policies = {
            f"conflict {name}": Policy(conflict=name, reliability="off") for name in CONFLICTS
        }
        policies |= {f"reliability {r}": Policy(reliability=r) for r in ("strict", 0.5, 0.8)}
        policies |= {f"strict, support {s}": Policy(min_support=s) for s in (2, 3, 5)}
        for name, policy in policies.items():
            title = name if scoped else f"context forgotten, {name}"
            yield from common.figures(
                title, crowd.judge(policy)[known], (wanted == APPROPRIATE)[known]
            )


def _bundles(case: Case, settings: Settings) -> Iterator[Figure]:
    """A user approves items one by one and refuses a fifth of the pairs, whatever they are."""
    core, c = Ontology.core(), case.config
    closures = Closures(core)
    names, counts, refused, n = ("joint", "itemwise"), {"joint": 0, "itemwise": 0}, 0, 0
    decided = dict.fromkeys(names, 0)
    for user in range(c["n_users"]):
        rng = np.random.default_rng([settings.seed, user])
        singles, yes = Wishes(core, rng).requests(c["n_history"])
        liked = [r for r, y in zip(singles, yes, strict=True) if y][:10]
        for a, b in itertools.combinations(liked, 2):
            if a.data == b.data:
                continue
            told = [*liked, dataclasses.replace(a, data=b.data)]
            history = History(
                closures,
                [Judgement(id=i, request=r, value="appropriate") for i, r in enumerate(told, 1)],
            )
            pair = dataclasses.replace(a, data=(*a.data, *b.data))
            refuses = bool(rng.random() < 0.2)
            n, refused = n + 1, refused + refuses
            for name in names:
                verdict = judge(pair, history, closures, Policy(bundle=name)).verdict
                decided[name] += verdict != "ask"
                counts[name] += refuses and verdict == "share"
    for name in names:
        found = metrics.share_of(counts[name], refused)
        more = counts["itemwise"] > counts["joint"]
        due = name == "itemwise" and not settings.is_tiny
        yield Figure(
            metric=f"{name}: decided",
            value=round(decided[name] / max(n, 1), 4),
            unit="1",
            kind="measured",
        )
        yield Figure(
            metric=f"{name}: refused bundles that are shared {found}",
            value=round(found.value if refused else 0.0, 4), unit="1", kind="measured",
            **runner.judge(more, "more than with joint", due=due),
        )  # fmt: skip


EXPERIMENT = runner.Experiment(
    name="ariel.ablations", title="What each part of the judge is for", cases=cases, measure=measure
)

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
