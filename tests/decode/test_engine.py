import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ariel_jax.decode import (
    Arithmetic,
    Run,
    SamplingParams,
    Upfront,
    fork,
    from_padded,
    generate,
    oracle,
    programs,
    rekey,
    rollback,
    start,
)
from ariel_jax.decode.engine import bucket
from ariel_jax.errors import CapacityError, CheckpointError, ConfigError, MemoryLimitError
from ariel_jax.layers.linear import Linear
from ariel_jax.layers.rope import RopeConfig
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.hf.tokenizer import NoTokenizer
from ariel_jax.models.params import init_params
from ariel_jax.testing import tiny_config, tiny_params


class Letters:
    """One character per token, so that expected texts can be read off."""

    def encode(self, text):
        return [ord(c) - 97 for c in text]

    def decode(self, ids):
        return "".join(chr(97 + i) for i in ids)


@dataclasses.dataclass
class Toy:
    cfg: DecoderConfig
    params: object
    tokenizer: Letters
    eos_ids: tuple[int, ...] = (25,)


@pytest.fixture(scope="module")
def toy():
    cfg = DecoderConfig.create(
        family="llama",
        n_layers=1,
        d_model=16,
        n_heads=2,
        n_kv_heads=1,
        head_dim=8,
        d_ff=24,
        vocab_size=26,
        max_positions=64,
        rope=RopeConfig(),
    )
    params = jax.tree.map(lambda x: x * 8, init_params(cfg, key=jax.random.key(3)))
    return Toy(cfg, params, Letters())


@pytest.fixture(scope="module")
def whole(toy):
    return generate(toy, ["abc", "q"], max_new=24, ignore_eos=True)


def test_text_in_text_out(toy, whole):
    first, second = whole.completions
    assert len(first.tokens) == len(second.tokens) == 24
    assert first.finish_reason == "length"
    assert (first.n_prompt, second.n_prompt) == (3, 1)
    assert toy.tokenizer.decode(t for t in first.tokens if t != 25) == first.text
    assert whole.report.new_tokens == 48
    assert whole.report.decode_tokens == 46
    assert whole.report.decode_steps == 23
    assert whole.report.tokens_per_s > 0


def test_streamed_pieces_add_up_to_the_text(toy, whole):
    pieces = {0: "", 1: ""}

    def on_text(request, text):
        assert text
        pieces[request] += text

    out = generate(toy, ["abc", "q"], max_new=24, ignore_eos=True, on_text=on_text, stream_every=5)
    assert [pieces[0], pieces[1]] == out.texts == whole.texts


def test_a_stop_string_ends_a_text_and_rolls_its_row_back(toy, whole):
    text = whole.texts[0]
    stop = text[7:9]
    cut = text.index(stop)
    pieces = []
    out = generate(
        toy,
        ["abc", "q"],
        max_new=24,
        ignore_eos=True,
        stop=[stop],
        stream_every=4,
        on_text=lambda request, new: pieces.append(new) if request == 0 else None,
    )
    first = out.completions[0]
    assert first.finish_reason == "stop"
    assert first.text == text[:cut] == "".join(pieces)
    assert toy.tokenizer.decode(first.tokens).endswith(stop)
    other = whole.texts[1].split(stop)[0]
    assert out.texts[1] == other


def test_eos_ends_a_text_and_is_not_in_it(toy, whole):
    eos = whole.completions[0].tokens[5]
    ending = dataclasses.replace(toy, eos_ids=(eos,))
    out = generate(ending, "abc", max_new=24)
    n = whole.completions[0].tokens.index(eos)
    assert out.completions[0].finish_reason == "eos"
    assert out.completions[0].tokens == whole.completions[0].tokens[: n + 1]
    assert out.texts[0] == toy.tokenizer.decode(whole.completions[0].tokens[:n])


def test_a_segment_is_read_back_once(toy, monkeypatch):
    run = start(toy.cfg, toy.params, [[1, 2, 3], [4]], max_new=30)
    run.advance(2)
    calls = []
    real = jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda tree: calls.append(1) or real(tree))
    run.advance(5)
    run.advance(5)
    assert len(calls) == 2


