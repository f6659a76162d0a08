"""Canaries inside a run: who is out is in no batch, coins survive a stop, and missing noise is seen."""

import dataclasses
import functools
import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ariel_jax.algorithms import dp_grape
from ariel_jax.algorithms.dp_grape import canaries, methods
from ariel_jax.algorithms.dp_grape.trainer import Settings, fit, plan_for, prepare
from ariel_jax.algorithms.dp_grape.training import PrivateSource
from ariel_jax.errors import ConfigError
from ariel_jax.layers.linear import Linear, linear
from ariel_jax.privacy import Ledger, Terms, batches
from ariel_jax.privacy.batches import PoissonSource

toy = type("Toy", (), runpy.run_path(str(pathlib.Path(__file__).with_name("private_run.py"))))
N, M, D, EPSILON, DELTA = 24, 128, 160, 0.5, 1e-5


def source(canaries, n=N + M, probability=0.25):
    draws = PoissonSource(records={"x": np.arange(n)}, probability=probability, rows=n)
    return PrivateSource(draws=draws, clip_norm=1.0, expected_batch=8.0, canaries=canaries)


def drawn(source, state, steps=40):
    """Numbers of the records of every batch."""
    found = []
    for _ in range(steps):
        (batch, is_padding), state = source.next(state)
        found.append(batch["examples"]["x"][~is_padding])
    return found


def test_canaries_that_are_out_are_in_no_batch_and_all_else_is_as_before():
    with_coins, plain = source(M), source(0)
    state = with_coins.init()
    coins = with_coins.is_in(state)
    assert (coins.shape, coins.dtype) == ((M,), np.dtype(bool))
    assert 0.25 < coins.mean() < 0.75
    found = drawn(with_coins, state)
    every = drawn(plain, {name: value for name, value in state.items() if name != "canaries"})
    seen = np.unique(np.concatenate(found))
    np.testing.assert_array_equal(seen, np.flatnonzero(np.append(np.ones(N, bool), coins)))
    for ours, theirs in zip(found, every, strict=True):
        # The same draw, less the canaries that are out.
        np.testing.assert_array_equal(ours, [i for i in theirs if i < N or coins[i - N]])
    # Which coins follow from the seed; another one tosses others.
    np.testing.assert_array_equal(with_coins.is_in(dict(state)), coins)
    assert (with_coins.is_in(with_coins.init()) != coins).any()


def test_coins_are_fair_and_independent():
    made = source(M)
    coins = np.stack([made.is_in(made.init()) for _ in range(400)])
    # Means of 400 coins, of which 128 are looked at: four and a half standard deviations.
    assert np.abs(coins.mean(0) - 0.5).max() < 4.5 * 0.5 / 20
    assert abs(coins.mean() - 0.5) < 4.5 * 0.5 / np.sqrt(coins.size)
    correlation = np.corrcoef(coins, rowvar=False) - np.eye(M)
    assert np.abs(correlation).max() < 5.5 / 20


def test_a_source_goes_on_with_its_own_canaries_alone():
    state = source(M).init()
    with pytest.raises(ConfigError, match=r"began with 128 canaries and now they are 64"):
        source(64).next(state)
    with pytest.raises(ConfigError, match=r"began with 0 canaries and now they are 64"):
        source(64).next(source(0).init())
    with pytest.raises(ConfigError, match=r"canaries=152 are the last of the records"):
        source(N + M)


def example_loss(params, example, key):
    """Of a linear regression with more features than records: it can learn every one by heart."""
    return jnp.mean(jnp.square(linear(example["x"], params["a"]) - example["y"]))


def records(n, seed):
    rng = np.random.default_rng(seed)
    return {
        "x": rng.standard_normal((n, D)).astype(np.float32) / np.float32(D**0.5),
        "y": rng.choice(np.float32([-1, 1]), (n, 1)),
    }


def weights():
    return {"a": Linear(w=jnp.zeros((1, D)), b=jnp.zeros(1))}


PLANTED = records(M, 1)
TERMS = Terms(account="visits", relation="zero_out", epsilon=EPSILON, delta=DELTA)


@functools.cache
def plan():
    return plan_for(about=N + M, probability=0.5, steps=40, epsilon=EPSILON, delta=DELTA)


def run_of(noise=1.0, **changes):
    """A run with canaries, and a part of its noise."""
    planned, rows = plan()
    cfg = dp_grape.Config(project=(), frozen=())
    given = {"clip_norm": 0.5, "expected_batch": 76.0, "rows": rows, "learning_rate": 0.2}
    settings = Settings(**given, method="dp-adam", cfg=cfg, **({"canaries": M} | changes))
    key = toy.known_key()
    run = prepare(
        weights(),
        loss=example_loss,
        records=canaries.appended(records(N, 0), PLANTED),
        plan=planned,
        settings=settings,
        noise_key=key,
    )
    if noise == 1:
        return run
    faulty = methods.build(
        "dp-adam", params=run.method.params, loss=example_loss, source=run.source,
        noise_multiplier=noise * planned.noise_multiplier, learning_rate=0.2, cfg=cfg,
        projection_key=jax.random.key(0), noise_key=key,
    )  # fmt: skip
    return dataclasses.replace(run, method=faulty)


