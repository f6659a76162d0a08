"""A private run under its budget: reserved once, killed anywhere, gone on with to the same bits."""

import dataclasses
import json
import os
import pathlib
import runpy
import shutil
import signal
import stat
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ariel_jax.algorithms.dp_grape import probe
from ariel_jax.algorithms.dp_grape.trainer import abandon, fit, plan_for, prepare
from ariel_jax.errors import ConfigError, PrivacyBudgetError
from ariel_jax.privacy import Ledger, Plan, Terms, audit, batches
from ariel_jax.training import LoopConfig, read_metrics, train
from ariel_jax.training.checkpoints import Checkpoints

PROGRAM = pathlib.Path(__file__).with_name("private_run.py")
toy = type("Toy", (), runpy.run_path(str(PROGRAM)))
prepared, PLAN, TERMS, SETTINGS, STEPS = (
    toy.prepared, toy.PLAN, toy.TERMS, toy.SETTINGS, toy.STEPS,
)  # fmt: skip
PRICE = PLAN.price().epsilon(TERMS.delta)


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "run.sqlite", TERMS) as ledger:
        yield ledger


@pytest.fixture
def known_draws(monkeypatch):
    monkeypatch.setattr(batches, "secrets", toy.KnownSeeds)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The model of a run that nobody cut off, with known keys, and what it drew."""
    top = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch, Ledger(top / "run.sqlite", TERMS) as ledger:
        patch.setattr(batches, "secrets", toy.KnownSeeds)
        run = toy.logged(prepared(noise_key=toy.known_key()), top / "run.draws")
        fitted = fit(run, ledger, top / "run", log_every=1)
    return fitted.params, draws(top)


def draws(top):
    lines = (top / "run.draws").read_text().splitlines()
    return [tuple(map(str, json.loads(line))) for line in lines]


def killed(folder, where, *more):
    command = [sys.executable, str(PROGRAM), str(folder), where, *map(str, more)]
    root = str(PROGRAM.parents[3])
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": root}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, cwd=root, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_a_run_reserves_steps_settles_and_reports(ledger, tmp_path):
    fitted = fit(prepared(), ledger, tmp_path / "run", log_every=1)
    assert (fitted.step, fitted.interrupted) == (STEPS, False)
    assert ledger.open_tickets() == []
    assert ledger.epsilon() == pytest.approx(PRICE)
    report = fitted.report
    assert report.epsilon == pytest.approx(PRICE)
    assert report.epsilon_pld == pytest.approx(PLAN.tight_epsilon(TERMS.delta))
    assert 0 < report.epsilon_pld < report.epsilon
    assert report.account_epsilon == pytest.approx(PRICE)
    assert (report.steps, report.relation, report.delta) == (STEPS, "zero_out", 1e-5)
    text = report.markdown()
    for words in (
        f"epsilon = {PRICE:.4f}",
        "counts as nothing",
        "release the model alone",
        "Poisson",
    ):
        assert words in text
    assert json.loads(json.dumps(report.to_json()))["planned_steps"] == STEPS
    found = audit.Audit(
        epsilon=PRICE, delta=1e-5, lower_bound=0.5, estimate=None, auroc=0.6, significance=0.05, n=9
    )
    assert "at least 0.5000" in report.with_audit(found).markdown()
    # It is done: the same call spends nothing, takes no step and gives the same model.
    again = fit(prepared(), ledger, tmp_path / "run")
    assert bits(again.params) == bits(fitted.params)
    assert ledger.epsilon() == pytest.approx(PRICE)


@pytest.mark.parametrize("where", ["after-reserve", "step", "before-settle"])
def test_a_killed_run_goes_on_to_the_same_bits_and_spends_once(
    where, tmp_path, ledger, whole, known_draws
):
    killed(tmp_path / "run", where)
    assert ledger.epsilon() == pytest.approx(PRICE)
    assert (tmp_path / "run.draws").exists() == (where != "after-reserve")
    run = toy.logged(prepared(noise_key=toy.known_key()), tmp_path / "run.draws")
    fitted = fit(run, ledger, tmp_path / "run")
    assert bits(fitted.params) == bits(whole[0])
    # One draw to each step: with another one the same noise would hide two sums.
    assert set(draws(tmp_path)) == set(whole[1])
    assert len(set(whole[1])) == STEPS
    assert ledger.epsilon() == pytest.approx(PRICE)
    assert ledger.open_tickets() == []


def test_a_run_that_was_cut_off_before_it_reserved_has_computed_nothing(
    tmp_path, ledger, monkeypatch
):
    run = toy.logged(prepared(), tmp_path / "run.draws")

    def interrupted(*_, **__):
        raise KeyboardInterrupt  # a signal would come a moment later, or to another thread

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "reserve", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(run, ledger, tmp_path / "run")
    assert not (tmp_path / "run.draws").exists()
    assert ledger.epsilon() == 0
    fit(prepared(), ledger, tmp_path / "run", stop_after=1)
    assert ledger.epsilon() == pytest.approx(PRICE)


def noise_state(folder, run, step=None):
    checkpoints = Checkpoints(folder / "checkpoints", keep=9)
    like = {
        "params": run.method.params,
        "opt_state": run.method.tx.init(run.method.params),
        "key": jax.random.key_data(jax.random.key(0)),
    }
    at, state, cursor = checkpoints.restore(like, step=step)
    checkpoints.close()
    noise = state["opt_state"][0]
    return at, tuple(np.asarray(jax.random.key_data(noise.key)).tolist()), int(noise.step), cursor


def test_secret_keys_survive_a_kill_and_no_noise_comes_twice(tmp_path, ledger):
    killed(tmp_path / "run", "step", "--secure")
    at, key, count, cursor = noise_state(tmp_path / "run", prepared())
    assert (at, count) == (0, 0)  # four steps are lost, their keys are not
    (ticket,) = ledger.open_tickets()
    assert cursor["ticket"] == ticket.number
    # Whoever gives it up now pays for all of it: nobody knows how many steps there were.
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    shutil.copy(tmp_path / "run.sqlite", tmp_path / "copy.sqlite")
    with Ledger(tmp_path / "copy.sqlite", TERMS) as copy:
        abandon(copy, tmp_path / "copy")
        assert copy.epsilon() == pytest.approx(PRICE)
        assert copy.open_tickets() == []
    run = toy.logged(prepared(), tmp_path / "run.draws")
    fit(run, ledger, tmp_path / "run")
    by_step = dict(draws(tmp_path))
    assert sorted(map(int, by_step)) == list(range(STEPS))
    assert len(draws(tmp_path)) == 5 + STEPS
    assert set(draws(tmp_path)) == set(by_step.items())
    at, same, count, _ = noise_state(tmp_path / "run", prepared())
    assert (at, same, count) == (STEPS, key, STEPS)
    with Ledger(tmp_path / "other.sqlite", TERMS) as other:
        fit(prepared(), other, tmp_path / "other", stop_after=1)
    assert noise_state(tmp_path / "other", prepared())[1] != key


def test_the_key_of_the_noise_stands_in_no_program(tmp_path, ledger, monkeypatch):
    dumped = tmp_path / "programs"
    monkeypatch.setattr(jax.config, "jax_dump_ir_to", str(dumped), raising=False)
    jax.config.update("jax_dump_ir_to", str(dumped))
    jax.clear_caches()
    try:
        key = toy.known_key()
        fit(prepared(noise_key=key), ledger, tmp_path / "run", stop_after=2)
        texts = [path.read_text() for path in dumped.iterdir()]
        # What a program that closed over the key would hold.
        jax.jit(lambda x: x + jax.random.key_data(key))(jnp.zeros(2, jnp.uint32))
        everything = [path.read_text() for path in dumped.iterdir()]
    finally:
        jax.config.update("jax_dump_ir_to", None)
    assert any("jit_grads" in text for text in texts)
    assert any("jit_apply" in text for text in texts)
    assert not any(names_key(text) for text in texts)
    assert any(names_key(text) for text in everything)
    with pytest.raises(ConfigError, match=r"keep it as a constant: call init outside of jit"):
        jax.jit(prepared(noise_key=key).method.tx.init)(toy.weights())


def names_key(text):
    return any(str(word) in text or f"{word:08X}" in text.upper() for word in toy.WORDS)


def test_what_a_run_writes_is_secret_and_holds_no_private_numbers(tmp_path, ledger):
    folder = tmp_path / "run"
    fit(prepared(), ledger, folder, log_every=1)
    rows = read_metrics(folder / "metrics.jsonl")
    assert [set(row) for row in rows] == [
        {"step", "epsilon", "learning_rate", "s_per_step"}
    ] * STEPS
    spent = [PLAN.replace(steps=k).price().epsilon(TERMS.delta) for k in range(1, STEPS + 1)]
    assert [row["epsilon"] for row in rows] == pytest.approx(spent, rel=1e-5)
    for path in (folder, folder / "checkpoints", *(folder / "checkpoints").rglob("*")):
        mode = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == mode, path
    assert stat.S_IMODE((folder / "run.json").stat().st_mode) == 0o600
    shown = prepared()
    with Ledger(tmp_path / "other.sqlite", TERMS) as other:
        report = fit(shown, other, tmp_path / "shown", log_every=1, log_private_stats=True).report
    assert {"loss", "clipped", "grad_norm"} <= set(
        read_metrics(tmp_path / "shown/metrics.jsonl")[0]
    )
    assert "metrics.jsonl of this run holds such numbers" in report.markdown()


def test_a_private_sum_is_shown_to_no_reduction(tmp_path):
    run = prepared()
    with pytest.raises(ConfigError, match="before noise is added"):
        train(
            run.method.params, grad_fn=run.method.grad_fn, tx=run.method.tx, source=run.source,
            folder=tmp_path / "run", config=LoopConfig(steps=1), reduce=lambda tree, step: (tree, True),
        )  # fmt: skip


def changed(name, value):
    if name in ("noise_multiplier", "sampling_probability", "steps"):
        return prepared(plan=PLAN.replace(**{name: value}))
    if name in ("rank", "refresh_every"):
        cfg = dataclasses.replace(toy.CFG, **{name: value})
        return prepared(settings=dataclasses.replace(SETTINGS, cfg=cfg))
    if name == "n_records":
        return prepared(data={k: v[:value] for k, v in toy.records().items()})
    if name == "records":
        return prepared(data=toy.records(seed=4))
    return prepared(settings=dataclasses.replace(SETTINGS, **{name: value}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("noise_multiplier", 1.0), ("sampling_probability", 0.1), ("steps", 5), ("clip_norm", 0.8),
        ("expected_batch", 9.0), ("rows", 43), ("rank", 1), ("refresh_every", 2), ("n_records", 39),
        ("records", None), ("learning_rate", 0.1),
    ],
)  # fmt: skip
def test_a_run_goes_on_with_nothing_else(name, value, tmp_path, begun):
    """Before and after its end."""
    for folder, ledger in begun:
        before = ledger.head()
        wanted = r"'[0-9a-f]{16}' and now it is '[0-9a-f]{16}'" if value is None else f"{value}:"
        with pytest.raises(ConfigError, match=f"was made for {name}=.*{wanted}"):
            fit(changed(name, value), ledger, folder)
        assert ledger.head() == before


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run that was begun and one that has ended, with their ledgers."""
    top = tmp_path_factory.mktemp("begun")
    with Ledger(top / "a.sqlite", TERMS) as a, Ledger(top / "b.sqlite", TERMS) as b:
        fit(prepared(), a, top / "a", stop_after=2)
        fit(prepared(), b, top / "b")
        yield [(top / "a", a), (top / "b", b)]


