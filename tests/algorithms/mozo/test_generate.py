"""Sessions: reserved before a demonstration is seen, charged by what was made, private or marked as not."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ariel_jax.algorithms import mozo
from ariel_jax.algorithms.mozo import (
    Config,
    Demonstration,
    Numbers,
    Plan,
    PromptFormat,
    programs,
    store,
)
from ariel_jax.algorithms.mozo.synthesis import _Shape
from ariel_jax.errors import (
    AccountingMismatchError,
    BudgetExceededError,
    ConfigError,
    ModelOutputError,
)
from ariel_jax.models.hf.model import GenerationDefaults
from ariel_jax.privacy import Ledger, Terms
from ariel_jax.testing import tiny_model

FORMAT = PromptFormat(
    instruction="Go:", demonstration="{input}>{output};", query="{input}>", stop=()
)
DELTA = 1e-3


@pytest.fixture(scope="module")
def model():
    model = tiny_model("llama", n_layers=1)
    return dataclasses.replace(model, generation=GenerationDefaults())  # no text ends by itself


@pytest.fixture(scope="module")
def encoded(model):
    records = [Demonstration(input="abcdef"[: 1 + i], output="xyzuvw"[i:]) for i in range(6)]
    return mozo.encode(records, model.tokenizer, FORMAT, max_tokens=12)


@pytest.fixture(scope="module")
def plan():
    config = Config(n_slots=3, top_k=20)
    fields = {"config": config, "n_demonstrations": 6, "max_tokens": 7, "redraw_every": 3}
    made = Plan(**fields, numbers=Numbers(eta=0.1, weight=0.5), sampler="without_replacement")
    return mozo.calibrate(made, epsilon=1.0, delta=DELTA, n_queries=2)


def account(path, plan, epsilon=1.0):
    terms = Terms(account="tests", relation=plan.relation, epsilon=epsilon, delta=DELTA)
    return Ledger(path / "ledger.sqlite", terms)


class Looked(Exception):
    """A program ran."""


def refuse_programs(patch):
    def looked(*_args, **_options):
        raise Looked

    for name in ("begin", "block", "read_prefixes", "read_batch", "fill_store"):
        patch.setattr(programs, name, lambda: looked)


def test_answers_are_paid_for_and_what_was_not_made_is_given_back(model, encoded, plan, tmp_path):
    seen = []
    with (
        account(tmp_path, plan) as ledger,
        mozo.Session(model, encoded, plan, ledger, n_queries=2) as session,
    ):
        assert ledger.epsilon() == pytest.approx(plan.price(2).epsilon(DELTA))
        answer = session.answer("q?", on_block=seen.append)
        assert [len(block) for block in seen] == [3, 3, 1]
        assert [token for block in seen for token in block] == list(answer.tokens)
        assert session.queries_left == 1
        session.close()
        session.close()
        assert ledger.epsilon() == pytest.approx(plan.price(1).epsilon(DELTA))
        assert not ledger.open_tickets()
        report = session.report()
        assert report.epsilon == pytest.approx(plan.price(1).epsilon(DELTA))
        assert (report.queries, report.planned_queries, report.tokens, report.blocks) == (
            1,
            2,
            7,
            3,
        )
        with pytest.raises(ConfigError, match="closed and settled"):
            session.answer("q?")


def test_an_answer_that_ends_early_pays_for_the_blocks_that_were_started(
    model, encoded, plan, tmp_path
):
    # The only token that can be drawn ends the text: the first of the first of three blocks.
    ends = GenerationDefaults(eos_ids=tuple(range(320)))
    with account(tmp_path, plan) as ledger:
        out = mozo.generate(
            dataclasses.replace(model, generation=ends), encoded, ["q?", "r!"], plan, ledger
        )
        assert [len(answer.tokens) for answer in out.answers] == [1, 1]
        assert out.texts == ["", ""]
        expected = plan.settled([1, 1], [1, 1])
        assert ledger.epsilon() == pytest.approx(expected.epsilon(DELTA))
        assert ledger.epsilon() < plan.price(2).epsilon(DELTA) / 1.5


def test_without_draws_the_tokens_that_were_not_made_are_given_back(model, plan, tmp_path):
    few = [Demonstration(input="a", output="b"), Demonstration(input="c", output="d")]
    encoded = mozo.encode(few, model.tokenizer, FORMAT, max_tokens=12)
    whole = Plan(
        config=plan.config, numbers=plan.numbers, n_demonstrations=2, max_tokens=3, sampler="none"
    )
    whole = mozo.calibrate(whole, epsilon=1.0, delta=DELTA)
    ends = GenerationDefaults(eos_ids=tuple(range(320)))
    with account(tmp_path, whole) as ledger:
        mozo.generate(dataclasses.replace(model, generation=ends), encoded, "q?", whole, ledger)
        one = whole.replace(max_tokens=1).price(1)
        assert ledger.epsilon() == pytest.approx(one.epsilon(DELTA))


def test_a_budget_refuses_before_the_first_private_pass(
    model, encoded, plan, tmp_path, monkeypatch
):
    refuse_programs(monkeypatch)
    with account(tmp_path, plan) as ledger:
        with pytest.raises(BudgetExceededError, match="No demonstration was looked at") as error:
            mozo.generate(model, encoded, ["q?"] * 3, plan, ledger)
        assert error.value.most_tokens < 7
        assert error.value.needed > 1.0
        assert error.value.left == 1.0
        assert ledger.epsilon() == 0
        # The spy sees: where the budget is enough, the same call does look.
        with pytest.raises(Looked):
            mozo.generate(model, encoded, ["q?"] * 2, plan, ledger)


def test_an_error_in_the_middle_is_charged_as_if_the_block_had_been_shown(
    model, encoded, plan, tmp_path
):
    params = model.params.replace(embed=jnp.full_like(model.params.embed, jnp.nan))
    broken = dataclasses.replace(model, params=params)
    with account(tmp_path, plan) as ledger:
        with pytest.raises(ModelOutputError):
            mozo.generate(broken, encoded, ["q?", "r!"], plan, ledger)
        assert ledger.epsilon() == pytest.approx(plan.settled([1], [3]).epsilon(DELTA))


def test_a_query_that_does_not_fit_costs_nothing(model, encoded, plan, tmp_path):
    with account(tmp_path, plan) as ledger:
        with pytest.raises(ConfigError, match="128 positions"):
            mozo.generate(model, encoded, ["q?", "q" * 200], plan, ledger)
        with pytest.raises(ConfigError, match="no queries"):
            mozo.generate(model, encoded, [], plan, ledger)
        assert ledger.epsilon() == 0
        with mozo.Session(model, encoded, plan, ledger, n_queries=2) as session:
            with pytest.raises(ConfigError, match="128 positions"):
                session.answer("q" * 200)
            assert session.queries_left == 2
        assert ledger.epsilon() == 0


def test_an_exhausted_session_raises_or_answers_from_public_data_alone(
    model, encoded, plan, tmp_path, monkeypatch
):
    with account(tmp_path, plan) as ledger:
        with mozo.Session(model, encoded, plan, ledger) as session:
            session.answer("q?")
            with pytest.raises(BudgetExceededError, match="are answered"):
                session.answer("q?")
        spent = ledger.epsilon()
        read, real = [], programs.read_prefixes()

        def reading(cfg, params, tokens, lengths):
            read.append((np.asarray(tokens), np.asarray(lengths)))
            return real(cfg, params, tokens, lengths)

        def looked(*_args):
            raise Looked

        monkeypatch.setattr(programs, "read_prefixes", lambda: reading)
        monkeypatch.setattr(programs, "fill_store", lambda: looked)
        out = mozo.generate(
            model, encoded, ["q?"] * 3, plan, ledger, on_exhausted="public", place="device"
        )
        assert [answer.is_private for answer in out.answers] == [False] * 3
        assert len({answer.tokens for answer in out.answers}) == 3  # drawn with different keys
        for tokens, lengths in read:  # nothing but the instruction
            assert (tokens == encoded.tokens[-1]).all()
            assert (lengths == encoded.lengths[-1]).all()
        assert ledger.epsilon() == spent
        assert out.privacy.public_queries == 3
        assert "No demonstration was used" in out.privacy.guarantee


def test_a_known_seed_must_be_meant_repeats_the_text_and_marks_the_account(
    model, encoded, plan, tmp_path
):
    texts = []
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
        with account(tmp_path / folder, plan) as ledger:
            with pytest.raises(ConfigError, match="insecure_seed_ok"):
                mozo.generate(model, encoded, "q?", plan, ledger, seed=3)
            assert ledger.epsilon() == 0
            options = {} if folder == "c" else {"seed": 3, "insecure_seed_ok": True}
            out = mozo.generate(model, encoded, "q?", plan, ledger, **options)
            texts.append(out.answers[0].tokens)
            stamped = [reason for reason in ledger.report()["void"] if "NOT PRIVATE" in reason]
            assert len(stamped) == (folder != "c")
            assert out.privacy.guarantee.startswith("NOT PRIVATE") == (folder != "c")
            assert ("## Warnings\n- NOT PRIVATE" in out.privacy.markdown()) == (folder != "c")
    assert texts[0] == texts[1] != texts[2]


def test_auto_reads_all_demonstrations_only_where_the_answers_would_read_as_many(
    model, encoded, plan, tmp_path
):
    # A query reads 3 blocks of 3 slots and the zero-shot row, 12 in all; there are 6 demonstrations.
    row = store.row_bytes(model.cfg, model.params, encoded.tokens.shape[1])
    records = [Demonstration(input="a", output="b")] * 13
    more = mozo.encode(records, model.tokenizer, FORMAT, max_tokens=12)

    def place(encoded, n_queries, **options):
        ours = plan.replace(n_demonstrations=encoded.n)
        with (
            account(tmp_path, plan) as ledger,
            mozo.Session(model, encoded, ours, ledger, n_queries=n_queries, **options) as session,
        ):
            return session._decoder._place

    assert place(encoded, 1) == "device"
    assert place(encoded, 1, most_bytes=7 * row) == "device"
    assert place(encoded, 1, most_bytes=7 * row - 1) == "none"
    assert place(encoded, 1, place="host") == "host"
    assert place(more, 1) == "none"
    assert place(more, 2) == "device"
    assert place(more, 1, place="device") == "device"
    # The plan's public number counts, where the file has fewer.
    fixed = (model.cfg, model.params, encoded)
    assert store.choose(*fixed, n_reads=12, n_planned=12, most_bytes=13 * row) == "device"
    assert store.choose(*fixed, n_reads=12, n_planned=13) == "none"
    assert store.choose(*fixed, n_reads=12, n_planned=12, most_bytes=13 * row - 1) == "none"
    assert store.choose(*fixed) == "device"


def test_threads_answer_one_after_the_other_and_share_no_number(
    model, encoded, plan, tmp_path, monkeypatch
):
    entered, go_on = threading.Semaphore(0), threading.Event()
    drawn, keys = [], []

    def answer(query, draws, key, *, on_start, on_block):
        entered.release()
        assert go_on.wait(30)
        on_start(1)
        drawn.append(draws(0).rows.tolist())
        keys.append(jax.random.key_data(key).tolist())
        return mozo.Answer(text="", tokens=(1, 2, 3), finish_reason="eos", blocks=1)

    with account(tmp_path, plan) as ledger:
        session = mozo.Session(model, encoded, plan, ledger, n_queries=2)
        monkeypatch.setattr(session._decoder, "answer", answer)

        def ask():
            with contextlib.suppress(ConfigError):  # closed before it came in
                session.answer("q?")

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        assert entered.acquire(timeout=30)
        # One is decoding; neither the other one nor a close comes in.
        closing = threading.Thread(target=session.close)
        closing.start()
        assert not entered.acquire(timeout=0.3)
        assert closing.is_alive()
        assert len(ledger.open_tickets()) == 1
        go_on.set()
        for thread in (*threads, closing):
            thread.join(30)
        # Whoever comes after `close` is refused; what was answered has a number of its own, and is paid.
        n = len(keys)
        assert n in (1, 2)
        assert len({str(key) for key in keys}) == n
        assert drawn == [session._subsets.draw(number, 0).rows.tolist() for number in range(n)]
        expected = plan.settled([1] * n, [3] * n).epsilon(DELTA)
        assert ledger.epsilon() == pytest.approx(expected)


def test_a_session_is_not_called_from_its_own_callback_or_in_a_forked_child(
    model, encoded, plan, tmp_path, monkeypatch
):
    with account(tmp_path, plan) as ledger:
        session = mozo.Session(model, encoded, plan, ledger)
        for call in (session.close, lambda: session.answer("q?")):
            with monkeypatch.context() as patch:
                patch.setattr(os, "getpid", lambda: -1)
                with pytest.raises(ConfigError, match="belongs to process"):
                    call()

        def close(_tokens):
            session.close()  # more blocks would follow that nobody pays for

        with pytest.raises(ConfigError, match="in the middle of an answer"):
            session.answer("q?", on_block=close)
        session.close()
        assert ledger.epsilon() == pytest.approx(plan.settled([1], [3]).epsilon(DELTA))


CHILD = """
import os, pathlib, pickle, signal, sys
from ariel_jax.algorithms import mozo
from ariel_jax.algorithms.mozo import programs
from ariel_jax.privacy import Ledger
from ariel_jax.testing import tiny_model
def looked(*args, **options):
    os.kill(os.getpid(), signal.SIGKILL)