def test_growth_is_counted_to_the_row(toy, whole):
    out = generate(toy, ["abc", "q"], max_new=24, ignore_eos=True, capacity=Arithmetic(8, 8))
    assert out.texts == whole.texts
    # 3 prompt rows and 8 spare ones, rounded to 16; then 8 more up to the limit of 26 rows.
    assert out.report.growths == 2
    assert out.report.rows_copied == 16 + 24
    assert out.report.capacity == 32
    leaf = 2 * 1 * 32 * 8 * 4
    assert out.report.cache_bytes == 2 * leaf * toy.cfg.n_layers


def test_a_request_seed_gives_the_same_text_in_any_batch(toy):
    hot = SamplingParams(temperature=1.5, seed=4)
    alone = generate(toy, "abc", max_new=16, sampling=hot)
    others = [SamplingParams(temperature=0.7), hot, SamplingParams()]
    mixed = generate(toy, ["zz", "abc", "qrstu"], max_new=16, sampling=others)
    assert mixed.texts[1] == alone.texts[0]
    again = generate(toy, "abc", max_new=16, sampling=dataclasses.replace(hot, seed=5))
    assert again.texts[0] != alone.texts[0]


def test_the_callers_key_survives(toy):
    key = jax.random.key(8)
    generate(toy, "abc", max_new=4, sampling=SamplingParams(temperature=1.0), key=key)
    assert not key.is_deleted()


def test_padded_batches_are_read_from_either_side():
    tokens = np.array([[0, 0, 5, 6], [1, 2, 3, 4], [7, 8, 0, 0]])
    mask = np.array([[0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]])
    assert from_padded(tokens, mask) == [[5, 6], [1, 2, 3, 4], [7, 8]]
    with pytest.raises(ConfigError, match="holes"):
        from_padded(tokens, np.array([[1, 0, 1, 1]] * 3))
    with pytest.raises(ConfigError, match=r"\[B, T\]"):
        from_padded(tokens, mask[:, :2])


@pytest.mark.parametrize(
    ("prompts", "options", "words"),
    [
        ([[]], {}, "prompt 0 is empty"),
        ([], {}, "at least one prompt"),
        ([[1], [2, 99]], {}, "prompt 1 holds token id 99"),
        ([[-1]], {}, "token id -1"),
        ([[1] * 70], {}, "64 positions"),
        ([[1] * 10], {"max_new": 60}, "at most 54 new tokens"),
        ([[1]], {"max_new": 0}, "max_new"),
        ([[1]], {"sampling": [SamplingParams()] * 2}, "2 sampling settings for 1 prompts"),
        ([[1]], {"sampling": SamplingParams(top_p=2.0)}, "top_p"),
        ([[1]], {"top_logprobs": -1}, "top_logprobs"),
    ],
)
def test_bad_requests_are_refused(toy, prompts, options, words):
    with pytest.raises(ConfigError, match=words):
        start(toy.cfg, toy.params, prompts, **({"max_new": 4} | options))


def test_a_policy_that_reserves_too_little_is_refused(toy):
    with pytest.raises(CapacityError, match="Upfront"):
        start(toy.cfg, toy.params, [[1, 2, 3]], max_new=20, capacity=Upfront(8))

    class Stingy:
        def initial(self, prompt_len, rows, limit):
            return prompt_len - 1

    with pytest.raises(CapacityError, match="needs 3"):
        start(toy.cfg, toy.params, [[1, 2, 3]], max_new=20, capacity=Stingy())