def test_a_run_that_is_given_up_is_charged_what_it_may_have_released(tmp_path, ledger):
    fitted = fit(prepared(), ledger, tmp_path / "run", stop_after=2)
    assert (fitted.step, fitted.interrupted, fitted.report.steps) == (2, True, 2)
    assert ledger.epsilon() == pytest.approx(PRICE)
    two = PLAN.replace(steps=2).price().epsilon(TERMS.delta)
    assert abandon(ledger, tmp_path / "run").epsilon(TERMS.delta) == pytest.approx(two)
    assert ledger.epsilon() == pytest.approx(two)
    with pytest.raises(ConfigError, match="given up after step 2 of 6"):
        fit(prepared(), ledger, tmp_path / "run")
    with pytest.raises(ConfigError, match="no open reservation"):
        abandon(ledger, tmp_path / "run")
    with pytest.raises(ConfigError, match="no open reservation"):
        abandon(ledger, tmp_path)


def test_what_the_account_does_not_cover_is_not_computed(tmp_path):
    terms = dataclasses.replace(TERMS, epsilon=PRICE * 1.1)
    with Ledger(tmp_path / "run.sqlite", terms) as ledger:
        fit(prepared(), ledger, tmp_path / "one")
        run = toy.logged(prepared(), tmp_path / "run.draws")
        with pytest.raises(PrivacyBudgetError, match="would bring the account 'visits'"):
            fit(run, ledger, tmp_path / "two")
        assert not (tmp_path / "run.draws").exists()
        assert not (tmp_path / "two").exists()