def audited(fitted):
    scores = canaries.falls(
        *(canaries.losses(example_loss, params, PLANTED) for params in (weights(), fitted.params))
    )
    return canaries.audit(scores, fitted.canaries, epsilon=EPSILON, delta=DELTA)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with known keys that nobody cut off."""
    top = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch, Ledger(top / "l.sqlite", TERMS) as ledger:
        patch.setattr(batches, "secrets", toy.KnownSeeds)
        return fit(run_of(), ledger, top / "run")


def test_a_private_run_stays_within_its_claim_and_its_report_says_so(whole):
    found = audited(whole)
    assert not found.refutes
    assert 0.3 < found.auroc < 0.7
    assert 2 < found.most < 3
    assert whole.canaries.shape == (M,)
    text = whole.report.with_audit(found).markdown()
    assert "| canaries | 128 made-up records, nobody's" in text
    assert f"| audit lower bound | epsilon is at least {found.lower_bound:.4f}" in text
    assert f"within the claim of {EPSILON:.4f}" in text
    assert f"no attack could show above {found.most:.2f}" in text
    assert whole.report.with_audit(found).to_json()["audit"]["lower_bound"] == found.lower_bound


def test_a_run_without_noise_is_refuted(tmp_path, monkeypatch):
    """The control: without it the test above might see nothing whatever happens."""
    monkeypatch.setattr(batches, "secrets", toy.KnownSeeds)
    with Ledger(tmp_path / "l.sqlite", TERMS) as ledger:
        fitted = fit(run_of(noise=1e-6), ledger, tmp_path / "run")
    found = audited(fitted)
    assert found.refutes
    assert found.auroc > 0.9
    assert "above the claim, which is wrong" in fitted.report.with_audit(found).markdown()


def test_a_run_that_was_stopped_goes_on_with_the_same_coins(tmp_path, whole, monkeypatch):
    monkeypatch.setattr(batches, "secrets", toy.KnownSeeds)
    with Ledger(tmp_path / "l.sqlite", TERMS) as ledger:
        half = fit(run_of(), ledger, tmp_path / "run", stop_after=5)
        assert half.interrupted
        monkeypatch.undo()  # what goes on takes its coins from the checkpoint
        with pytest.raises(ConfigError, match=r"was made for canaries=128 and now it is None"):
            fit(run_of(canaries=None), ledger, tmp_path / "run")
        fitted = fit(run_of(), ledger, tmp_path / "run")
        again = fit(run_of(), ledger, tmp_path / "run")
    np.testing.assert_array_equal(half.canaries, whole.canaries)
    np.testing.assert_array_equal(fitted.canaries, whole.canaries)
    np.testing.assert_array_equal(fitted.params["a"].w, whole.params["a"].w)
    assert audited(fitted) == audited(again) == audited(whole)


def test_delta_is_held_against_the_real_records(tmp_path):
    """Canaries do not make the data larger: 1 / 24 is the bound, not 1 / 152."""
    lax = dataclasses.replace(TERMS, delta=0.05)
    with Ledger(tmp_path / "l.sqlite", lax) as ledger:
        with pytest.raises(ConfigError, match=r"not below 1 / N = 0.0417 for the 24 records"):
            fit(run_of(), ledger, tmp_path / "run", strict=True)


def test_losses_are_those_of_one_record_at_a_time():
    rng = np.random.default_rng(5)
    params = {"a": Linear(w=jnp.asarray(rng.standard_normal((1, D)), jnp.float32), b=jnp.zeros(1))}
    few = {name: array[:11] for name, array in PLANTED.items()}
    found = canaries.losses(example_loss, params, few, at_once=4)  # eleven are no multiple of it
    x, y, w = few["x"], few["y"], np.asarray(params["a"].w)
    np.testing.assert_allclose(found, np.square(x @ w.T - y)[:, 0], rtol=1e-5, atol=1e-6)
    assert (found.shape, found.dtype) == ((11,), np.dtype(np.float32))


def test_a_model_that_diverged_gives_scores_all_the_same():
    falls = canaries.falls([1.0, 1.0, 1.0], [0.25, np.nan, np.inf])
    assert np.isfinite(falls).all()
    assert falls[0] == 0.75
    assert falls[0] > falls[1] == falls[2]


def test_bad_input_is_explained():
    claim = {"epsilon": 1.0, "delta": DELTA}
    with pytest.raises(ConfigError, match=r"canaries=31 is not allowed.* from 32"):
        Settings(clip_norm=1.0, expected_batch=1.0, rows=1, canaries=31)
    with pytest.raises(ConfigError, match=r"canaries=True is not allowed"):
        canaries.check_count(True)
    with pytest.raises(ConfigError, match=r"canaries must be like the records"):
        canaries.appended(records(3, 0), {"x": PLANTED["x"]})
    with pytest.raises(
        ConfigError, match=r"\[M\] numbers and \[M\] bool; got \[3\] and \[2\] bool"
    ):
        canaries.audit([1.0, 2.0, 3.0], [True, False], **claim)
    with pytest.raises(ConfigError, match=r"got \[2\] and \[2\] int64"):
        canaries.audit([1.0, 2.0], [1, 0], **claim)
    with pytest.raises(ConfigError, match=r"scores must be finite numbers"):
        canaries.audit([1.0, 2.0], [True, True], **claim)
