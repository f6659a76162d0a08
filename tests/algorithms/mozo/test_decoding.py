"""Mixed decoding through a model: against a full pass per token, row by row, with shapes that tell nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ariel_jax.algorithms.mozo import Config, Numbers, demos, programs, recompute, sampling, store
from ariel_jax.algorithms.mozo.decoding import MixedDecoder, end_tokens, rounded_up
from ariel_jax.algorithms.mozo.demos import Demonstration, PromptFormat
from ariel_jax.algorithms.mozo.draws import Draw
from ariel_jax.errors import ConfigError, ModelOutputError, RowCouplingError
from ariel_jax.models.hf.model import GenerationDefaults
from ariel_jax.testing import assert_no_retrace, tiny_model

CONFIG = Config(n_slots=3, top_k=20)
NUMBERS = Numbers(eta=4.0, weight=0.5)
FORMAT = PromptFormat(
    instruction="Go:", demonstration="{input}>{output};", query="{input}>", stop=()
)
RECORDS = [Demonstration(input="abcdef"[: 1 + i], output="xyzuvw"[i:]) for i in range(6)]
SIZES = {"max_tokens": 7, "redraw_every": 3}


def endless(variant, **changes):
    """A model whose texts have no end, so that all answers are of one length."""
    model = tiny_model(variant, n_layers=1, **changes)
    return dataclasses.replace(model, generation=GenerationDefaults())


@pytest.fixture(scope="module")
def model():
    return endless("llama")


@pytest.fixture(scope="module")
def encoded(model):
    return demos.encode(RECORDS, model.tokenizer, FORMAT, max_tokens=12)


def decoder(model, encoded, config=CONFIG, numbers=NUMBERS, **options):
    return MixedDecoder(model, encoded, config, numbers, **{**SIZES, **options})


def slots(*blocks):
    """Draws with given demonstrations in the slots of each block; -1 for none."""
    return lambda block: Draw(rows=np.array(blocks[block % len(blocks)], np.int64))


DRAWS = slots((0, 5, -1), (3, -1, 2), (-1, -1, -1))
NOBODY = slots((-1, -1, -1))
KEY = jax.random.key(7)


@pytest.mark.parametrize(
    ("variant", "places"), [("llama", ("device", "host", "none")), ("gpt2", ("device",))]
)
def test_stored_cached_blocks_are_a_full_pass_per_token(variant, places):
    # gpt2 has a table of positions: here prefix, query and answer reach its very end.
    model = endless(variant, max_positions=len(FORMAT.instruction) + 12 + 3 + 7)
    encoded = demos.encode(RECORDS, model.tokenizer, FORMAT, max_tokens=12)
    expected = recompute.answer(model, encoded, CONFIG, NUMBERS, "q?", DRAWS, KEY, **SIZES)
    assert len(expected) == 7
    for place in places:
        found = decoder(model, encoded, place=place).answer("q?", DRAWS, KEY)
        assert list(found.tokens) == expected
        assert (found.finish_reason, found.blocks) == ("length", 3)
    # The draws matter, so that equal tokens say something.
    other = decoder(model, encoded).answer("q?", slots((1, 4, 5)), KEY)
    assert list(other.tokens) != expected


def zero_shot(model, encoded, key, rows=0, draws=None, n=7, config=CONFIG):
    """The sampler that one row alone, on the zero-shot row's top-k, would be."""
    ids = encoded.tokenizer.encode("q?>", add_special_tokens=False)
    tokens = []
    while len(tokens) < n:
        prompts = []
        for row in (encoded.zero_shot, *([] if draws is None else draws(0).rows.tolist())):
            prefix = encoded.tokens[row, : encoded.lengths[row]].tolist()
            prompts.append([*prefix, *ids, *tokens])
        logits = recompute.row_logits(model, prompts, pad_to=40)
        support = np.argsort(-logits[0], kind="stable")[: config.top_k]
        bits = jax.random.bits(jax.random.fold_in(key, len(tokens)), (2, config.top_k), "uint32")
        noise = np.asarray(sampling.gumbel(*bits))
        tokens.append(int(support[np.argmax(logits[rows, support] + noise)]))
    return tokens