def test_no_step_beyond_the_plan_is_made(tmp_path, ledger):
    with pytest.raises(PrivacyBudgetError, match="stop_after=7 lies beyond the 6 steps"):
        fit(prepared(), ledger, tmp_path / "run", stop_after=7)
    run = prepared()
    with pytest.raises(PrivacyBudgetError, match="batch 7 of a run of 6"):
        run.source.next(run.source.init() | {"step": STEPS})
    with pytest.raises(PrivacyBudgetError, match="batch 7 of a run of 6"):
        train(
            run.method.params, grad_fn=run.method.grad_fn, tx=run.method.tx, source=run.source,
            folder=tmp_path / "loop", config=LoopConfig(steps=STEPS + 1),
        )  # fmt: skip


def test_the_folder_and_the_checkpoint_are_those_of_the_run(tmp_path, ledger):
    (tmp_path / "other" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"holds \['checkpoints'\] and no run.json"):
        fit(prepared(), ledger, tmp_path / "other")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "run.json").write_text('{"run": 1, "what": 2}')
    with pytest.raises(ConfigError, match="is no note of a private run"):
        fit(prepared(), ledger, tmp_path / "text")
    fit(prepared(), ledger, tmp_path / "run", stop_after=1)
    with (
        Ledger(tmp_path / "second.sqlite", TERMS) as second,
        pytest.raises(ConfigError, match="another ledger paid for it"),
    ):
        fit(prepared(), second, tmp_path / "run")
    fit(prepared(), ledger, tmp_path / "later", stop_after=1)
    (tmp_path / "run" / "checkpoints").rename(tmp_path / "kept")
    (tmp_path / "later" / "checkpoints").rename(tmp_path / "run" / "checkpoints")
    with pytest.raises(ConfigError, match="was paid for by reservation 3 and this run by 2"):
        fit(prepared(), ledger, tmp_path / "run")


