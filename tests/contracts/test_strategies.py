"""What every decoding strategy must hold; joining is one row of STRATEGIES."""

import dataclasses
import re
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ariel_jax.algorithms import del_exit
from ariel_jax.decode import (
    Arithmetic,
    Autoregressive,
    DraftModel,
    NGram,
    Run,
    SamplingParams,
    Speculative,
    Upfront,
    adaptive,
    fork,
    oracle,
    programs,
    rekey,
    rollback,
    start,
)
from ariel_jax.models.config import DecoderConfig, Precision
from ariel_jax.models.params import DecoderParams, init_params
from ariel_jax.testing import assert_no_retrace, tiny_config

SMALL = tiny_config("gpt2", n_layers=1, vocab_size=61, max_positions=256)
STRATEGIES = {
    "autoregressive": Autoregressive(),
    "n-gram drafts": Speculative(NGram(k=3, shortest=1)),
    "n-gram trees": Speculative(NGram(k=2, shortest=1, branches=2)),
    # A chain of a draft model runs the same code without `parents`; tests/decode/test_speculative.py.
    "trees of a draft model": Speculative(DraftModel(SMALL, k=2, alternatives=1)),
    "adaptive drafts": adaptive(
        (NGram(k=2, shortest=1), NGram(k=3, shortest=1)), (1.0, 0.9, 0.8), segment_steps=3
    ),
    "drafts of its own layers": del_exit.SelfSpeculative(del_exit.Config(exits=(1,), max_draft=2)),
}
PROMPTS = [[1, 2, 3, 4, 5], [7, 8], [9, 1] * 8, [11]]
SAMPLING = [
    SamplingParams(seed=10),
    SamplingParams(
        temperature=0.9, top_k=20, top_p=0.8, min_p=0.05, repetition_penalty=1.3, min_new=6, seed=11
    ),
    SamplingParams(temperature=1.3, top_p=0.95, seed=12),
    SamplingParams(repetition_penalty=1.3, min_new=9, seed=13),
]
EOS = (12,)
N_NEW = 28
SAFE_MARGIN = 1e-4  # below it float32 may rank two tokens either way


@pytest.fixture(params=STRATEGIES.values(), ids=STRATEGIES.keys())
def strategy(request):
    return request.param


def fitted(strategy, cfg, precision=None):
    """The strategy for a model of another vocabulary, and the arrays that it reads."""
    proposer = getattr(strategy, "proposer", None)
    if not isinstance(proposer, DraftModel):
        return strategy, None
    small = proposer.cfg.replace(vocab_size=cfg.vocab_size, max_positions=cfg.max_positions)
    extra = init_params(small, key=jax.random.key(5), precision=precision)
    proposer = dataclasses.replace(proposer, cfg=small)
    return dataclasses.replace(strategy, proposer=proposer), jax.tree.map(lambda x: x * 6, extra)


@pytest.fixture(scope="session")
def small_weights(tiny):
    return fitted(STRATEGIES["trees of a draft model"], tiny[0])[1]


@pytest.fixture
def extra(strategy, small_weights):
    """What the strategy reads beside the model's weights."""
    return small_weights if "DraftModel" in repr(strategy) else None


@pytest.fixture(scope="session")
def expected(tiny):
    """Tokens, log-probabilities and margins of each request, from the cache-free oracle."""
    cfg, params = tiny
    rows = []
    for prompt, sampling in zip(PROMPTS, SAMPLING, strict=True):
        rows.append(
            oracle.generate_one(
                cfg,
                params,
                prompt,
                max_new=N_NEW,
                sampling=sampling,
                key=jax.random.key(sampling.seed),
                eos=EOS,
            )
        )
    assert min(min(margins) for _, _, margins in rows) > SAFE_MARGIN, "choose other prompts"
    return rows


def run_all(tiny, strategy, extra, *, rows=None, capacity=None, step=None, top_logprobs=None):
    rows = list(range(len(PROMPTS))) if rows is None else rows
    run = start(
        *tiny,
        [PROMPTS[i] for i in rows],
        max_new=N_NEW,
        strategy=strategy,
        extra=extra,
        capacity=capacity,
        sampling=[SAMPLING[i] for i in rows],
        eos=EOS,
        top_logprobs=top_logprobs,
    )
    while run.advance(step or 10_000):
        pass
    return run