def test_not_a_number_is_reported_by_row(toy):
    # Ids 5 and 6 poison what follows them; the head is apart and never draws them.
    bad = jnp.array([5, 6])
    head = Linear(w=toy.params.embed, b=jnp.zeros(26).at[bad].set(-1e4))
    params = toy.params.replace(embed=toy.params.embed.at[bad].set(jnp.nan), unembed=head)
    with pytest.raises(FloatingPointError, match=r"row\(s\) \[1\]"):
        start(toy.cfg, params, [[1, 2], [1, 5]], max_new=8)
    run = start(toy.cfg, params, [[1, 2], [1, 3]], max_new=8)
    tokens = run.state.tokens.at[0, 2].set(6)
    run = Run(toy.cfg, params, run.state.replace(tokens=tokens))
    with pytest.raises(FloatingPointError, match=r"row\(s\) \[0\]"):
        run.advance()
    back = rollback(run.state, [2, 2])
    assert (np.asarray(back.stats.flags) == 0).all()
    again = Run(toy.cfg, params, back)
    again.advance(3)  # nothing of it comes back from behind the known rows


def test_state_operations_refuse_nonsense(toy):
    run = start(toy.cfg, toy.params, [[1, 2], [3]], max_new=8)
    run.advance(2)
    with pytest.raises(ConfigError, match="fork got rows"):
        fork(run.state, [2])
    with pytest.raises(ConfigError, match="fork got rows"):
        fork(run.state, [])
    with pytest.raises(ConfigError, match="rollback got"):
        rollback(run.state, [1, 1])
    with pytest.raises(ConfigError, match="rollback got"):
        rollback(run.state, [2, 40])
    with pytest.raises(ConfigError, match="rekey got"):
        rekey(run.state, jax.random.split(jax.random.key(0), 5))
    with pytest.raises(ConfigError, match="empty string"):
        generate(toy, "abc", stop=[""])
    with pytest.raises(ConfigError, match="stream_every"):
        generate(toy, "abc", stream_every=0)


def test_buckets_are_powers_of_two_from_64():
    assert [bucket(n) for n in (1, 64, 65, 128, 129, 1000)] == [64, 64, 128, 128, 256, 1024]


def test_the_padding_of_a_prompt_stays_within_a_learned_position_table():
    cfg = tiny_config("gpt2", max_positions=100)
    params = tiny_params(cfg)
    prompt = [int(t) for t in np.random.default_rng(3).integers(0, cfg.vocab_size, 70)]
    run = start(cfg, params, [prompt], max_new=3)
    run.advance()
    expected, _, _ = oracle.generate_one(cfg, params, prompt, max_new=3, pad_to=80)
    assert run.new_tokens(0) == expected


def test_a_long_prompt_is_read_in_blocks_to_the_same_tokens():
    cfg = tiny_config("gemma2", max_positions=700)
    params = tiny_params(cfg)
    prompt = [int(t) for t in np.random.default_rng(4).integers(0, cfg.vocab_size, 600)]
    run = start(cfg, params, [prompt, prompt[:300]], max_new=2)
    for row, text in enumerate((prompt, prompt[:300])):
        logits = programs.forward(
            cfg, params, jnp.asarray([text], jnp.int32), jnp.arange(len(text))[None]
        )
        assert run.new_tokens(row) == [int(jnp.argmax(logits[0, -1]))]


def test_new_keys_stay_the_callers(toy):
    run = start(toy.cfg, toy.params, [[1, 2]], max_new=4)
    keys = jax.random.split(jax.random.key(3), 1)
    Run(toy.cfg, toy.params, rekey(run.state, keys)).advance()
    assert not keys.is_deleted()


def test_a_model_without_a_tokenizer_takes_and_gives_ids(toy):
    model = dataclasses.replace(toy, tokenizer=NoTokenizer("FOLDER"))
    out = generate(model, [[1, 2, 3]], max_new=5, ignore_eos=True)
    assert len(out.completions[0].tokens) == 5
    assert out.texts == [""]
    with pytest.raises(CheckpointError, match="token ids only"):
        generate(model, [[1, 2, 3]], max_new=5, stop=["a"])


def test_a_cache_that_the_device_cannot_hold_is_refused_with_its_bytes(toy):
    with pytest.raises(CapacityError, match=r"1000000000000 rows .* bytes"):
        start(toy.cfg, toy.params, [[1]], max_new=2, capacity=Upfront(10**12))


def test_more_log_probabilities_than_tokens_are_refused(toy):
    with pytest.raises(ConfigError, match="top_logprobs"):
        start(toy.cfg, toy.params, [[1]], max_new=2, top_logprobs=toy.cfg.vocab_size + 1)


