"""The native CPU kernels beyond the contract: bits, rows, dtypes, programs, threads, stale builds."""

import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ariel_jax import backend
from ariel_jax.decode import Arithmetic, NGram, Speculative, start
from ariel_jax.errors import KernelUnavailableError
from ariel_jax.pallas_kernels import dispatch, native
from ariel_jax.pallas_kernels.decode_attention import decode_attention
from ariel_jax.pallas_kernels.decode_attention.specs import SPECS
from ariel_jax.pallas_kernels.linear import dequantize, linear, pack_int4
from ariel_jax.pallas_kernels.native import compiling
from ariel_jax.pallas_kernels.vocab_top1 import vocab_top1
from ariel_jax.testing import tiny_config, tiny_params


@pytest.fixture(autouse=True)
def built(native_kernels):
    """All tests here need the library."""


def draw(shape, dtype="float32", seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


@pytest.mark.parametrize("n_in", [1, 7, 16, 37, 160])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_number_of_rows_equals_the_reference(n_in, dtype):
    w, b = draw((53, n_in), dtype, 1), draw((53,), dtype, 2)
    for rows in (1, 2, 3, 4, 7, 8, 9, 16, 31, 32):
        x = draw((rows, n_in), dtype)
        ours = linear(x, w, b, impl="native", out_dtype=jnp.float32)
        wide = np.asarray(x, np.float64) @ np.asarray(w, np.float64).T + np.asarray(b, np.float64)
        np.testing.assert_allclose(ours, wide, atol=2e-5 * np.sqrt(n_in))


def weights_of(kind, n_out, n_in):
    """Random weights and their scales, or None."""
    if kind in ("float32", "bfloat16"):
        return draw((n_out, n_in), kind, seed=1), None
    most, group = {"int8": (127, n_in), "int8, groups": (127, 32), "int4": (7, 64)}[kind]
    rng = np.random.default_rng(1)
    q = jnp.asarray(rng.integers(-most, most + 1, (n_out, n_in)), jnp.int8)
    scale = jnp.asarray(rng.uniform(0.5, 1.5, (n_out, n_in // group)) / most, jnp.float32)
    return (pack_int4(q) if kind == "int4" else q), scale


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("float32", "float32"),
        ("bfloat16", "float32"),
        ("bfloat16", "bfloat16"),
        ("int8", "float32"),
        ("int8, groups", "float32"),
        ("int4", "float32"),
    ],
)
def test_a_row_has_the_same_bits_whatever_rows_are_beside_it(kind, dtype):
    n_in = 192 if kind in ("int8, groups", "int4") else 200
    x, (w, scale) = draw((32, n_in), dtype), weights_of(kind, 70, n_in)
    x = x.at[7].multiply(jnp.asarray(np.inf, dtype)).at[9].multiply(jnp.asarray(1e-33, dtype))

    def product(rows):
        return np.asarray(linear(rows, w, scale=scale, impl="native"), np.float32)

    alone = np.concatenate([product(x[i : i + 1]) for i in range(32)])
    for rows in (2, 3, 5, 8, 13, 32):
        np.testing.assert_array_equal(product(x[:rows]), alone[:rows])
    assert not np.isfinite(alone[7]).any()
    assert np.isfinite(np.delete(alone, 7, axis=0)).all()


@pytest.mark.parametrize(("kind", "n_in"), [("int8", 2500), ("int4", 2560)])
def test_whole_numbers_lose_a_rounding_of_24_bits_of_the_largest_input(kind, n_in):
    x, (w, scale) = draw((3, n_in)), weights_of(kind, 40, n_in)
    x = (
        x.at[0, 5].set(1e4).at[1].multiply(1e-36).at[2].set(jnp.abs(x[2]))
    )  # outlier, tiny, one sign
    ours = np.asarray(linear(x, w, scale=scale, impl="native"), np.float64)
    stood_for = np.asarray(dequantize(w, scale, jnp.float32), np.float64)
    exact = np.asarray(x, np.float64) @ stood_for.T
    largest = np.abs(np.asarray(x, np.float64)).max(axis=1, keepdims=True)
    bound = 2**-23 * largest * np.sqrt((stood_for**2).sum(axis=1)) * 4 + 1e-6 * np.abs(exact)
    assert (np.abs(ours - exact) <= bound + 1e-40).all()


@pytest.mark.parametrize("n_in", [31, 63])
def test_a_lone_last_input_does_not_meet_the_next_row(n_in):
    x, w = jnp.ones((1, n_in), jnp.bfloat16), np.ones((3, n_in), np.float32)
    w[1, 0] = np.inf
    found = linear(x, jnp.asarray(w, jnp.bfloat16), impl="native", out_dtype=jnp.float32)
    np.testing.assert_array_equal(found, [[n_in, np.inf, n_in]])


@pytest.mark.parametrize(
    ("rows", "n_in", "n_out", "dtypes", "reason"),
    [
        (1, 0, 2, ("bfloat16", "bfloat16"), "empty"),
        (1, 4, 0, ("bfloat16", "bfloat16"), "empty"),
        (0, 4, 2, ("bfloat16", "bfloat16"), "empty"),
        (1, 4, 2, ("bfloat16", "float32"), "round w from float32"),
    ],
)
def test_what_it_does_not_take_goes_to_the_reference(rows, n_in, n_out, dtypes, reason):
    x, w = jnp.ones((rows, n_in), dtypes[0]), jnp.ones((n_out, n_in), dtypes[1])
    with pytest.raises(KernelUnavailableError, match=reason):
        linear(x, w, impl="native")
    np.testing.assert_array_equal(linear(x, w).astype(jnp.float32), np.full((rows, n_out), n_in))


def test_numbers_below_the_smallest_normal_one_do_not_depend_on_the_thread():
    x, w = jnp.full((1, 512), 1e-20, jnp.float32), jnp.full((4096, 512), 1e-20, jnp.float32)
    product = jax.jit(functools.partial(linear, impl="native"))
    for _ in range(20):
        assert len(np.unique(np.asarray(product(x, w)).view(np.uint32))) == 1


@pytest.mark.parametrize(
    ("kind", "dtype"), [("float32", "float32"), ("bfloat16", "bfloat16"), ("int8", "float32")]
)
def test_the_likeliest_tokens_have_the_same_bits_whatever_rows_are_beside_them(kind, dtype):
    x, (w, scale) = draw((49, 72), dtype), weights_of(kind, 3000, 72)
    alone = [vocab_top1(x[i : i + 1], w, scale=scale, impl="native") for i in range(49)]
    for rows in (2, 5, 6, 9, 17, 33, 40, 49):
        together = vocab_top1(x[:rows], w, scale=scale, impl="native")
        for one, all_of_them in zip(zip(*alone[:rows], strict=True), together, strict=True):
            np.testing.assert_array_equal(np.concatenate(one), all_of_them)


def test_drafts_that_hold_have_the_log_probabilities_of_plain_decoding_to_the_last_bits():
    cfg = tiny_config("gpt2", max_positions=128, vocab_size=300)
    params, prompts = tiny_params(cfg), [[3, 4, 5] * 6, [7, 8] * 4]
    kept = {}
    for name, strategy in (("plain", None), ("drafts", Speculative(NGram(k=7, shortest=1)))):
        run = start(cfg, params, prompts, max_new=41, strategy=strategy, top_logprobs=0)
        with dispatch.override(linear="native", decode_attention="native"):  # of steps, not prompts
            run.advance()
        kept[name] = [np.asarray(run.state.logprobs.token[i, :41]) for i in range(2)]
        tokens = [run.new_tokens(i) for i in range(2)]
        assert kept.setdefault("tokens", tokens) == tokens
    assert run.report.accepted >= 3
    # Products and attention have the same bits; norms and the sum over the vocabulary are XLA's, which
    # may add in another order where there are more rows.
    for plain, drafted in zip(kept["plain"], kept["drafts"], strict=True):
        np.testing.assert_allclose(drafted, plain, rtol=0, atol=4 * np.finfo(np.float32).eps)


def test_a_bfloat16_cache_is_read_in_float32():
    spec = SPECS["ragged_grouped"]
    q, k, v = spec.arrays(0)
    narrow = [a.astype(jnp.bfloat16) for a in (q, k, v)]
    out, _ = decode_attention(*narrow, **spec.options(), impl="native")
    wide, _ = decode_attention(
        *(a.astype(jnp.float32) for a in narrow), **spec.options(), impl="reference"
    )
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), wide, atol=2**-7)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_query_has_the_same_bits_whatever_queries_are_beside_it(dtype):
    n_rows, length = 8, 300  # rows of three blocks
    q = draw((1, n_rows, 6, 64), dtype)
    k, v = draw((1, 3, 320, 64), dtype, 1), draw((1, 3, 320, 64), dtype, 2)
    positions = jnp.arange(length - n_rows, length, dtype=jnp.int32)[None]

    def call(rows, window):
        options = {"length": jnp.asarray([length], jnp.int32), "scale": 0.125, "window": window}
        options["q_positions"] = positions[:, rows]
        return decode_attention(q[:, rows], k, v, **options, impl="native")

    for window in (None, 140):
        out, lse = call(slice(None), window)
        for t in range(n_rows):
            out_alone, lse_alone = call(slice(t, t + 1), window)
            np.testing.assert_array_equal(out_alone[:, 0], out[:, t])
            np.testing.assert_array_equal(lse_alone[..., 0], lse[..., t])