def test_tokens_and_logprobs_equal_the_oracle(tiny, strategy, extra, expected):
    run = run_all(tiny, strategy, extra, top_logprobs=3)
    logprobs = jax.device_get(run.state.logprobs)
    for row, (tokens, values, _) in enumerate(expected):
        assert run.new_tokens(row) == tokens
        at = slice(len(PROMPTS[row]), len(PROMPTS[row]) + len(tokens))
        np.testing.assert_allclose(logprobs.token[row, at], values, atol=2e-4)
        top = logprobs.top[row, at]
        assert (np.diff(top, axis=-1) <= 0).all()
        assert (top[:, 0] >= logprobs.token[row, at] - 1e-6).all()
        assert (np.exp(top).sum(-1) <= 1 + 1e-5).all()


# Without those whose programs take longest to compile: they go through the same engine.
QUICK = {n: s for n, s in STRATEGIES.items() if "Model" not in repr(s) and "Self" not in repr(s)}
DRAFTING = {name: s for name, s in STRATEGIES.items() if isinstance(s, Speculative)}


@pytest.mark.parametrize("verifier", ["greedy", "rejection"])
@pytest.mark.parametrize("strategy", DRAFTING.values(), ids=DRAFTING.keys())
def test_other_verifiers_keep_greedy_requests_as_they_are(
    tiny, strategy, extra, expected, verifier
):
    """With repetition penalty and minimum length; the law of requests that sample is tested apart."""
    greedy = [0, 3]
    other = dataclasses.replace(strategy, verifier=verifier)
    run = run_all(tiny, other, extra, rows=greedy)
    for slot, row in enumerate(greedy):
        assert run.new_tokens(slot) == expected[row][0]


@pytest.mark.parametrize(
    ("rows", "capacity", "step"),
    [
        ([0, 1, 2, 3], Arithmetic(16, 16), None),
        ([0, 1, 2, 3], Upfront(), 3),
        ([3, 2, 1, 0], Upfront(), None),
        ([1], Arithmetic(16, 16), 5),
        ([2], Upfront(128), None),
    ],
    ids=["growing", "short segments", "other slots", "alone and growing", "alone, wide"],
)
def test_batch_slot_capacity_and_segments_do_not_change_tokens(
    tiny, strategy, extra, expected, rows, capacity, step
):
    run = run_all(tiny, strategy, extra, rows=rows, capacity=capacity, step=step)
    for slot, row in enumerate(rows):
        assert run.new_tokens(slot) == expected[row][0]


def test_float64_is_exact_at_batch_1_and_8(strategy):
    with jax.enable_x64(True):
        cfg = DecoderConfig.create(
            family="gpt2",
            n_layers=2,
            d_model=16,
            n_heads=2,
            n_kv_heads=2,
            head_dim=8,
            d_ff=24,
            vocab_size=29,
            max_positions=64,
            norm="layer",
            pos="learned",
            act="gelu_tanh",
            gated=False,
        )
        params = init_params(cfg, key=jax.random.key(1), precision=Precision.f64())
        params = jax.tree.map(lambda leaf: leaf * 6, params)
        assert params.embed.dtype == jnp.float64
        prompts = [[i, 2 * i + 1] for i in range(8)]
        sampling = [SamplingParams(temperature=1.0, top_p=0.9, seed=i) for i in range(8)]
        strategy, extra = fitted(strategy, cfg, Precision.f64())
        options = {"max_new": 20, "strategy": strategy, "extra": extra}
        both = start(cfg, params, prompts, sampling=sampling, **options)
        both.advance()
        assert both.state.cache.k[0].dtype == jnp.float64
        alone = start(
            cfg,
            params,
            prompts[5:6],
            sampling=sampling[5:6],
            capacity=Arithmetic(16, 16),
            **options,
        )
        alone.advance()
        assert alone.new_tokens(0) == both.new_tokens(5)


def test_limits_and_end_of_sequence_are_exact(tiny, strategy, extra, expected):
    wanted = [1, 2, 7, N_NEW]
    run = start(
        *tiny, PROMPTS, max_new=wanted, strategy=strategy, extra=extra, sampling=SAMPLING, eos=EOS
    )
    run.advance()
    for row, n in enumerate(wanted):
        assert run.new_tokens(row) == expected[row][0][:n]
        new = run.new_tokens(row)
        assert not set(new[:-1]) & set(EOS)
        assert (new[-1] in EOS) or len(new) == n
    state = jax.device_get(run.state)
    assert state.done.all()
    assert (state.n_known() <= state.limit).all()
    steps, known = state.stats.steps, state.n_known() - state.prompt_length
    # Prefill draws the first token, a step one more than it accepts; the last step of a row may
    # end among its drafts.
    surplus = 1 + steps + state.stats.accepted - known
    assert ((surplus >= 0) & (surplus <= (strategy.rows > 1))).all()