programs.read_prefixes = programs.fill_store = programs.begin = lambda: looked
model = tiny_model("llama", n_layers=1)
format = mozo.PromptFormat(stop=())
encoded = mozo.encode([mozo.Demonstration(input="a", output="b")] * 6, model.tokenizer, format, max_tokens=40)
plan = pickle.loads(pathlib.Path(sys.argv[2]).read_bytes())
mozo.generate(model, encoded, "q?", plan, Ledger(sys.argv[1]))
"""


def test_a_process_that_is_killed_between_reservation_and_settlement_has_spent_it(
    plan, tmp_path, root
):
    import pickle

    account(tmp_path, plan).close()
    (tmp_path / "plan").write_bytes(pickle.dumps(plan))
    done = subprocess.run(
        [sys.executable, "-c", CHILD, tmp_path / "ledger.sqlite", tmp_path / "plan"],
        capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(root)},
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    with account(tmp_path, plan) as ledger:
        assert ledger.epsilon() == pytest.approx(plan.price(1).epsilon(DELTA))
        assert [ticket.details["system"] for ticket in ledger.open_tickets()] == ["mozo"]


def test_a_plan_and_an_account_must_belong_to_these_demonstrations(model, encoded, plan, tmp_path):
    with account(tmp_path, plan) as ledger:
        with pytest.raises(AccountingMismatchError, match="exactly 6"):
            mozo.Session(model, encoded, plan.replace(n_demonstrations=7), ledger)
    (tmp_path / "other").mkdir()
    terms = Terms(account="x", relation="add_remove", epsilon=1.0, delta=DELTA)
    with Ledger(tmp_path / "other" / "ledger.sqlite", terms) as ledger:
        with pytest.raises(AccountingMismatchError, match="replace_one"):
            mozo.Session(model, encoded, plan, ledger)
        assert ledger.epsilon() == 0


def test_the_report_says_what_is_protected_and_what_is_not(model, encoded, plan, tmp_path):
    with account(tmp_path, plan, epsilon=1.5) as ledger:
        out = mozo.generate(model, encoded, ["q?", "r!"], plan, ledger)
    report = out.privacy
    assert "with one demonstration replaced by another one" in report.guarantee
    assert f"epsilon = {report.epsilon:.4f}, delta = 0.001" in report.guarantee
    assert any("zero-shot prompt" in line for line in report.not_protected)
    assert any("facts that the model was trained on" in line for line in report.not_protected)
    assert any("the queries" in line for line in report.not_protected)
    assert f"h = {plan.numbers.h:.3g}" in report.warnings[0]  # 6 demonstrations are few
    page = report.markdown()
    for heading in ("## Warnings", "## It holds if", "## It does not cover"):
        assert heading in page
    assert f"| that account now | {report.account_epsilon:.4f} of 1.5 |" in page
    body = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert body["epsilon"] == report.epsilon
    # One is replaced: the page and the text name both h and 2 h.
    h = plan.numbers.h
    assert (body["h"], body["influence"]) == pytest.approx((h, 2 * h))
    assert f"on a token's log-ratio | {h:.4g} |" in page
    assert f"(replace_one) | {2 * h:.4g} |" in page
    assert f"h = {h:.4g} and 2 h = {2 * h:.4g} where one is replaced" in report.guarantee


def test_synthetic_demonstrations_are_parsed_by_the_template():
    shape = _Shape.of(PromptFormat(), "demonstration")
    assert (shape.opening, shape.stop) == ("Input:", ("\n\n",))
    assert shape.parse(" two\nlines\nOutput: three ") == {"input": "two\nlines", "output": "three"}
    for broken in (" two", " two\nOutput:", "\nOutput: three", ""):
        assert shape.parse(broken) is None
    shape = _Shape.of(PromptFormat(demonstration="{output} <- {input}"), "demonstration")
    assert (shape.opening, shape.stop) == ("", ())
    assert shape.parse("b <- a") == {"output": "b", "input": "a"}
    assert _Shape.of(PromptFormat(), "text").parse(" a text") == {"text": "a text"}
    with pytest.raises(ConfigError, match="kind"):
        _Shape.of(PromptFormat(), "other")


def test_synthesis_costs_as_many_answers_and_nothing_afterwards(model, plan, tmp_path):
    records = [Demonstration(input="abcdef"[: 1 + i], output="xyzuvw"[i:]) for i in range(6)]
    # A separator that most texts of a random model have, so that some can be parsed.
    format = dataclasses.replace(FORMAT, demonstration="Q{input}e{output};")
    encoded = mozo.encode(records, model.tokenizer, format, max_tokens=12)
    seen = []
    with account(tmp_path, plan) as ledger:
        out = mozo.synthesize(
            model, encoded, 2, plan, ledger, on_answer=lambda n, answer: seen.append(answer.text)
        )
        assert ledger.epsilon() == pytest.approx(out.privacy.epsilon)
        assert out.privacy.queries == 2
    assert list(out.texts) == seen
    usable = [text for text in seen if _Shape.of(format, "demonstration").parse(text)]
    assert len(out.demonstrations) == len(usable)
    assert all(d.input and d.output for d in out.demonstrations)
    bare = dataclasses.replace(encoded, format=FORMAT)
    with account(tmp_path, plan) as ledger, pytest.raises(ConfigError, match="begins with what"):
        mozo.synthesize(model, bare, 2, plan, ledger)