def test_weights_over_a_bfloat16_cache_are_rounded_as_the_reference_rounds_them():
    q = draw((2, 2, 4, 16), "bfloat16")
    k, v = draw((2, 2, 200, 16), "bfloat16", 1), draw((2, 2, 200, 16), "bfloat16", 2)
    length = jnp.asarray([200, 77], jnp.int32)

    def call(impl, dtype):
        arrays = (a.astype(dtype) for a in (q, k, v))
        out, _ = decode_attention(*arrays, length=length, scale=0.25, impl=impl)
        return np.asarray(out.astype(jnp.bfloat16).astype(jnp.float32))

    rounded = call("reference", jnp.bfloat16)
    # What is left are sums in another order: a result beside the middle of two numbers.
    assert np.mean(call("native", jnp.bfloat16) != rounded) < 0.02
    assert np.mean(call("reference", jnp.float32) != rounded) > 0.1, "rounding makes no difference"


@pytest.mark.parametrize(("rows", "n_in", "n_out"), [(33, 7, 5), (50, 70, 67), (100, 1100, 130)])
def test_many_rows_of_bfloat16_equal_the_reference(rows, n_in, n_out):
    x, w, b = draw((rows, n_in), "bfloat16"), draw((n_out, n_in), "bfloat16", 1), draw((n_out,))
    if not native.has_bf16_matmul():
        with pytest.raises(KernelUnavailableError, match="multiplies no bfloat16"):
            linear(x, w, b, impl="native")
        return
    wide = np.asarray(x, np.float64) @ np.asarray(w, np.float64).T + np.asarray(b, np.float64)
    ours = linear(x, w, b, impl="native", out_dtype=jnp.float32)
    np.testing.assert_allclose(ours, wide, atol=2e-5 * np.sqrt(n_in))
    rounded = linear(x, w, b, impl="native")
    np.testing.assert_array_equal(rounded, ours.astype(jnp.bfloat16))
    if native.describe()["tiles"]:
        alone = [linear(x[i : i + 1], w, b, impl="native", out_dtype=jnp.float32) for i in (0, 32)]
        np.testing.assert_array_equal(np.concatenate(alone), ours[jnp.asarray([0, 32])])