def test_without_influence_or_without_anybody_it_is_the_zero_shot_sampler(model, encoded):
    expected = zero_shot(model, encoded, KEY)
    deaf = decoder(model, encoded, numbers=dataclasses.replace(NUMBERS, eta=0.0))
    assert list(deaf.answer("q?", DRAWS, KEY).tokens) == expected
    hearing = decoder(model, encoded)
    assert list(hearing.answer("q?", NOBODY, KEY).tokens) == expected
    public = hearing.answer("q?", NOBODY, KEY, is_private=False)
    assert list(public.tokens) == expected
    assert not public.is_private
    assert list(hearing.answer("q?", DRAWS, KEY).tokens) != expected


def test_without_a_bound_one_demonstration_is_one_shot_sampling_on_the_support(model, encoded):
    config = Config(n_slots=1, top_k=20)
    free = Numbers(eta=np.inf, weight=1.0)
    draws = slots((2,))
    found = decoder(model, encoded, config=config, numbers=free)
    expected = zero_shot(model, encoded, KEY, rows=1, draws=draws, config=config)
    assert list(found.answer("q?", draws, KEY).tokens) == expected
    assert expected != zero_shot(model, encoded, KEY)


def last_logits(mixed, draw, mask=(False,) * 3):
    """[N + 1, V] after the query, and that the third token was drawn from; row 0 alone is drawn from."""
    prefixes, index = mixed._rows(Draw(rows=np.array(draw)), is_private=True)
    suffix = np.zeros(16, np.int32)
    ids = mixed.suffix("q?")
    suffix[: len(ids)] = ids
    model = mixed.model
    cache, first = programs.begin()(
        model.cfg, model.params, prefixes, index, jnp.asarray(suffix), jnp.int32(len(ids)),
        capacity=mixed.n_prefix + 32,
    )  # fmt: skip
    before = np.asarray(first)
    _, block = mixed._decode(cache, first, np.array(mask), KEY, 0, 3)
    return np.stack([before, np.asarray(block.logits)])


def test_a_rows_logits_keep_every_bit_when_the_others_get_other_content(model, encoded):
    mixed = decoder(model, encoded)
    base, other = last_logits(mixed, (0, 1, 2)), last_logits(mixed, (0, 4, -1))
    np.testing.assert_array_equal(base[:, :2], other[:, :2])
    assert (base[:, 2:] != other[:, 2:]).any(-1).all()  # there the content did change


def test_what_is_stored_of_a_demonstration_does_not_depend_on_those_before_it(model, encoded):
    fewer = demos.encode(RECORDS[2:], model.tokenizer, FORMAT, max_tokens=12)
    all_of_them = store.build(model.cfg, model.params, encoded, place="device").prefixes
    moved = store.build(model.cfg, model.params, fewer, place="device").prefixes
    for ours, theirs in zip(jax.tree.leaves(all_of_them), jax.tree.leaves(moved), strict=True):
        np.testing.assert_array_equal(ours[2:7], theirs[:5])


def coupled(real, *, at_least=0):
    """As a scale over the whole batch would: by little, and of all rows; in longer queries only."""

    def run(cfg, params, *arguments, **options):
        found, more = real(cfg, params, *arguments, **options), None
        if isinstance(found, tuple):
            found, more = found
            if arguments[2].shape[0] < at_least:
                return found, more
            return found, more * (1 + 1e-4 * jnp.mean(jnp.abs(more)))
        scale = 1 + 1e-2 * jnp.mean(jnp.abs(found.k[0]))
        return found.replace(k=(found.k[0] * scale, *found.k[1:]))

    return run


@pytest.fixture
def plant(monkeypatch):
    """Puts a fault into one of the programs."""
    kept = []

    def planted(name, rows, **options):
        kept.append(getattr(programs, name))
        kept[-1].cache_clear()
        monkeypatch.setattr(programs, rows, coupled(getattr(programs, rows), **options))

    yield planted
    for program in kept:
        program.cache_clear()


