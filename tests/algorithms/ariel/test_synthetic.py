"""Made-up users: what is known of them holds, and noise hurts as it must."""

import dataclasses

import numpy as np
import pytest

from ariel_jax.algorithms.ariel import bulk, metrics, synthetic
from ariel_jax.algorithms.ariel.types import Policy
from ariel_jax.errors import ConfigError

KNOBS = synthetic.Knobs(family="lattice", n_users=40)
ORDERED = ("lattice", "conditional", "rules", "segments")  # no draw, no drift


def verdicts(users, policy, *, own=True, scoped=True):
    histories = []
    for u in range(users.knobs.n_users):
        approve = users.order(u if own else None, scoped=scoped)
        deny = [np.swapaxes(a, -1, -2) for a in approve]
        options = {"context": users.context}
        bare = bulk.compile_history(approve, deny, users.history[u], users.said[u], **options)
        keep = bulk.reliable(bare, policy)
        histories.append(
            bulk.compile_history(
                approve, deny, users.history[u], users.said[u], keep=keep, **options
            )
        )
    return np.asarray(bulk.judge_users(bulk.stack(histories), users.asked, policy).verdict)


def report(users, **options):
    policy = Policy(reliability=options.pop("reliability", "off"))
    said = verdicts(users, policy, **options).ravel()
    known = users.wanted.ravel() != synthetic.ASKS
    return metrics.evaluate(said[known], users.appropriate.ravel()[known])


@pytest.mark.parametrize("family", ORDERED)
def test_true_orders_without_noise_never_err(family):
    users = synthetic.users(dataclasses.replace(KNOBS, family=family))
    found = report(users)
    assert found.accuracy == 1.0
    assert 0.1 < found.coverage < 0.7


def test_a_product_of_orders_errs_where_trust_is_conditional():
    users = synthetic.users(dataclasses.replace(KNOBS, family="conditional"))
    assert report(users, scoped=False).accuracy < 1.0


def test_noise_hurts_and_the_reliability_filter_recovers_part_of_it():
    noisy = synthetic.users(dataclasses.replace(KNOBS, exceptions=0.05, noise=0.03))
    noisier = synthetic.users(dataclasses.replace(KNOBS, exceptions=0.2, noise=0.1))
    bare = [report(users).accuracy for users in (noisy, noisier)]
    strict = [report(users, reliability="strict").accuracy for users in (noisy, noisier)]
    assert bare[1] < bare[0] - 0.05 < 0.9
    assert all(s > b + 0.03 for s, b in zip(strict, bare, strict=True))


def test_the_population_order_is_near_the_users_own_and_not_it():
    users = synthetic.users(dataclasses.replace(KNOBS, n_users=80))
    assert 0.95 < report(users, own=False).accuracy < 1.0


def test_concepts_outside_of_the_ontology_are_asked_about():
    users = synthetic.users(dataclasses.replace(KNOBS, outside=0.3))
    outside = (users.asked == synthetic.OUTSIDE).any(-1)
    assert 0.2 < outside.mean() < 0.4
    assert (verdicts(users, Policy())[outside] == metrics.ASK).all()


def test_a_lattice_is_monotone_and_exceptions_repeat():
    users = synthetic.users(
        dataclasses.replace(KNOBS, n_history=200, exceptions=0.2, sizes=(3, 3, 2, 2))
    )
    for u in range(5):
        said = {}
        for nodes, value in zip(users.history[u].tolist(), users.said[u].tolist(), strict=True):
            assert said.setdefault(tuple(nodes), value) == value
    noiseless = synthetic.users(KNOBS)
    order = noiseless.order(0)
    yes = noiseless.history[0][noiseless.said[0] == 1]
    no = noiseless.history[0][noiseless.said[0] == 0]
    covers = np.all([order[k][no[:, None, k], yes[None, :, k]] for k in range(4)], axis=0)
    assert not covers.any()  # nothing denied that an approval covers


def test_labels_change_after_a_drift_and_only_there():
    steady = synthetic.users(dataclasses.replace(KNOBS, n_history=40))
    drift = synthetic.users(dataclasses.replace(KNOBS, n_history=40, family="drift"))
    np.testing.assert_array_equal(steady.history, drift.history)
    np.testing.assert_array_equal(steady.said[:, :20], drift.said[:, :20])
    assert (steady.said[:, 20:] != drift.said[:, 20:]).mean() > 0.2


def test_rules_leave_some_open_and_the_same_seed_gives_the_same_users():
    knobs = dataclasses.replace(KNOBS, family="rules")
    first, again = synthetic.users(knobs, 3), synthetic.users(knobs, 3)
    assert 0.05 < (first.wanted == synthetic.ASKS).mean() < 0.6
    np.testing.assert_array_equal(first.said, again.said)
    assert (first.said != synthetic.users(knobs, 4).said).any()


def test_bad_knobs_are_refused():
    for bad in ({"family": "cats"}, {"noise": 1.5}, {"n_users": 0}):
        with pytest.raises(ConfigError):
            dataclasses.replace(KNOBS, **bad)