def test_an_early_end_of_sequence_really_occurs(expected):
    assert any(tokens[-1] in EOS and len(tokens) < N_NEW for tokens, _, _ in expected)
    assert any(len(tokens) == N_NEW for tokens, _, _ in expected)


def test_a_second_call_traces_nothing(tiny, strategy, extra):
    run_all(tiny, strategy, extra, capacity=Arithmetic(8, 8))
    before = dict(programs.TRACES)
    other = [dataclasses.replace(s, temperature=s.temperature * 0.5) for s in SAMPLING]
    with assert_no_retrace():
        run = start(
            *tiny,
            [p[::-1] for p in PROMPTS],
            max_new=N_NEW - 3,
            strategy=dataclasses.replace(strategy),
            extra=extra,
            capacity=Arithmetic(8, 8),
            sampling=other,
            eos=EOS,
        )
        run.advance(7)
        run.advance()
    assert dict(programs.TRACES) == before
    assert run.report.compiles == 0
    assert run.report.growths > 0


def test_the_state_is_donated_and_the_cache_stays_where_it_was(tiny, strategy, extra):
    run = start(*tiny, PROMPTS, max_new=N_NEW, strategy=strategy, extra=extra)
    run.advance(2)
    before = [leaf.unsafe_buffer_pointer() for leaf in (*run.state.cache.k, *run.state.cache.v)]
    given = run.state
    run.advance(2)
    after = [leaf.unsafe_buffer_pointer() for leaf in (*run.state.cache.k, *run.state.cache.v)]
    assert before == after
    assert given.cache.k[0].is_deleted()


@pytest.mark.parametrize("batch", [1, 4])
def test_the_segment_program_does_not_copy_the_cache(strategy, batch):
    cfg = DecoderConfig.create(
        family="gpt2",
        n_layers=2,
        d_model=64,
        n_heads=4,
        n_kv_heads=4,
        head_dim=64,
        d_ff=32,
        vocab_size=32,
        max_positions=2048,
        norm="layer",
        pos="learned",
        act="gelu_tanh",
        gated=False,
    )
    params = init_params(cfg, key=jax.random.key(0))
    strategy, extra = fitted(strategy, cfg)
    options = {"strategy": strategy, "extra": extra, "capacity": Upfront(2048)}
    run = start(cfg, params, [[1, 2]] * batch, max_new=8, **options)
    segment = programs.segment()
    compiled = segment.lower(
        cfg, params, extra, run.state, strategy=strategy, max_steps=np.int32(9)
    ).compile()
    memory = compiled.memory_analysis()
    assert memory.temp_size_in_bytes < 0.05 * run.state.cache.nbytes
    assert memory.alias_size_in_bytes >= run.state.cache.nbytes
    leaf = run.state.cache.k[0].shape
    shapes = {str(list(leaf)), str([leaf[0] * leaf[1], *leaf[2:]])}
    shapes = {s.replace(" ", "") for s in shapes}
    copies = re.findall(r"f32(\[[0-9,]+\])\S* copy\(", compiled.as_text())
    assert not shapes & set(copies)


def test_garbage_behind_the_known_rows_is_invisible(tiny, strategy, extra, expected):
    run = start(
        *tiny, PROMPTS, max_new=N_NEW, strategy=strategy, extra=extra, sampling=SAMPLING, eos=EOS
    )
    run.advance(4)
    cache = run.state.cache
    hidden = jnp.arange(cache.capacity)[None, None, :, None] >= cache.length[:, None, None, None]

    def spoil(leaf):
        noise = jax.random.normal(jax.random.key(7), leaf.shape, leaf.dtype) * 100
        return jnp.where(hidden, noise, leaf)

    run.state = run.state.replace(
        cache=cache.replace(k=tuple(map(spoil, cache.k)), v=tuple(map(spoil, cache.v)))
    )
    run.advance()
    for row in range(len(PROMPTS)):
        assert run.new_tokens(row) == expected[row][0]