def test_a_memory_limit_is_kept_at_the_start_and_at_every_growth(toy):
    cfg = toy.cfg
    row = 2 * 2 * cfg.n_layers * cfg.n_kv_heads * cfg.head_dim * 4  # of two requests
    leaf = 16 * row // (2 * cfg.n_layers)
    prompts, options = [[1, 2], [3]], {"max_new": 40, "capacity": Arithmetic(8, 8)}
    with pytest.raises(MemoryLimitError, match=rf"{16 * row:,} bytes.* at most 15 rows"):
        start(cfg, toy.params, prompts, **options, mem_limit=16 * row - 1)
    enough = start(cfg, toy.params, prompts, **options, mem_limit=24 * row + leaf)
    fits = (24 * row + leaf - 24 * row // (2 * cfg.n_layers)) // row
    with pytest.raises(MemoryLimitError, match=rf"32 rows .* at most {fits} rows"):
        enough.advance()
    assert enough.state.cache.capacity == 24
    plain = start(cfg, toy.params, prompts, **options)
    plain.advance()
    kept = len(enough.new_tokens(0))
    assert kept > 8
    assert enough.new_tokens(0) == plain.new_tokens(0)[:kept]


def test_a_cache_that_is_full_of_requests_that_are_done_is_left_as_it_is(toy):
    run = start(toy.cfg, toy.params, [[1]], max_new=63, capacity=Upfront(granularity=1))
    run.advance()
    assert run.done.all()
    assert run.length[0] == run.state.cache.capacity
    assert not run.shrink()
    assert len(run.new_tokens(0)) == 63


def test_weights_may_be_numpy_arrays(toy):
    params = jax.tree.map(np.asarray, toy.params)
    run = start(toy.cfg, params, [[1, 2, 3]], max_new=20)
    run.advance()
    plain = start(toy.cfg, toy.params, [[1, 2, 3]], max_new=20)
    plain.advance()
    assert run.new_tokens(0) == plain.new_tokens(0)


def test_a_stop_string_in_one_row_compiles_nothing(toy, whole):
    stop = whole.texts[0][7:9]
    options = {"max_new": 24, "ignore_eos": True, "stream_every": 4}
    generate(toy, ["abc", "q"], **options)
    out = generate(toy, ["abc", "q"], stop=[stop], **options)
    assert out.completions[0].finish_reason == "stop"
    assert out.report.compile_s == 0
    n_tokens = sum(len(c.tokens) for c in out.completions)
    assert out.report.new_tokens == n_tokens


def test_a_growth_holds_one_leaf_twice_and_no_more(toy, monkeypatch):
    run = start(toy.cfg, toy.params, [[1, 2, 3]], max_new=60, capacity=Arithmetic(16, 16))
    n_leaves = 2 * toy.cfg.n_layers
    old = run.state.cache
    alive = []
    real = programs._grow_leaf()

    def watched(leaf, *, capacity):
        new = real(leaf, capacity=capacity)
        alive.append(sum(not x.is_deleted() for x in (*old.k, *old.v)) + len(alive) + 1)
        return new

    monkeypatch.setattr(programs, "_grow_leaf", lambda: watched)
    grown = programs.grow(old, 48)
    assert alive == [n_leaves + 1] * n_leaves
    assert grown.capacity == 48


def test_a_cache_shrinks_to_what_its_rows_fill_and_nothing_is_lost(toy):
    prompts = [[1, 2, 3], [4]]

    def make():
        return start(toy.cfg, toy.params, prompts, max_new=60, capacity=Arithmetic(64, 8))

    run, plain = make(), make()
    plain.advance()
    run.advance(5)
    assert run.state.cache.capacity == 64
    run.policy = Arithmetic(8, 8)
    assert run.shrink()
    assert run.state.cache.capacity == 16
    assert not run.shrink()
    run.advance()
    assert [run.new_tokens(r) for r in (0, 1)] == [plain.new_tokens(r) for r in (0, 1)]
