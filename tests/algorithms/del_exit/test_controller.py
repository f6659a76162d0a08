"""The controller against its definition in NumPy, its bounds, and what it chooses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ariel_jax.algorithms import del_exit
from ariel_jax.algorithms.del_exit import controller, oracle
from ariel_jax.algorithms.del_exit.oracle import Controller
from ariel_jax.errors import ConfigError
from ariel_jax.testing import assert_no_retrace

EXITS, LAYERS, D = (1, 3, 4, 7), 12, 5
CFG = del_exit.Config(exits=EXITS, max_draft=D)
TUNING = del_exit.tuning(CFG, LAYERS, omega=0.9)
ONE, BOTH = jnp.ones(1, bool), jnp.ones(2, bool)


def rounds(seed, n=30, batch=2):
    """Random rounds: matches, how sure the exits were, how many drafts were accepted."""
    rng = np.random.default_rng(seed)
    quality = rng.random(len(EXITS))
    shape = (n, batch, len(EXITS), D + 1)
    match = rng.random(shape) < quality[None, None, :, None]
    return match, rng.random(shape).astype(np.float32), rng.integers(0, D + 1, (n, batch))


def replayed(cfg, match, sureness, accepted, tuning=TUNING):
    valid = np.arange(D + 1)[None, None, :] <= accepted[..., None]
    seen = (jnp.asarray(a) for a in (match, sureness, valid))
    return del_exit.replay(cfg, tuning, *seen)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("allow_zero_draft", [True, False])
def test_it_does_what_its_definition_says(seed, allow_zero_draft):
    cfg = del_exit.Config(exits=EXITS, max_draft=D, allow_zero_draft=allow_zero_draft)
    match, sureness, accepted = rounds(seed, batch=1)
    state, choices = replayed(cfg, match, sureness, accepted)
    slow = Controller(EXITS, 0.9)
    for i in range(len(match)):
        slow.update(match[i, 0], sureness[i, 0], accepted[i, 0])
        chosen = slow.select(LAYERS, D, allow_zero_draft=allow_zero_draft)
        assert (int(choices.exit[i]), int(choices.length[i])) == chosen
        assert choices.threshold[i, 0] == pytest.approx(slow.threshold(chosen[0]), abs=1e-6)
    for k in range(len(EXITS)):
        assert del_exit.acceptance(state)[0, k] == pytest.approx(slow.acceptance(k), abs=1e-6)
        assert del_exit.threshold(state)[0, k] == pytest.approx(slow.threshold(k), abs=1e-6)
    assert int(state.round) == len(match)


@given(st.integers(0, 2**31), st.floats(0.05, 1.0))
@settings(max_examples=20, deadline=None)
def test_sums_and_shares_stay_in_their_bounds(seed, omega):
    state, _ = replayed(CFG, *rounds(seed, n=30), del_exit.tuning(CFG, LAYERS, omega=omega))
    alpha, tau = del_exit.acceptance(state), del_exit.threshold(state)
    assert ((alpha >= 0) & (alpha <= 1)).all()
    assert ((tau >= 0) & (tau <= 1)).all()
    mass = np.asarray(state.counts).sum(-1)
    most = (D + 1) * (30 if omega == 1 else (1 - omega**30) / (1 - omega))
    assert (mass <= most * 1.0001).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


@given(st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_expected_tokens_are_those_of_a_run_of_successes(alpha):
    found = del_exit.expected_tokens(jnp.float32(alpha), D)
    wanted = [sum(alpha**i for i in range(d + 1)) for d in range(D + 1)]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_a_run_of_successes_by_drawing_it():
    rng = np.random.default_rng(0)
    runs = np.cumprod(rng.random((40_000, D)) < 0.7, axis=1).sum(1)
    found = float(del_exit.expected_tokens(jnp.float32(0.7), D)[-1])
    assert abs(found - (1 + runs.mean())) < 5.3 * runs.std() / np.sqrt(len(runs))


def test_nothing_seen_means_nothing_stops_and_nothing_is_drafted():
    state = del_exit.init(CFG, 3)
    choice = del_exit.select(CFG, TUNING, state, jnp.ones(3, bool))
    assert choice.threshold.tolist() == [0, 0, 0]
    assert (int(choice.exit), int(choice.length)) == (0, 0)
    assert int(del_exit.draft_limit(CFG, choice)) == 0


def always(quality, n=40):
    """The state after rounds in which exit k matched with chance quality[k]."""
    rng = np.random.default_rng(3)
    match = rng.random((n, 1, len(EXITS), D + 1)) < np.asarray(quality)[None, None, :, None]
    return replayed(CFG, match, np.full(match.shape, 0.5, np.float32), np.full((n, 1), D))


def test_a_shallow_exit_that_is_right_beats_a_deep_one():
    _, choices = always([0.95, 0.96, 0.97, 1.0])
    assert int(choices.exit[-1]) == 0
    assert int(choices.length[-1]) == D


def test_an_exit_that_is_never_right_is_not_drafted_with():
    state, choices = always([0.0, 0.0, 0.0, 0.0])
    assert int(choices.length[-1]) == 0
    forced = del_exit.Config(exits=EXITS, max_draft=D, allow_zero_draft=False)
    choice = del_exit.select(forced, TUNING, state, ONE)
    assert int(choice.length) == 1


def test_dear_drafts_are_left_alone():
    state, _ = always([0.6, 0.6, 0.6, 0.6])
    assert int(del_exit.select(CFG, TUNING, state, ONE).length) > 0
    costs = TUNING.costs
    dear = TUNING.replace(costs=costs.replace(verify=costs.verify * 3))
    assert int(del_exit.select(CFG, dear, state, ONE).length) == 0


def test_requests_share_an_exit_and_those_that_are_done_keep_their_sums():
    match, sureness, accepted = rounds(5, n=8)
    valid = np.arange(D + 1)[None, None, :] <= accepted[..., None]
    valid[4:, 1] = False
    seen = [jnp.asarray(a) for a in (match, sureness, valid)]
    both, choices = del_exit.replay(CFG, TUNING, *seen)
    early, _ = del_exit.replay(CFG, TUNING, *(a[:4] for a in seen))
    np.testing.assert_allclose(both.counts[1], early.counts[1], rtol=1e-6)
    alpha = del_exit.acceptance(both)
    table = del_exit.scores(CFG, TUNING, alpha, BOTH)
    alone = [del_exit.scores(CFG, TUNING, alpha[b : b + 1], ONE) for b in range(2)]
    np.testing.assert_allclose(table, alone[0] + alone[1], rtol=1e-6)
    first = del_exit.scores(CFG, TUNING, alpha, jnp.asarray([True, False]))
    np.testing.assert_allclose(first, alone[0], rtol=1e-6)
    assert choices.exit.shape == (8,)


def test_no_choice_compiles_anything_anew():
    step = jax.jit(lambda state, keep, *seen: del_exit.update(state, *seen, keep))
    choose = jax.jit(lambda state, tuning: del_exit.select(CFG, tuning, state, BOTH))
    match, sureness, accepted = rounds(6, n=4)
    valid = np.arange(D + 1)[None, None, :] <= accepted[..., None]
    other = del_exit.tuning(CFG, LAYERS, omega=0.5, shadow_every=3, length=2)
    state = del_exit.init(CFG, 2)
    seen = [tuple(jnp.asarray(a[i]) for a in (match, sureness, valid)) for i in range(4)]
    choose(step(state, TUNING.omega, *seen[0]), TUNING)
    with assert_no_retrace():
        for each, tuning in zip(seen, [TUNING, other] * 2, strict=True):
            state = step(state, tuning.omega, *each)
            choose(state, tuning)


@pytest.mark.parametrize("rule", ["finite_state", "draft_verify"])
def test_other_rules_do_what_their_definitions_say(rule):
    cfg = del_exit.Config(exits=EXITS, max_draft=D, exit_rule="given", length_rule=rule)
    tuning = del_exit.tuning(cfg, LAYERS, exit=4, length=3, threshold=0.5, target=0.7)
    control = controller.init_control(cfg, tuning, 2)
    rng = np.random.default_rng(8)
    slow, length = [oracle.DraftVerify(0.5, 0.7) for _ in range(2)], [3, 3]
    for _ in range(60):
        plan = controller.plan(cfg, tuning, control, BOTH)
        assert int(plan.exit) == EXITS.index(4)
        drafts = plan.limit if rule == "finite_state" else rng.integers(0, D + 1, 2)
        held = np.array([rng.integers(max(0, n - 1), n + 1) for n in np.asarray(drafts)])
        for row in range(2):
            if rule == "finite_state":
                assert int(plan.limit[row]) == length[row]
            else:
                assert plan.threshold[row] == pytest.approx(slow[row].threshold, abs=1e-5)
                assert int(plan.limit[row]) == D
        control = controller.after_round(
            cfg, tuning, control, jnp.asarray(drafts, jnp.int32), jnp.asarray(held, jnp.int32)
        )
        for row in range(2):
            n, ok = int(drafts[row]), int(held[row])
            length[row] = oracle.finite_state(length[row], n, ok, D)
            if n:
                slow[row].update(n, ok)


def test_a_given_length_of_none_is_plain_decoding():
    cfg = del_exit.named("fixed", exits=EXITS, max_draft=D)
    tuning = del_exit.tuning(cfg, LAYERS, length=0)
    plan = controller.plan(cfg, tuning, controller.init_control(cfg, tuning, 1), ONE)
    assert plan.limit.tolist() == [0]


def test_a_look_is_due_after_so_many_rounds_with_drafts_or_without():
    tuning = del_exit.tuning(CFG, LAYERS, shadow_every=2, idle_every=20)
    control = controller.init_control(CFG, tuning, 1)
    zero, one = jnp.zeros(1, jnp.int32), jnp.ones(1, jnp.int32)
    waits, last = [], 0
    for number in range(1, 80):
        is_due = bool(controller.due(tuning, control, drafting=False))
        control = controller.after_round(CFG, tuning, control, zero, zero)
        if is_due:
            waits.append(number - last)
            last = number
            control = controller.looked(control, control.seen, drafting=False)
    assert waits == [8, 16, 20, 20], "each that changes nothing doubles the next"
    control = controller.after_round(CFG, tuning, control, one, one)
    assert int(control.idle) == 0
    control = controller.looked(control, control.seen, drafting=True)
    assert not controller.due(tuning, control, drafting=True)
    control = controller.after_round(CFG, tuning, control, one, one)
    assert controller.due(tuning, control, drafting=True)
    assert not controller.due(tuning, control, drafting=False)


def test_impossible_settings_are_refused():
    for exits in ((), (3, 1), (2, 2), (0, 3)):
        with pytest.raises(ConfigError, match="exits"):
            del_exit.Config(exits=exits)
    for omega in (0, 1.01):
        with pytest.raises(ConfigError, match=f"omega={omega}"):
            del_exit.tuning(CFG, LAYERS, omega=omega)
    with pytest.raises(ConfigError, match="max_draft=0"):
        del_exit.Config(exits=(1,), max_draft=0)
    with pytest.raises(ConfigError, match="length_rule"):
        del_exit.Config(exits=(1,), length_rule="hope")
    with pytest.raises(ConfigError, match="max_draft=32"):
        del_exit.Config(exits=(1,), max_draft=32)
    for buckets in ((2,), (8, 4), (1, 8)):
        with pytest.raises(ConfigError, match="row_buckets"):
            del_exit.Config(exits=(1,), row_buckets=buckets)
    with pytest.raises(ConfigError, match="12 layers"):
        del_exit.Config(exits=(1, 12)).check(12)
    with pytest.raises(ConfigError, match="12 layers"):
        del_exit.tuning(del_exit.Config(exits=(1, 12)), 12)
    with pytest.raises(ConfigError, match="exit=2"):
        del_exit.tuning(CFG, LAYERS, exit=2)
    with pytest.raises(ConfigError, match="length=6"):
        del_exit.tuning(CFG, LAYERS, length=D + 1)
    costs = del_exit.layer_costs(del_exit.Config(exits=(1, 2)), LAYERS)
    with pytest.raises(ConfigError, match="do not fit 4 exits"):
        del_exit.tuning(CFG, LAYERS, costs=costs)
    with pytest.raises(ConfigError, match="controller='hope'"):
        del_exit.named("hope", exits=(1,))
