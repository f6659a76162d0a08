"""Many queries in one batch: the same tokens as one query after another without a cache."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ariel_jax.algorithms import mozo
from ariel_jax.algorithms.mozo.draws import Draw
from ariel_jax.algorithms.mozo.parameters import parameters
from ariel_jax.layers.attention import causal
from ariel_jax.models import decoder
from ariel_jax.testing import tiny_config, tiny_model, tiny_params
from experiments.mozo import answering, batched
from experiments.mozo.batched import Schedule

VOCAB, END, LONGEST = 320, 7, 48


@dataclasses.dataclass(frozen=True)
class Summed:
    """A method whose every token depends on all rows, the mask, the key and the parameters."""

    def __call__(self, logits, mask, key, parameters):
        shown = logits[0] + parameters * jnp.sum(jnp.where(mask[:, None], logits[1:], 0), axis=0)
        # Ends often enough for answers of many lengths.
        shown = shown.at[END].add(4.5)
        return jnp.argmax(shown + jax.random.gumbel(key, (VOCAB,))).astype(jnp.int32)


@pytest.fixture(scope="module")
def subject():
    cfg = tiny_config("llama", vocab_size=VOCAB, n_layers=1)
    model = SimpleNamespace(
        cfg=cfg, params=tiny_params(cfg), tokenizer=SimpleNamespace(eos_id=END)
    )  # fmt: skip
    rng = np.random.default_rng(0)

    def ids(low, high, n):
        drawn = [rng.integers(8, VOCAB, rng.integers(low, high)) for _ in range(n)]
        return tuple(part.astype(np.int32) for part in drawn)

    return batched.Subject(model=model, demonstrations=ids(4, 9, 20), queries=ids(2, 5, 3))


def slowly(subject, method, parameters, schedule, draw, seed, shots=None, bias=None):
    """One query after another, every row computed whole for every token."""
    cfg, params = subject.model.cfg, subject.model.params

    @jax.jit
    def logits_after(tokens, length):
        at = jnp.arange(LONGEST, dtype=jnp.int32)[None]
        found, _ = decoder.apply(
            cfg, params, tokens, at, causal(cfg.attention), None, logits_at=length - 1
        )
        return found[0]

    def logits(*parts):
        row = np.concatenate(parts).astype(np.int32)
        padded = np.zeros((1, LONGEST), np.int32)
        padded[0, : row.size] = row
        return logits_after(padded, np.asarray([row.size], np.int32))

    method = jax.jit(method)
    rng = np.random.default_rng([seed, 11])
    queries, n = subject.queries, len(subject.queries)
    keys = jax.random.split(jax.random.key(seed), n)
    before = [
        [] if shots is None else [subject.demonstrations[i] for i in shots(rng, q)]
        for q in range(n)
    ]
    found, drawn = [[] for _ in queries], {}
    at = 0
    for steps, is_due in schedule.blocks():
        active = [q for q in range(n) if END not in found[q]]
        if not active:
            break
        if is_due:
            drawn = {q: draw(rng, q)[: schedule.slots] for q in active}
        for q in active:
            for _ in range(steps):
                y = np.asarray(found[q], np.int32)
                rows = [logits(*before[q], queries[q], y) + (0 if bias is None else bias[q])]
                rows += [logits(subject.demonstrations[d], queries[q], y) for d in drawn[q]]
                mask = np.arange(schedule.slots) < len(drawn[q])
                rows += [rows[0]] * (schedule.slots - len(drawn[q]))  # nobody reads them
                token = method(
                    jnp.stack(rows),
                    jnp.asarray(mask),
                    jax.random.fold_in(keys[q], y.size),
                    parameters,
                )
                found[q].append(int(token))
                if found[q][-1] == END:
                    break
        at += steps
    return found


def some(rng, query):
    return rng.choice(20, rng.integers(0, 4), replace=False)


@pytest.mark.parametrize("redraw_every", [2, None])
def test_the_batch_draws_the_tokens_of_one_query_after_another(subject, redraw_every):
    schedule = Schedule(max_tokens=6, redraw_every=redraw_every, slots=3, stride=2)
    options = {"schedule": schedule, "draw": some, "seed": 3}
    found = batched.answers(subject, Summed(), jnp.float32(0.7), **options)
    assert found == slowly(subject, Summed(), jnp.float32(0.7), **options)
    lengths = {len(ids) for ids in found}
    assert len(lengths) > 1
    assert max(lengths) == 6
    assert batched.answers(subject, Summed(), jnp.float32(0.0), **options) != found
    other = options | {"draw": lambda rng, query: rng.choice(20, 3, replace=False)}
    assert batched.answers(subject, Summed(), jnp.float32(0.7), **other) != found


def test_shots_stand_before_the_query_in_row_0(subject):
    schedule = Schedule(max_tokens=4, redraw_every=None, slots=1, stride=2)
    none = lambda rng, query: np.zeros(0, np.int64)
    options = {"schedule": schedule, "draw": none, "seed": 3}
    shots = lambda rng, query: rng.choice(20, 3, replace=False)
    found = batched.answers(subject, Summed(), jnp.float32(0.7), shots=shots, **options)
    assert found == slowly(subject, Summed(), jnp.float32(0.7), shots=shots, **options)
    assert found != batched.answers(subject, Summed(), jnp.float32(0.7), **options)


def test_a_bias_is_on_row_0_of_its_own_query(subject):
    schedule = Schedule(max_tokens=4, redraw_every=None, slots=3, stride=2)
    bias = np.zeros((3, VOCAB), np.float32)
    bias[1, 30:60] = 3.0
    bias[2, 60:90] = 3.0
    options = {"schedule": schedule, "draw": some, "seed": 3}
    found = batched.answers(subject, Summed(), jnp.float32(0.7), bias=bias, **options)
    assert found == slowly(subject, Summed(), jnp.float32(0.7), bias=bias, **options)
    without = batched.answers(subject, Summed(), jnp.float32(0.7), **options)
    assert found[0] == without[0]
    assert found[1:] != without[1:]


def test_the_batch_draws_the_tokens_of_mozo():
    model = tiny_model("llama", n_layers=1)
    records = [mozo.Demonstration(input="abcdef"[: 1 + i], output="xyzuvw"[i:]) for i in range(6)]
    queries = ["ab", "f"]
    config, numbers = mozo.Config(n_slots=3, top_k=20), mozo.Numbers(eta=6.0, weight=0.5)
    drawn = [[(0, 5), (3,)], [(), (1, 2, 4)]]  # by block and query

    made = batched.subject(model, records, queries)
    turns = iter([np.array(rows, np.int64) for block in drawn for rows in block])
    found = batched.answers(
        made, answering.Mixed(config), parameters(config, numbers), draw=lambda *_: next(turns),
        schedule=Schedule(max_tokens=6, redraw_every=3, slots=3, stride=3), seed=5,
    )  # fmt: skip

    encoded = mozo.encode(records, model.tokenizer, mozo.PromptFormat(stop=()), max_tokens=40)
    decoder = mozo.MixedDecoder(model, encoded, config, numbers, max_tokens=6, redraw_every=3)
    keys = jax.random.split(jax.random.key(5), 2)
    for q, query in enumerate(queries):

        def draws(block, q=q):
            rows = drawn[block][q]
            return Draw(rows=np.array([*rows, *[-1] * (3 - len(rows))], np.int64))

        assert list(decoder.answer(query, draws, keys[q]).tokens) == found[q]


def test_a_schedule_redraws_when_it_says_and_ends_with_the_last_token():
    blocks = lambda **options: Schedule(max_tokens=12, slots=1, **options).blocks()
    assert blocks(redraw_every=5) == [(5, True), (5, True), (2, True)]
    assert blocks(redraw_every=None) == [(5, True), (5, False), (2, False)]
    assert blocks(redraw_every=7) == [(5, True), (2, False), (5, True)]
    assert blocks(redraw_every=1) == [(1, True)] * 12


def test_an_answer_ends_before_its_end_token_and_keeps_no_blank(subject):
    shown = SimpleNamespace(eos_id=END, decode=lambda ids: " " + "".join(map(chr, ids)))
    one = dataclasses.replace(subject, model=SimpleNamespace(tokenizer=shown))
    assert one.text([65, 66, END, 67]) == "AB"
    assert one.text([65, 66]) == "AB"