OURS = ("ARIEL_JAX_INSTRUCTIONS", "ARIEL_JAX_THREADS", "OMP_NUM_THREADS")


def in_a_process(*command, **environment):
    outer = {name: value for name, value in os.environ.items() if name not in OURS}
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        check=False,
        env=outer | environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


DESCRIBE = (
    "import json; from ariel_jax.pallas_kernels import native; print(json.dumps(native.describe()))"
)
ON_ONE = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "


@pytest.mark.parametrize("level", ["generic", "avx2", "avx512", "avx512_vnni"])
def test_every_instruction_set_keeps_the_contract_in_programs(level):
    found = json.loads(in_a_process("-c", DESCRIBE, ARIEL_JAX_INSTRUCTIONS=level))
    if native.describe()["instructions"] == "avx512":
        assert found["instructions"] == level.removesuffix("_vnni")
    assert not found["tiles"]
    if level != "avx512_vnni":
        assert not any(found[name] for name in ("bfloat16_products", "whole_products"))
    contract = pathlib.Path(__file__).parents[1] / "contracts" / "test_kernels.py"
    alone = ("-p", "no:xdist", "-p", "no:cacheprovider", "-q", "-k", "native and equals_numpy")
    said = in_a_process("-m", "pytest", *alone, str(contract), ARIEL_JAX_INSTRUCTIONS=level)
    assert "passed" in said