def test_a_delta_that_means_little_is_said(tmp_path):
    terms = dataclasses.replace(TERMS, delta=0.03)
    with Ledger(tmp_path / "run.sqlite", terms) as ledger:
        with pytest.raises(ConfigError, match=r"delta=0.03 is not below 1 / N = 0.025 for the 40"):
            fit(prepared(), ledger, tmp_path / "run", strict=True)
        with pytest.warns(UserWarning, match=r"delta=0.03 is not below 1 / N = 0.025"):
            fit(prepared(), ledger, tmp_path / "run", stop_after=1)


def test_plan_and_account_must_fit(tmp_path, ledger):
    with pytest.raises(
        ConfigError, match="plan is for add_remove and the account 'visits' for zero"
    ):
        fit(prepared(plan=PLAN.replace(relation="add_remove")), ledger, tmp_path / "run")
    few = dataclasses.replace(SETTINGS, rows=20)
    with pytest.raises(ConfigError, match=r"draws of more than 20 rows may add .* the plan says 0"):
        fit(prepared(settings=few), ledger, tmp_path / "run")
    everything = Plan(noise_multiplier=1.0, steps=2, sampler="none")
    with pytest.raises(ConfigError, match="sampler is 'none'"):
        prepared(plan=everything)
    with pytest.raises(ConfigError, match="key is that of a small seed"):
        prepared(noise_key=jax.random.key(7))
    with pytest.raises(ConfigError, match="method='adamw' is not allowed"):
        dataclasses.replace(SETTINGS, method="adamw")
    assert not (tmp_path / "run").exists()