def test_a_model_whose_rows_depend_on_each_other_is_refused(model, encoded, plant):
    plant("begin", "begin_rows")
    with pytest.raises(RowCouplingError, match="rows that no bound holds"):
        decoder(model, encoded).answer("q?", NOBODY, KEY, is_private=False)


def test_rows_are_tried_at_every_size_that_a_program_is_compiled_for(model, encoded, plant):
    # The query has 3 tokens; with 13 of the answer it no longer fits into 16.
    plant("begin", "begin_rows", at_least=32)
    seen = []
    with pytest.raises(RowCouplingError):
        decoder(model, encoded, max_tokens=18, redraw_every=14).answer(
            "q?", NOBODY, KEY, on_block=seen.append, is_private=False
        )
    assert [len(block) for block in seen] == [14]


def test_rows_that_are_read_for_each_block_are_tried_too(model, encoded, plant):
    plant("read_prefixes", "read_rows")
    looked = []

    class Watched(MixedDecoder):
        """Notes when rows of demonstrations are asked for."""

        def _check_reading(self, B):
            looked.append(B)
            super()._check_reading(B)

    with pytest.raises(RowCouplingError, match="rows that no bound holds"):
        Watched(model, encoded, CONFIG, NUMBERS, place="none", **SIZES).answer("q?", DRAWS, KEY)
    assert looked == [4]


class Recorder:
    """Which programs ran, with the shapes and static arguments of each."""

    def __init__(self, patch):
        self.calls = []
        for name in ("begin", "block", "read_prefixes", "read_batch", "fill_store"):
            patch.setattr(programs, name, self.wrapped(name, getattr(programs, name)()))

    def wrapped(self, name, program):
        def call(*args, **options):
            shapes = [
                (x.shape, str(x.dtype))
                for x in jax.tree.leaves((args, options))
                if hasattr(x, "shape")
            ]
            static = sorted((k, v) for k, v in options.items())
            self.calls.append((name, shapes, static))
            return program(*args, **options)

        return lambda: call


@pytest.mark.parametrize("place", ["device", "host", "none"])
def test_passes_and_shapes_do_not_depend_on_private_values(model, encoded, place, monkeypatch):
    others = [Demonstration(input="z", output="y") for _ in RECORDS]
    changed = demos.encode(others, model.tokenizer, FORMAT, max_tokens=12)

    def calls(encoded, draws, key=KEY, cls=MixedDecoder):
        with monkeypatch.context() as patch:
            recorder = Recorder(patch)
            cls(model, encoded, CONFIG, NUMBERS, place=place, **SIZES).answer("q?", draws, key)
        return recorder.calls

    class Leaking(MixedDecoder):
        """Computes only the rows that were drawn, as one would to save time."""

        def _block(self, ids, tokens, draw, key, *, is_private):
            self.config = dataclasses.replace(CONFIG, n_slots=max(int(draw.mask.sum()), 1))
            rows = draw.rows[draw.mask] if draw.mask.any() else np.array([-1])
            return super()._block(ids, tokens, Draw(rows=rows), key, is_private=is_private)

    base = calls(encoded, DRAWS)
    assert len(base) > 6
    assert calls(changed, slots((-1, 1, -1), (0, 1, 2))) == base
    assert calls(encoded, NOBODY, jax.random.key(1)) == base
    everybody = slots((0, 1, 2))
    assert calls(encoded, everybody) == base
    if place == "device":  # it compiles for every number of rows
        assert calls(encoded, everybody, cls=Leaking) != calls(encoded, NOBODY, cls=Leaking)


def test_other_numbers_keys_demonstrations_and_lengths_of_answers_compile_nothing(model, encoded):
    mixed = decoder(model, encoded)
    mixed.answer("q?", DRAWS, KEY)
    traced = dict(programs.TRACES)
    assert {"fill_store", "begin", "block"} <= set(traced)
    with assert_no_retrace():
        mixed.numbers = Numbers(eta=1.0, weight=0.25, tau0=0.7)
        mixed.answer("r!", slots((5, 4, 3)), jax.random.key(1))
    assert dict(programs.TRACES) == traced


