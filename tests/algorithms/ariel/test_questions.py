"""The question to the user: which earlier judgements are close, against the plain loop."""

import pytest

from ariel_jax.algorithms.ariel import questions
from ariel_jax.algorithms.ariel.judge import History
from ariel_jax.algorithms.ariel.types import SLOTS

from .cases import case, random_request


def plain_missing(request, judgement, closures):
    """Slots of a request that a judgement does not cover, node by node."""
    polarity = "approve" if judgement.value == "appropriate" else "deny"
    context = closures.context(request.data)

    def covers(slot, x, y):
        return closures.covers(slot, polarity, x, y, context=context)

    missing = []
    for slot in SLOTS:
        ours, theirs = request.slot(slot), judgement.request.slot(slot)
        if polarity == "approve":
            whole = all(any(covers(slot, x, y) for y in theirs) for x in ours)
        else:
            whole = all(any(covers(slot, x, y) for x in ours) for y in theirs)
        if not whole:
            missing.append(slot)
    return missing


def plain_closest(request, history, closures):
    """Of the newest 32 and the newest 32 to the same recipient, those with the fewest missing slots."""
    standing = history.premises()[-1000:]
    same = [j for j in standing if j.request.recipient == request.recipient]
    looked = {j.id: j for j in (*standing[-32:], *same[-32:])}.values()
    found = [(plain_missing(request, j, closures), j.id) for j in looked]
    found = sorted((len(m), -i, i, m) for m, i in found if len(m) <= 2)
    return [(i, m) for _, _, i, m in found[:3]]


@pytest.mark.parametrize("seed", range(12))
def test_the_closest_judgements_are_those_of_the_plain_loop(seed):
    rng, ontology, closures, judgements = case(seed, n=(90, 22)[seed % 2], scoped=0.3, proposed=0.2)
    history, seen = History(closures, judgements), 0
    for _ in range(12):
        request = random_request(rng, ontology, bundles=0.4)
        positions = history.newest(1000)
        missing = history.missing(request, positions)
        for judgement, column in zip(history.members(positions), missing.T, strict=True):
            found = [slot for slot, is_missing in zip(SLOTS, column, strict=True) if is_missing]
            assert found == plain_missing(request, judgement, closures)
            seen += len(found) not in (0, len(SLOTS))
        shown = questions.closest(request, history)
        expected = plain_closest(request, history, closures)
        assert [(e["judgement"], e["differs_in"]) for e in shown] == expected
    assert seen > 20