def test_a_plan_for_a_budget_keeps_to_it_with_the_rows_that_it_needs(tmp_path):
    relation = "add_remove"
    plan, rows = plan_for(
        about=40, probability=0.2, steps=STEPS, epsilon=2.0, delta=1e-5, relation=relation, microbatch=8
    )  # fmt: skip
    assert rows % 8 == 0
    assert plan.truncation < 1e-9
    assert plan.epsilon(1e-5) == pytest.approx(2.0, rel=1e-3)
    terms = Terms(account="visits", relation=relation, epsilon=2.0, delta=1e-5)
    settings = dataclasses.replace(SETTINGS, rows=rows, microbatch=8)
    with Ledger(tmp_path / "run.sqlite", terms) as ledger:
        run = prepared(plan=plan, settings=settings)
        fitted = fit(run, ledger, tmp_path / "run", stop_after=1)
        (ticket,) = ledger.open_tickets()
    assert fitted.report.epsilon < 2.0
    assert ticket.details["n_records"] is None  # it is private here
    assert "number of records, which is private here" in fitted.report.markdown()


@dataclasses.dataclass(frozen=True)
class Mixing:
    """A step whose examples are centred by the mean of the batch, as batch statistics would."""

    inner: object
    centred: bool
    factor: float = 1.0

    def __call__(self, params, batch, is_padding, key):
        examples = dict(batch["examples"])
        if self.centred:
            examples["x"] = examples["x"] - jnp.mean(examples["x"], axis=0, keepdims=True)
        tree, info = self.inner(params, batch | {"examples": examples}, is_padding, key)
        return jax.tree.map(lambda leaf: leaf * self.factor, tree), info


def test_a_step_that_mixes_examples_or_does_not_clip_is_found():
    run = prepared()
    grad = run.method.grad_fn
    projected = ("a.w", "b.w")

    def tried(grad_fn, **options):
        probe.check(grad_fn, run.method.params, run.source, **options)

    tried(Mixing(grad, centred=False), projected=projected)
    with pytest.raises(ConfigError, match="the loss or the gradient mixes examples"):
        tried(Mixing(grad, centred=True))
    with pytest.raises(ConfigError, match=r"changes the sum by 1\.4, more than the clip norm 0\.7"):
        tried(Mixing(grad, centred=False, factor=2.0))
    real = {name: array[:3] for name, array in toy.records().items()}
    tried(grad, examples=real)
    with pytest.raises(ConfigError, match="must be like the records"):
        tried(grad, examples={"x": real["x"]})


def past_the_tap(params, example, key):
    """A loss that multiplies by the weight itself."""
    y = jnp.tanh(example["x"] @ params["a"].w.T) @ params["b"].w.T
    return jnp.mean(jnp.square(y - example["y"]))


def test_a_weight_that_would_not_be_trained_is_found(tmp_path, ledger):
    with pytest.raises(ConfigError, match=r"\['a.w', 'b.w'\] had no gradient"):
        fit(prepared(loss=past_the_tap), ledger, tmp_path / "run")
    assert ledger.epsilon() == 0
    assert not (tmp_path / "run").exists()


def test_two_devices_train_as_one(tmp_path, ledger, known_draws, whole):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    run = prepared(noise_key=toy.known_key())
    spread = fit(run, ledger, tmp_path / "run", mesh=mesh)
    for a, b in zip(jax.tree.leaves(spread.params), jax.tree.leaves(whole[0]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_run_is_made_of_one_set_of_numbers():
    run = prepared()
    assert (run.source.clip_norm, run.source.draws.rows) == (SETTINGS.clip_norm, SETTINGS.rows)
    assert (run.source.draws.probability, run.source.steps) == (0.2, STEPS)
    # The noise of the optimiser, by its size: sigma C on the sum, before it is divided.
    made = prepare(
        {"big": toy.Linear(w=jnp.zeros((64, 65), jnp.float32), b=jnp.zeros(20_000))},
        loss=toy.example_loss, records=toy.records(), plan=PLAN,
        settings=dataclasses.replace(SETTINGS, learning_rate=1.0),
    )  # fmt: skip
    tx, params = made.method.tx, made.method.params
    zeros = {"big.w": jnp.zeros((2, 65)), "big.b": jnp.zeros(20_000)}
    with jax.numpy_dtype_promotion("standard"):
        _, state = tx.update(zeros, tx.init(params), params)
    first = np.asarray(state[2].inner[0].mu["big.b"]) / 0.1
    assert np.std(first) == pytest.approx(2.0 * 0.7 / 8.0, rel=0.02)