def test_a_forked_state_goes_on_alike_until_it_gets_another_key(tiny, strategy, extra, expected):
    run = start(
        *tiny, PROMPTS, max_new=N_NEW, strategy=strategy, extra=extra, sampling=SAMPLING, eos=EOS
    )
    run.advance(5)
    branch = fork(run.state, [2, 2])
    other = rekey(branch, jnp.stack([jax.random.key(12), jax.random.key(99)]))
    run = Run(*tiny, other, strategy=strategy, extra=extra)
    run.advance()
    assert run.new_tokens(0) == expected[2][0]
    assert run.new_tokens(1)[:5] == expected[2][0][:5]
    assert run.new_tokens(1) != expected[2][0]


def test_a_rolled_back_state_reproduces_what_it_forgot(tiny, strategy, extra, expected):
    run = start(
        *tiny, PROMPTS, max_new=N_NEW, strategy=strategy, extra=extra, sampling=SAMPLING, eos=EOS
    )
    run.advance()
    keep = [len(p) + 3 for p in PROMPTS]
    run = Run(*tiny, rollback(run.state, keep), strategy=strategy, extra=extra)
    assert run.new_tokens(1) == expected[1][0][:3]
    run.advance()
    for row in range(len(PROMPTS)):
        assert run.new_tokens(row) == expected[row][0]


def test_the_loop_may_be_called_inside_a_users_own_jit(tiny, strategy, extra, expected):
    cfg, params = tiny
    run = start(
        cfg,
        params,
        PROMPTS,
        max_new=N_NEW,
        strategy=strategy,
        extra=extra,
        sampling=SAMPLING,
        eos=EOS,
    )

    @jax.jit
    def mine(params, state):
        state, _ = programs.segment_loop(
            cfg, params, extra, state, strategy=strategy, max_steps=500
        )
        return state.tokens, state.n_known()

    tokens, known = jax.device_get(mine(params, run.state))
    for row, prompt in enumerate(PROMPTS):
        assert tokens[row, len(prompt) : known[row]].tolist() == expected[row][0]


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_prefill_and_segment_lower_for(tiny, strategy, extra, platform):
    cfg, params = tiny
    run = start(cfg, params, PROMPTS, max_new=N_NEW, strategy=strategy, extra=extra)
    traced = programs.segment().trace(
        cfg, params, extra, run.state, strategy=strategy, max_steps=np.int32(9)
    )
    assert "while" in traced.lower(lowering_platforms=(platform,)).as_text()
    tokens, lengths = jnp.zeros((4, 64), jnp.int32), jnp.ones(4, jnp.int32)
    traced = programs.prefill().trace(
        cfg, params, extra, run.state, tokens, lengths, strategy=strategy
    )
    assert "dot_general" in traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("strategy", QUICK.values(), ids=QUICK.keys())
def test_many_request_lengths_compile_only_the_distinct_shapes(
    tiny: tuple[DecoderConfig, DecoderParams], strategy, extra
):
    cfg, params = tiny
    # Nobody else has compiled for it, another strategy's plain steps neither, so counts are exact.
    own = zlib.crc32(repr(strategy).encode()) % 997
    cfg = cfg.replace(norm_eps=2e-5 * (1 + own / 1e4))
    rng = np.random.default_rng(0)
    before = programs.TRACES.copy()
    segments, prefills, first = set(), set(), set()
    for request in range(50):
        n_prompt, n_new = int(rng.integers(1, 150)), int(rng.integers(2, 90))
        run = start(
            cfg,
            params,
            [rng.integers(0, 61, n_prompt).tolist()],
            max_new=n_new,
            strategy=strategy,
            extra=extra,
            capacity=Arithmetic(8, 64),
        )
        n_max = run.state.tokens.shape[1]
        first.add((run.state.cache.capacity, n_max))
        prefills.add(
            (run.state.cache.capacity, n_max, min(n_max, 64 << ((n_prompt - 1) // 64).bit_length()))
        )
        # Eight steps are too few for two growths, so the shapes before and after are all there are.
        for _ in range(1 if request % 3 else 12):
            if not run.done[0] and run.length[0] + strategy.rows <= run.state.cache.capacity:
                segments.add((run.state.cache.capacity, n_max))
            if run.done[0]:
                break
            run.advance(8)
            segments.add((run.state.cache.capacity, n_max))
    assert segments - first, "no request grew into a shape of its own"
    traced = programs.TRACES["segment"] - before["segment"]
    # One program per shape, and per number of rows where a strategy chooses among several (some of
    # which other tests have compiled).
    choices = len(getattr(strategy, "choices", (strategy,)))
    assert traced <= choices * len(segments)
    assert choices > 1 or traced == len(segments)
    assert programs.TRACES["prefill"] - before["prefill"] == len(prefills)