@pytest.mark.parametrize(
    ("script", "environment", "threads"),
    [
        (ON_ONE + DESCRIBE, {}, 1),
        (DESCRIBE, {"OMP_NUM_THREADS": "1"}, 1),
        (DESCRIBE, {"OMP_NUM_THREADS": "1", "ARIEL_JAX_THREADS": "2"}, 2),
    ],
)
def test_threads_are_those_of_the_affinity_and_the_user(script, environment, threads):
    found = json.loads(in_a_process("-c", script, **environment))
    assert found["threads"] == min(threads, len(os.sched_getaffinity(0)))


def test_instructions_that_nobody_knows_are_refused(elsewhere, monkeypatch):
    monkeypatch.setenv("ARIEL_JAX_INSTRUCTIONS", "fast")
    assert "generic, avx2, avx512, avx512_vnni, all" in native.why_not()


def test_under_vmap_and_ahead_of_time():
    x, w = draw((3, 2, 24)), draw((3, 10, 24), seed=1)
    many = jax.vmap(lambda x, w: linear(x, w, impl="native"))(x, w)
    np.testing.assert_allclose(many, jnp.einsum("bri,boi->bro", x, w), atol=1e-5)
    program = jax.jit(lambda x, w: linear(x, w, impl="native")).lower(x[0], w[0]).compile()
    np.testing.assert_array_equal(program(x[0], w[0]), many[0])


@pytest.mark.parametrize("strategy", [None, Speculative(NGram(k=3, shortest=1, branches=2))])
def test_a_whole_decode_gives_the_tokens_of_the_reference(strategy):
    cfg = tiny_config("llama", max_positions=128, window=24, layer_kinds=("local", "global"))
    params, prompts = tiny_params(cfg), [[3, 4] * 9, [7], [5, 6, 7]]
    tokens = {}
    for impl in ("reference", "native"):
        with dispatch.override(linear="auto", decode_attention=impl):
            fresh = cfg.replace(norm_eps=cfg.norm_eps * (1 + (impl == "native") * 1e-4))
            run = start(
                fresh, params, prompts, max_new=40, capacity=Arithmetic(16, 16), strategy=strategy
            )
            run.advance()
            tokens[impl] = [run.new_tokens(i) for i in range(3)]
    assert tokens["native"] == tokens["reference"]


def test_calls_from_several_threads_do_not_disturb_each_other():
    x, w = draw((4, 300)), draw((600, 300), seed=1)
    call = jax.jit(lambda x: linear(x, w, impl="native"))
    want, wrong = np.asarray(call(x)), []

    def work():
        for _ in range(50):
            if not np.array_equal(np.asarray(call(x)), want):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


IDLE = """
import time
import jax.numpy as jnp
from ariel_jax.pallas_kernels.linear import dequantize, linear, pack_int4
x, w = jnp.ones((4, 512)), jnp.ones((2048, 512))
for _ in range(20):
    linear(x, w, impl="native").block_until_ready()
begin = time.process_time()
time.sleep(2)
print(time.process_time() - begin)
"""