def test_not_a_number_in_a_demonstration_is_an_absent_row_and_leaves_nothing_behind(model):
    # A token of its own, whose embedding is NaN: the output head is another matrix.
    encoded = demos.encode(RECORDS, model.tokenizer, FORMAT, max_tokens=12)
    token = model.tokenizer.encode("a", add_special_tokens=False)[0]
    embed = model.params.embed.at[token].set(jnp.nan)
    broken = dataclasses.replace(model, params=model.params.replace(embed=embed))
    tokens = np.array(encoded.tokens)
    tokens[1:][tokens[1:] == token] += 1  # only demonstration 0 keeps it
    encoded = dataclasses.replace(encoded, tokens=tokens)
    mixed = decoder(broken, encoded)
    assert np.isnan(last_logits(mixed, (0, 1, 2))[:, 1]).all()
    # In slot 0 the first block has NaN, the next one another demonstration.
    found = mixed.answer("q?", slots((0, 1, -1), (2, 3, -1), (4, -1, -1)), KEY)
    absent = mixed.answer("q?", slots((-1, 1, -1), (2, 3, -1), (4, -1, -1)), KEY)
    assert found == absent
    assert np.isfinite(last_logits(mixed, (3, 1, 2))).all()


def test_not_a_number_in_the_zero_shot_row_is_an_error_of_the_model(model, encoded):
    params = model.params.replace(embed=jnp.full_like(model.params.embed, jnp.nan))
    broken = decoder(dataclasses.replace(model, params=params), encoded)
    with pytest.raises(ModelOutputError, match="nothing can be drawn"):
        broken.answer("q?", DRAWS, KEY)


def test_an_answer_ends_at_a_stop_token_or_string_and_with_the_models_end(model, encoded):
    tokens = decoder(model, encoded).answer("q?", DRAWS, KEY).tokens
    # What the fifth token says ends the text; no earlier one says it.
    fifth = model.tokenizer.decode([tokens[4]])
    assert all(fifth not in model.tokenizer.decode([t]) for t in tokens[:4])
    stops = dataclasses.replace(encoded, format=dataclasses.replace(FORMAT, stop=(fifth,)))
    found = decoder(model, stops).answer("q?", DRAWS, KEY)
    assert (found.tokens, found.finish_reason, found.blocks) == (tokens[:5], "stop", 2)
    assert found.text == model.tokenizer.decode(list(tokens[:4]))
    ending = dataclasses.replace(model, generation=GenerationDefaults(eos_ids=(tokens[1],)))
    found = decoder(ending, encoded).answer("q?", DRAWS, KEY)
    assert (found.tokens, found.finish_reason, found.blocks) == (tokens[:2], "eos", 1)
    assert found.text == model.tokenizer.decode(list(tokens[:1]))
    assert end_tokens(ending, ()).sum() == 1


def test_a_query_that_does_not_fit_is_refused(model, encoded):
    mixed = decoder(model, encoded)
    with pytest.raises(ConfigError, match=r"together 1[0-9][0-9], and the model has 128 positions"):
        mixed.answer("q" * 110, DRAWS, KEY)
    with pytest.raises(ConfigError, match="0 tokens"):
        mixed.answer([], DRAWS, KEY)
    with pytest.raises(ConfigError, match=r"outside 0\.\.319"):
        mixed.answer([320], DRAWS, KEY)


def test_lengths_are_rounded_up_by_little_and_never_fall():
    found = [rounded_up(n) for n in range(1, 2000)]
    assert found == sorted(found)
    assert all(n <= r <= max(n + 15, 1.5 * n) for n, r in zip(range(1, 2000), found, strict=True))
    assert len(set(found)) < 25
    assert all(rounded_up(r) == r for r in found)
