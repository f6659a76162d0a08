"""Forecasts are what `judge` says, whatever the scorer."""

import dataclasses

import pytest

from ariel_jax.algorithms.ariel.agent import Ariel
from ariel_jax.algorithms.ariel.types import ANY, Node, Policy, Request
from ariel_jax.errors import ConfigError, InvalidRequestError

from .agent_cases import ADDRESS, CITY, opened

PHONE = dataclasses.replace(CITY, data=("phone",))
BOTH = dataclasses.replace(CITY, data=("phone", "mail"))
UNKNOWN = dataclasses.replace(CITY, recipient="kiosk")
UNREAD = [UNKNOWN, dataclasses.replace(CITY, data=("city", "an unknown thing"))]
REQUESTS = [
    ADDRESS, CITY, PHONE, BOTH, *UNREAD, dataclasses.replace(CITY, recipient="bank"),
]  # fmt: skip
PROFILES = {"plain": Policy(), "standard": Policy.profile("standard"), "cautious": Policy.profile("cautious")}  # fmt: skip
SCORERS = {"vetoes all": 0.0, "vetoes shares": -5.0, "vetoes denials": 5.0, "has none": None}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log.sqlite"


def judged(path, **options):
    ariel = opened(path, **options)
    ariel.record(ADDRESS, "appropriate", "user_cli")
    ariel.record(PHONE, "inappropriate", "user_cli")
    return ariel


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("scorer", SCORERS)
def test_a_forecast_is_what_judge_says(path, profile, scorer):
    seen = []

    def score(request):
        seen.append(request)
        return SCORERS[scorer]

    with judged(path, policy=PROFILES[profile], scorer=score) as ariel:
        found = ariel.judge_many(REQUESTS)
        assert not ariel.log()
        said = [ariel.judge(request) for request in REQUESTS]
        assert [f.would_be for f in found] == [d.verdict for d in said]
        for forecast, decision in zip(found, said, strict=True):
            outcome = decision.outcome
            assert (forecast.rule, forecast.reason) == (outcome.rule, outcome.reason)
            assert (forecast.premises, forecast.against) == (outcome.premises, outcome.against)
        # Both put the same requests to the scorer, and none that was not understood.
        assert seen == [r for r in REQUESTS if r not in UNREAD] * 2
        assert ariel.verify() == len(REQUESTS)
        verdicts = dict(zip(("address", "city", "phone", "both", "unknown"), found, strict=False))
    # What the scores are for: what the user said of this very request stands, the rest can be vetoed.
    vetoed = {name: one.reason == "veto" for name, one in verdicts.items()}
    shares = profile == "standard" and scorer != "vetoes denials"
    shares |= profile == "cautious" and scorer in ("vetoes all", "vetoes shares", "has none")
    denials = profile == "cautious" and scorer in ("vetoes all", "vetoes denials", "has none")
    assert vetoed == {
        "address": False, "city": shares, "phone": False, "both": denials, "unknown": False
    }  # fmt: skip
    assert verdicts["unknown"].reason == "unmapped"


def test_a_forecast_refuses_what_judge_refuses(path):
    scores = [float("nan")]
    with judged(path, policy=PROFILES["standard"], scorer=lambda request: scores[0]) as ariel:
        for attempt in (ariel.judge, lambda request: ariel.judge_many([CITY, request])):
            with pytest.raises(ConfigError, match="score"):
                attempt(CITY)
        scores[0] = 1.0
        for attempt in (ariel.judge, lambda request: ariel.judge_many([CITY, request])):
            with pytest.raises(InvalidRequestError, match="ANY"):
                attempt(Request(data=("city",), recipient=ANY))
        assert not ariel.log()


def test_facts_that_change_while_forecasts_are_scored_count(path):
    seen = []

    def scorer(request):
        seen.append(scored.store._connection.in_transaction)
        if len(seen) == 1:
            with Ariel.open(path, user="ann") as other:
                other.add(nodes=[Node(slot="recipient", id="kiosk", label="Kiosk")], source="user_cli")  # fmt: skip
                other.retract_edge(1, source="user_cli")
        return 1.0

    with judged(path, scorer=scorer) as scored:
        assert scored.judge_many([CITY])[0].reason == "no_premise"
        assert seen == [False, False]
