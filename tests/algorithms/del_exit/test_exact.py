"""Whatever the exits and the lengths, the text is that of plain decoding; in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ariel_jax.algorithms import del_exit
from ariel_jax.decode import SamplingParams, Upfront, programs, start
from ariel_jax.testing import assert_no_retrace

from .conftest import DRAFTS, EXITS, adversary

PROMPTS = [[1, 2, 3, 4, 5], [7, 8], [9, 1] * 4, [3]]
LIMITS = [17, 9, 14, 2]
LEAN = [SamplingParams(temperature=t, seed=i) for i, t in enumerate((0, 0.9, 0, 1.2))]
FULL = [
    SamplingParams(repetition_penalty=1.3, min_new=9, seed=1),
    SamplingParams(temperature=0.9, top_k=7, top_p=0.9, min_p=0.02, min_new=4, seed=2),
    SamplingParams(temperature=1.2, repetition_penalty=1.2, seed=3),
    SamplingParams(seed=4),
]
EOS = (5,)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def texts(run):
    return [run.new_tokens(row) for row in range(run.state.batch)]


def both(small, seed, sampling, *, choose, verifier="coupled", extra=None, **options):
    """The texts of plain decoding and of ours, and our run."""
    params = small.params(seed, share=(0.1, 0.4, 1.0)[seed % 3])
    options = {"max_new": LIMITS, "eos": EOS, "sampling": sampling} | options
    plain = small.decode(params, PROMPTS, **options)
    strategy = del_exit.SelfSpeculative(small.how, verifier)
    ours = small.decode(params, PROMPTS, strategy, choose, extra=extra, **options)
    return texts(plain), texts(ours), ours


@pytest.mark.parametrize("sampling", [None, LEAN, FULL], ids=["greedy", "mixed", "all settings"])
def test_random_choices_in_many_models_change_no_token(small, sampling):
    """Ends of texts and limits included."""
    accepted = ended = 0
    n_models = 40 if sampling is None else 20
    for seed in range(n_models):
        plain, ours, run = both(small, seed, sampling, choose=adversary(seed))
        assert ours == plain
        accepted += run.report.accepted
        ended += sum(len(t) < n for t, n in zip(ours, LIMITS, strict=True))
    assert accepted > n_models
    assert ended > n_models // 4, "some texts must end early"


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [None, LEAN, FULL], ids=["greedy", "mixed", "all settings"])
def test_random_choices_in_hundreds_of_models_change_no_token(small, sampling):
    for seed in range(100, 300):
        plain, ours, _ = both(small, seed, sampling, choose=adversary(seed))
        assert ours == plain


def test_the_rejection_rule_leaves_greedy_requests_as_they_are(small):
    sampling = [SamplingParams(), LEAN[1], SamplingParams(repetition_penalty=1.3), SamplingParams()]
    accepted = 0
    for seed in range(12):
        choose = adversary(seed)
        plain, ours, run = both(small, seed, sampling, choose=choose, verifier="rejection")
        assert [ours[i] for i in (0, 2, 3)] == [plain[i] for i in (0, 2, 3)]
        accepted += run.report.accepted
    assert accepted > 12


@pytest.mark.parametrize("name", ["del-e", "finite-state", "draft-verify"])
def test_other_controllers_change_no_token(small, name):
    """They differ in their plans alone, and any plan is tested above."""
    how = del_exit.named(name, exits=EXITS, max_draft=DRAFTS)
    small = dataclasses.replace(small, how=how)
    for seed in range(6):
        extra = del_exit.tuning(how, 3, exit=1 + seed % 2, length=seed % 4)
        plain, ours, run = both(small, seed, None, choose=None, extra=extra)
        assert ours == plain
    assert run.report.proposed > 0


def test_costs_and_other_numbers_change_no_token_and_compile_nothing(small):
    params = small.params(4)
    strategy = del_exit.SelfSpeculative(small.how)
    options = {"max_new": LIMITS, "eos": EOS, "strategy": strategy}
    plain = texts(small.decode(params, PROMPTS, max_new=LIMITS, eos=EOS))
    base = del_exit.layer_costs(small.how, 3)
    free = base.replace(verify=base.verify * 0 + 1e-3, plain=jnp.float32(9))
    dear = base.replace(verify=base.verify * 9)
    tunings = [
        del_exit.tuning(small.how, 3),
        del_exit.tuning(small.how, 3, costs=free, omega=0.5, shadow_every=3),
        del_exit.tuning(small.how, 3, costs=dear, idle_every=2),
    ]
    runs = [small.decode(params, PROMPTS, extra=tunings[0], **options)]
    with assert_no_retrace():
        runs += [small.decode(params, PROMPTS, extra=each, **options) for each in tunings[1:]]
    assert [texts(run) for run in runs] == [plain] * 3
    assert runs[1].report.proposed > 0
    assert runs[2].report.proposed == 0, "where drafts are dear nothing is drafted"
    aux = jax.device_get(runs[2].state.aux)
    assert aux.loads.tolist() == (3 * aux.rounds).tolist(), "a round without drafts is a plain step"
    assert aux.rounds.tolist() == [len(text) - 1 for text in plain]


def test_the_cache_holds_what_plain_decoding_would_have_written(small):
    params = small.params(2)
    strategy = del_exit.SelfSpeculative(small.how)
    run = small.decode(params, PROMPTS, strategy, adversary(2), max_new=LIMITS)
    assert run.report.accepted > 0
    whole = [p + run.new_tokens(i) for i, p in enumerate(PROMPTS)]
    fresh = start(small.cfg, params, whole, max_new=1, capacity=Upfront(64))
    ours, theirs = run.state.cache, fresh.state.cache
    for a, b in zip((*ours.k, *ours.v), (*theirs.k, *theirs.v), strict=True):
        for row in range(len(PROMPTS)):
            known = int(run.length[row])
            np.testing.assert_allclose(a[row, :, :known], b[row, :, :known], atol=1e-12)


def test_what_was_done_is_counted(small):
    """Layers loaded, tokens and drafts, against the rounds written down."""
    strategy = del_exit.SelfSpeculative(small.how)
    params = small.params(0, share=0.1)
    run = small.decode(params, PROMPTS, strategy, adversary(3), max_new=30)
    aux = jax.device_get(run.state.aux)
    trace, layers = aux.trace, np.array([*EXITS, 0])
    for row in range(len(PROMPTS)):
        n = int(aux.rounds[row])
        drafted, held, exit = trace.proposed[row], trace.accepted[row], trace.exit[row]
        assert n == int(run.state.stats.steps[row])
        assert (held <= drafted).all()
        assert (exit[n:] == -1).all()
        new = len(run.new_tokens(row))
        assert 1 + n + held.sum() == new
        # The batch drafts as long as one request does; alone it would be drafted * layers.
        assert int(aux.loads[row]) >= (3 * n + (drafted * layers[exit]).sum())
    assert set(trace.exit[trace.proposed > 0]) == {0, 1}
    assert int(trace.proposed.sum()) == run.report.proposed
    assert int(trace.accepted.sum()) == run.report.accepted


def test_a_model_whose_exits_say_nothing_is_decoded_plainly(small):
    params = small.params(5, share=9.0)
    run = small.decode(params, PROMPTS, del_exit.SelfSpeculative(small.how), max_new=30)
    assert texts(run) == texts(small.decode(params, PROMPTS, max_new=30))
    # Chance hits may make it try now and then: at most one round in ten.
    aux = jax.device_get(run.state.aux)
    assert (aux.drafting <= 0.1 * aux.rounds).all()
    # A round without drafts loads every layer once.
    assert (aux.loads <= 3 * aux.rounds + DRAFTS * EXITS[-1] * aux.drafting).all()


def test_one_trace_serves_every_exit_and_length(small):
    cfg = small.cfg.replace(norm_eps=3e-5)  # no other test has compiled for it
    other = dataclasses.replace(small, cfg=cfg)
    before = programs.TRACES["segment"]
    strategy = del_exit.SelfSpeculative(small.how)
    for seed in range(3):
        other.decode(other.params(seed), PROMPTS, strategy, adversary(seed), max_new=20)
    assert programs.TRACES["segment"] == before + 1