def test_an_idle_process_uses_no_processor():
    done = subprocess.run([sys.executable, "-c", IDLE], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.02  # 1 % of 2 s


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """An empty cache folder, nothing from the installation, and the loaded library forgotten."""
    monkeypatch.setattr(compiling, "PACKAGED", tmp_path / "packaged")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native._state.cache_clear()
    yield tmp_path
    native._state.cache_clear()


def test_what_was_built_for_something_else_is_not_loaded(elsewhere, native_kernels):
    assert "ariel-jax kernels build" in native.why_not()
    assert not list(elsewhere.iterdir()), "to look for a library made a folder"
    backend.private_directory(native.folder())
    shutil.copytree(native_kernels, native.folder(), dirs_exist_ok=True)
    native._state.cache_clear()
    assert native.why_not() is None
    record = native.folder() / "build.json"
    good = json.loads(record.read_text())
    for changes, words in (
        ({"jaxlib": "0.0.1"}, "another jaxlib"),
        ({"sources": "0" * 64}, "other sources"),
        ({"machine": "sparc"}, "another machine"),
        ({"library": "0" * 64}, "not the one that was built"),
    ):
        record.write_text(json.dumps(good | changes))
        native._state.cache_clear()
        assert words in native.why_not()
    record.write_text(json.dumps(good))
    native.folder().chmod(0o770)
    native._state.cache_clear()
    assert "others can write" in native.why_not()
    native.folder().chmod(0o700)
    record.write_text("{")
    native._state.cache_clear()
    assert "unreadable" in native.why_not()
    with pytest.raises(KernelUnavailableError, match="unreadable"):
        linear(jnp.ones((1, 4)), jnp.ones((2, 4)), impl="native")


def test_what_the_installation_built_is_used_until_the_user_builds(elsewhere, native_kernels):
    shutil.copytree(native_kernels, compiling.PACKAGED)
    assert native.why_not() is None
    assert not list(elsewhere.glob("ariel_jax*")), "to use it made a folder"
    record = compiling.PACKAGED / compiling.RECORD
    record.write_text(json.dumps(json.loads(record.read_text()) | {"jaxlib": "0.0.1"}))
    native._state.cache_clear()
    assert "another jaxlib" in native.why_not()
    backend.private_directory(native.folder())
    shutil.copytree(native_kernels, native.folder(), dirs_exist_ok=True)
    native._state.cache_clear()
    assert native.why_not() is None


def test_building_makes_a_library_that_loads(elsewhere, monkeypatch):
    monkeypatch.setattr(compiling, "FLAGS", ("-O0", *compiling.FLAGS[1:]))  # compiles sooner
    path = native.build()
    assert path.parent == native.folder()
    assert native.why_not() is None
    x, w = draw((3, 40)), draw((20, 40), seed=1)
    np.testing.assert_allclose(
        linear(x, w, impl="native"), linear(x, w, impl="reference"), atol=1e-5
    )


def test_a_compiler_that_does_not_know_newer_instructions_leaves_them_out(elsewhere, monkeypatch):
    run, said = compiling._run, []

    def refusing(command):
        if "-mamx-tile" in command or "-mavx512bf16" in command:
            raise compiling.CannotCompileError("unrecognized command-line option")
        run(command)

    monkeypatch.setattr(compiling, "_run", refusing)
    monkeypatch.setattr(compiling, "FLAGS", ("-O0", *compiling.FLAGS[1:]))  # compiles sooner
    native.build(say=said.append)
    assert sum("is left out" in line for line in said) == 2
    assert native.why_not() is None
    assert not native.describe()["tiles"]
    x, w = draw((3, 40), "bfloat16"), draw((20, 40), "bfloat16", seed=1)
    ours = linear(x, w, impl="native", out_dtype=jnp.float32)
    wanted = linear(x, w, impl="reference", out_dtype=jnp.float32)
    np.testing.assert_allclose(ours, wanted, atol=1e-4)


def test_without_a_compiler_the_reference_runs(elsewhere, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(KernelUnavailableError, match="compiler"):
        native.build()
    assert linear(jnp.ones((1, 4)), jnp.ones((2, 4)))[0, 0] == 4


def test_what_it_cannot_do_is_said():
    with pytest.raises(KernelUnavailableError, match=r"1 to 32 rows .*, not 33"):
        linear(jnp.ones((33, 4)), jnp.ones((2, 4)), impl="native")
    with pytest.raises(KernelUnavailableError, match="float16"):
        linear(jnp.ones((1, 4), jnp.float16), jnp.ones((2, 4), jnp.float16), impl="native")
