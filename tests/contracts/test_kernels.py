"""Every implementation of every operation, on the named shapes, against float64 NumPy."""

import importlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ariel_jax.errors import ConfigError
from ariel_jax.pallas_kernels import dispatch
from ariel_jax.pallas_kernels.bitset_judge import api as bitset_api
from ariel_jax.pallas_kernels.bitset_judge import specs as bitset_specs
from ariel_jax.pallas_kernels.decode_attention import api as attention_api
from ariel_jax.pallas_kernels.decode_attention import specs as attention_specs
from ariel_jax.pallas_kernels.linear import api as linear_api
from ariel_jax.pallas_kernels.linear import dequantize
from ariel_jax.pallas_kernels.linear import specs as linear_specs
from ariel_jax.pallas_kernels.vocab_top1 import api as top1_api
from ariel_jax.pallas_kernels.vocab_top1 import chunked
from ariel_jax.pallas_kernels.vocab_top1 import specs as top1_specs
from ariel_jax.pallas_kernels.write_rows import api as write_api
from ariel_jax.pallas_kernels.write_rows import specs as write_specs

# Relative to the largest value of the result; a bfloat16 mantissa has 8 bits.
TOLERANCE = {"float32": 1e-5, "bfloat16": 2**-7}


@pytest.fixture(autouse=True)
def built(native_kernels):
    """One of the implementations is compiled code."""


def linear_oracle(x, w, b):
    y = x @ w.T
    return y if b is None else y + b


def attention_oracle(q, k, v, *, length, scale, softcap, window, q_positions=None, parents=None):
    B, T, N, _ = q.shape
    G = N // k.shape[1]
    out, lse = np.zeros_like(q), np.full((B, N, T), -1e30)
    for b in range(B):
        for n in range(N):
            for t in range(T):
                position = length[b] + t if q_positions is None else q_positions[b, t]
                first = 0 if window is None else max(0, position - window + 1)
                last = min(length[b], position + 1)
                rows = list(range(first, last))
                if parents is not None:
                    rows = [j for j in rows if j < length[b] - T] + lineage(
                        parents, t, length[b] - T
                    )
                    rows = rows[-window:] if window is not None else rows
                keys = k[b, n // G, rows]
                if len(keys) == 0:
                    continue
                s = keys @ q[b, t, n] * scale
                if softcap is not None:
                    s = softcap * np.tanh(s / softcap)
                lse[b, n, t] = np.log(np.sum(np.exp(s)))
                out[b, t, n] = np.exp(s - lse[b, n, t]) @ v[b, n // G, rows]
    return out, lse


def lineage(parents, node, root):
    """Rows of the nodes from the root, which lies in row `root`, to `node`."""
    rows = []
    while node >= 0:
        rows.append(root + node)
        node = parents[node]
    return rows[::-1]


def compiled(fun, *arrays, **options):
    """Calls `fun` as one program: operation by operation each would be compiled by itself."""
    return jax.jit(lambda *a: fun(*a, **options))(*arrays)


def wide(tree):
    return jax.tree.map(lambda a: np.asarray(a).astype(np.float64), tree)


def assert_near(ours, oracle, dtype):
    scale = max(np.max(np.abs(oracle)), 1e-3)
    np.testing.assert_allclose(wide(ours) / scale, oracle / scale, rtol=0, atol=TOLERANCE[dtype])


def is_one_piece(spec):
    return spec.product.n_out <= (spec.piece or chunked.PIECE)


def cases(op, specs):
    small = {name: spec for name, spec in specs.items() if not spec.is_large}
    return [
        pytest.param(implementation.name, spec, id=f"{implementation.name}-{name}")
        for implementation in op.implementations
        for name, spec in small.items()
        if not (implementation.name == "chunked" and is_one_piece(spec))
    ]


def stood_for(w, scale):
    """The weights in float64, whether they are quantised or not."""
    return wide(w) if scale is None else wide(dequantize(w, scale, jnp.float32))


@pytest.mark.parametrize(("impl", "spec"), cases(linear_api.OP, linear_specs.SPECS))
def test_linear_equals_numpy(impl, spec):
    (x, w, b), scale = spec.arrays(0), spec.scales(0)
    y = compiled(linear_api.linear, x, w, b, scale=scale, impl=impl)
    assert y.dtype == x.dtype
    x, b = wide((x, b))
    assert_near(y, linear_oracle(x, stood_for(w, scale), b), spec.dtype)


@pytest.mark.parametrize(("impl", "spec"), cases(linear_api.OP, linear_specs.SPECS))
def test_linear_gradients_equal_numpy(impl, spec):
    (x, w, b), scale = spec.arrays(0), spec.scales(0)
    c = np.random.default_rng(1).standard_normal((*spec.rows, spec.n_out)).astype(x.dtype)

    def loss(x, b, w):
        return jnp.sum(linear_api.linear(x, w, b, scale=scale, impl=impl) * c)

    wanted = (0, 1, 2) if scale is None else (0, 1)  # whole numbers have no gradient
    dx, db, *dw = compiled(jax.grad(loss, argnums=wanted), x, b, w)
    x64, c64 = wide((x, c))
    flat = c64.reshape(-1, spec.n_out)
    assert dx.dtype == x.dtype
    assert_near(dx, c64 @ stood_for(w, scale), spec.dtype)
    for found in dw:
        assert found.dtype == w.dtype
        assert_near(found, flat.T @ x64.reshape(-1, spec.n_in), spec.dtype)
    if b is not None:
        assert_near(db, flat.sum(0), spec.dtype)


@pytest.mark.parametrize("impl", ["native", "reference"])
def test_slopes_go_forward_through_every_operation(impl):
    x, w, _ = linear_specs.SPECS["one_row"].arrays(0)
    spec = attention_specs.SPECS["odd"]
    q, k, v = spec.arrays(0)
    dx, dq = jnp.ones_like(x), jnp.ones_like(q)

    def both(x, q):
        out, _ = attention_api.decode_attention(q, k, v, **spec.options(), impl=impl)
        return linear_api.linear(x, w, impl=impl), out

    _, (dy, d_out) = jax.jit(lambda: jax.jvp(both, (x, q), (dx, dq)))()
    assert_near(dy, linear_oracle(wide(dx), wide(w), None), "float32")
    step, options = 1e-6, {**spec.options(), "length": spec.length}
    ahead, back = (
        attention_oracle(wide(q) + sign * step, wide(k), wide(v), **options)[0] for sign in (1, -1)
    )
    np.testing.assert_allclose(d_out, (ahead - back) / (2 * step), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [i.name for i in linear_api.OP.implementations])
def test_linear_sums_bfloat16_in_float32(name):
    # 4096 ones sum to 256 when every partial sum is rounded to bfloat16.
    x, w = jnp.ones((1, 4096), jnp.bfloat16), jnp.ones((1, 4096), jnp.bfloat16)
    assert linear_api.linear(x, w, impl=name)[0, 0] == 4096
    assert linear_api.linear(x, w, out_dtype=jnp.float32, impl=name).dtype == jnp.float32


@pytest.mark.parametrize("name", [i.name for i in linear_api.OP.implementations])
def test_linear_takes_weights_stored_in_another_dtype(name):
    x, w, _ = linear_specs.SPECS["bfloat16"].arrays(0)
    stored = compiled(linear_api.linear, x.astype(jnp.float32), w, impl=name)
    cast = compiled(linear_api.linear, x.astype(jnp.float32), w.astype(jnp.float32), impl=name)
    assert stored.dtype == jnp.float32
    np.testing.assert_array_equal(stored, cast)


@pytest.mark.parametrize(("impl", "spec"), cases(attention_api.OP, attention_specs.SPECS))
def test_decode_attention_equals_numpy(impl, spec):
    q, k, v = spec.arrays(0)
    out, lse = compiled(attention_api.decode_attention, q, k, v, **spec.options(), impl=impl)
    options = {**spec.options(), "length": spec.length}
    out_oracle, lse_oracle = attention_oracle(*wide((q, k, v)), **options)
    assert out.dtype == q.dtype
    assert lse.dtype == jnp.float32
    assert_near(out, out_oracle, spec.dtype)
    seen = lse_oracle > -1e29
    assert np.all(np.asarray(lse)[~seen] == np.float32(-1e30))
    assert_near(np.asarray(lse)[seen], lse_oracle[seen], spec.dtype)


@pytest.mark.parametrize("impl", [i.name for i in attention_api.OP.implementations])
@pytest.mark.parametrize("window", [None, 2])
def test_a_query_sees_no_row_in_its_future(impl, window):
    spec = attention_specs.SPECS["verification_rows"]
    q, k, v = spec.arrays(0)
    options = {"scale": spec.head_dim**-0.5, "softcap": None, "window": window}
    positions = np.asarray([[0, 1, 2, 3, 4], [9, 3, 12, 13, 20]], np.int32)
    found = compiled(
        attention_api.decode_attention,
        *(q, k, v),
        length=jnp.asarray([5, 13], jnp.int32),
        q_positions=jnp.asarray(positions),
        **options,
        impl=impl,
    )
    oracle = attention_oracle(*wide((q, k, v)), length=(5, 13), q_positions=positions, **options)
    assert_near(found[0], oracle[0], "float32")
    seen = oracle[1] > -1e29
    assert_near(np.asarray(found[1])[seen], oracle[1][seen], "float32")
    # The last query lies 7 rows beyond the cache: with a window of 2 it sees nothing.
    assert np.all(seen) == (window is None)


@pytest.mark.parametrize(("impl", "spec"), cases(attention_api.OP, attention_specs.SPECS))
def test_rows_beyond_length_have_no_influence(impl, spec):
    q, k, v = spec.arrays(0)
    beyond = jnp.arange(spec.capacity)[None, :] >= jnp.asarray(spec.length)[:, None]
    spoil = jnp.where(beyond[:, None, :, None], jnp.asarray(1e4, q.dtype), jnp.asarray(0, q.dtype))
    spoil = jnp.broadcast_to(spoil, k.shape)
    call = jax.jit(lambda *a: attention_api.decode_attention(*a, **spec.options(), impl=impl))
    clean, spoilt = call(q, k, v), call(q, k + spoil, v + spoil)
    jax.tree.map(np.testing.assert_array_equal, spoilt, clean)


@pytest.mark.parametrize("impl", [i.name for i in attention_api.OP.implementations])
def test_what_is_not_a_number_among_visible_keys_reaches_the_result(impl):
    spec = attention_specs.SPECS["verification_rows"]
    q, k, v = spec.arrays(0)
    k = k.at[0, :, 1, 0].set(jnp.nan)  # a row that all queries of the first request see
    out, _ = compiled(attention_api.decode_attention, q, k, v, **spec.options(), impl=impl)
    assert np.isnan(out[0]).any(axis=-1).all()
    assert np.isfinite(out[1]).all()


@pytest.mark.parametrize("impl", [i.name for i in attention_api.OP.implementations])
@pytest.mark.parametrize("name", ["ragged_grouped", "window_softcap"])
def test_decode_attention_gradients_equal_finite_differences(impl, name):
    spec = attention_specs.SPECS[name]
    q, k, v = spec.arrays(0)
    rng = np.random.default_rng(1)
    c = rng.standard_normal(q.shape).astype(np.float32)
    d = rng.standard_normal((spec.batch, spec.n_heads, spec.n_queries)).astype(np.float32)
    options = spec.options()

    def loss(q, k, v):
        out, lse = attention_api.decode_attention(q, k, v, **options, impl=impl)
        # The lse of a row without keys is a constant; a merge gives it weight zero.
        return jnp.sum(out * c) + jnp.sum(jnp.where(lse > -1e29, lse * d, 0))

    def loss64(q, k, v):
        out, lse = attention_oracle(q, k, v, **{**options, "length": spec.length})
        return np.sum(out * c) + np.sum(np.where(lse > -1e29, lse * d, 0))

    grads = wide(compiled(jax.grad(loss, argnums=(0, 1, 2)), q, k, v))
    arrays = wide((q, k, v))
    for _ in range(4):
        direction = tuple(rng.standard_normal(a.shape) for a in arrays)
        step = 1e-6
        ahead, back = (
            loss64(*(a + sign * step * e for a, e in zip(arrays, direction, strict=True)))
            for sign in (1, -1)
        )
        slope = sum(np.sum(g * e) for g, e in zip(grads, direction, strict=True))
        np.testing.assert_allclose(slope, (ahead - back) / (2 * step), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("impl", [i.name for i in attention_api.OP.implementations])
def test_two_halves_merge_to_the_whole_by_their_lse(impl):
    spec = attention_specs.SPECS["verification_rows"]
    q, k, v = spec.arrays(0)
    length = jnp.asarray([9, 20], jnp.int32)

    def call(k, v, length):
        attend = attention_api.decode_attention
        scale = spec.head_dim**-0.5
        return wide(compiled(attend, q, k, v, length=length, scale=scale, impl=impl))

    half = spec.capacity // 2  # the first batch row has nothing in the second half
    parts = [
        call(k[:, :, :half], v[:, :, :half], jnp.minimum(length, half)),
        call(k[:, :, half:], v[:, :, half:], jnp.maximum(length - half, 0)),
    ]
    top = np.maximum(parts[0][1], parts[1][1])
    weights = [np.exp(lse - top).transpose(0, 2, 1)[..., None] for _, lse in parts]
    merged = sum(w * out for w, (out, _) in zip(weights, parts, strict=True)) / sum(weights)
    np.testing.assert_allclose(merged, call(k, v, length)[0], atol=1e-5)


@pytest.mark.parametrize(("impl", "spec"), cases(top1_api.OP, top1_specs.SPECS))
def test_top1_equals_numpy(impl, spec):
    (x, w, b), scale = spec.product.arrays(0), spec.product.scales(0)
    options = {"scale": scale, "softcap": spec.softcap, "piece": spec.piece, "impl": impl}
    found = compiled(top1_api.vocab_top1, x, w, b, **options)
    logits = linear_oracle(wide(x), stood_for(w, scale), None if b is None else wide(b))
    if spec.softcap is not None:
        logits = spec.softcap * np.tanh(logits / spec.softcap)
    index, logit, lse = found
    assert index.dtype == jnp.int32
    assert logit.dtype == lse.dtype == jnp.float32
    top = np.max(logits, axis=-1)
    np.testing.assert_array_equal(index, np.argmax(logits, axis=-1))
    assert_near(logit, top, "float32")
    assert_near(lse, top + np.log(np.sum(np.exp(logits - top[..., None]), axis=-1)), "float32")


@pytest.mark.parametrize("impl", [i.name for i in top1_api.OP.implementations])
def test_top1_takes_the_first_of_equals_and_says_not_a_number(impl):
    n = chunked.PIECE + 30
    w = np.zeros((n, 2), np.float32)
    w[[77, 78, n - 2], 0] = 1
    x = jnp.asarray([[2.0, 0.0], [0.0, 1.0], [np.nan, 0.0]], jnp.float32)
    index, logit, lse = compiled(top1_api.vocab_top1, x, jnp.asarray(w), impl=impl)
    assert list(np.asarray(index)[:2]) == [77, 0]
    np.testing.assert_allclose(logit, [2, 0, np.nan], rtol=1e-6)
    np.testing.assert_allclose(lse, [np.log(n - 3 + 3 * np.e**2), np.log(n), np.nan], rtol=1e-6)


def test_top1_keeps_no_more_logits_than_it_may():
    x, w = jnp.zeros((4, 8), jnp.float32), jnp.zeros((500, 8), jnp.float32)
    options = {"scale": None, "softcap": None}
    assert top1_api.OP.explain(x, w, None, piece=100, **options).chosen == "native"
    half = x.astype(jnp.float16)  # the kernel does not read it
    assert top1_api.OP.explain(half, w, None, piece=100, **options).chosen == "chunked"
    assert top1_api.OP.explain(half, w, None, piece=500, **options).chosen == "reference"
    with pytest.raises(ConfigError, match="piece=0"):
        top1_api.vocab_top1(x, w, piece=0)


@pytest.mark.parametrize("impl", [i.name for i in top1_api.OP.implementations])
def test_top1_takes_tokens_that_are_ruled_out_and_logits_that_are_infinite(impl):
    n = chunked.PIECE + 200
    rng = np.random.default_rng(0)
    w = rng.standard_normal((n, 3)).astype(np.float32)
    b = np.zeros(n, np.float32)
    b[:70] = b[100:300] = b[-150:] = -np.inf  # whole tiles of them
    x = jnp.asarray(rng.standard_normal((2, 3)), jnp.float32)
    found = compiled(top1_api.vocab_top1, x, jnp.asarray(w), jnp.asarray(b), impl=impl)
    logits = wide(x) @ wide(w).T + wide(b)
    np.testing.assert_array_equal(found[0], logits.argmax(-1))
    assert_near(found[2], np.log(np.exp(logits).sum(-1)), "float32")
    b[80] = b[n // 2] = np.inf
    index, logit, lse = compiled(top1_api.vocab_top1, x, jnp.asarray(w), jnp.asarray(b), impl=impl)
    assert list(np.asarray(index)) == [80, 80]
    assert np.isposinf(logit).all()
    assert np.isposinf(lse).all()


@pytest.mark.parametrize("impl", [i.name for i in top1_api.OP.implementations])
def test_top1_has_the_gradient_of_a_softmax(impl):
    n = chunked.PIECE + 4
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 3)), jnp.float32)
    w = jnp.asarray(rng.standard_normal((n, 3)), jnp.float32)

    def surprise(x):
        _, logit, lse = top1_api.vocab_top1(x, w, impl=impl)
        return jnp.sum(lse - logit)

    logits = wide(x) @ wide(w).T
    likely = np.exp(logits - logits.max(-1, keepdims=True))
    likely /= likely.sum(-1, keepdims=True)
    likely[np.arange(2), logits.argmax(-1)] -= 1
    assert_near(compiled(jax.grad(surprise), x), likely @ wide(w), "float32")


def rows_oracle(leaf, new, rows):
    out = np.array(leaf)
    for b, t in np.ndindex(rows.shape):
        if 0 <= rows[b, t] < leaf.shape[2]:
            out[b, :, rows[b, t]] = new[b, t]
    return out


@pytest.mark.parametrize(("impl", "spec"), cases(write_api.OP, write_specs.SPECS))
def test_rows_are_written_and_those_at_the_capacity_dropped(impl, spec):
    leaf, new, rows = spec.arrays(0)
    oracle = rows_oracle(wide(leaf), wide(new.astype(leaf.dtype)), np.asarray(rows))
    before = wide(leaf)
    out = compiled(write_api.write_rows, leaf, new, rows, impl=impl)
    assert out.dtype == leaf.dtype
    np.testing.assert_array_equal(wide(out), oracle)
    np.testing.assert_array_equal(wide(leaf), before, "an argument that is not donated")


@pytest.mark.parametrize("impl", [i.name for i in write_api.OP.implementations])
def test_what_is_written_has_a_gradient_and_what_it_replaces_has_none(impl):
    leaf, new, rows = write_specs.SPECS["dropped"].arrays(0)
    c = np.random.default_rng(1).standard_normal(leaf.shape).astype(leaf.dtype)

    def loss(leaf, new):
        return jnp.sum(write_api.write_rows(leaf, new, rows, impl=impl) * c)

    d_leaf, d_new = compiled(jax.grad(loss, argnums=(0, 1)), leaf, new)
    untouched = rows_oracle(np.ones(leaf.shape), np.zeros(new.shape), np.asarray(rows))
    np.testing.assert_array_equal(wide(d_leaf), wide(c) * untouched)
    expected = np.zeros(new.shape)
    for b, t in np.ndindex(rows.shape):
        if rows[b, t] < leaf.shape[2]:
            expected[b, t] = wide(c)[b, :, rows[b, t]]
    np.testing.assert_array_equal(wide(d_new), expected)


def bitset_oracle(table, rows, approving, denying):
    """Bit by bit: counts and first bits of each request."""
    found = []
    for row in rows:
        known = all(0 <= r < table.shape[1] for r in row)
        covers = [
            known and all(table[k, r, n // 32] >> (n % 32) & 1 for k, r in enumerate(row))
            for n in range(32 * table.shape[2])
        ]
        kinds = [
            [n for n, c in enumerate(covers) if c and mask[n // 32] >> (n % 32) & 1]
            for mask in (approving, denying)
        ]
        found.append([*map(len, kinds), *(bits[0] if bits else -1 for bits in kinds)])
    return np.array(found).T


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("impl", "spec"), cases(bitset_api.OP, bitset_specs.SPECS))
def test_premises_are_counted_bit_by_bit(impl, spec, seed):
    table, rows, approving, denying = spec.arrays(seed)
    found = compiled(bitset_api.bitset_judge, table, rows, approving, denying, impl=impl)
    few = slice(None, 60)
    expected = bitset_oracle(table, rows[few].tolist(), approving, denying)
    np.testing.assert_array_equal([np.asarray(f)[few] for f in found], expected)
    assert (expected[:2].sum(1) > 0).all()
    assert (np.asarray(found[0]) >= 0).all()


def test_any_processor_counts_premises_as_the_widest_registers_do(monkeypatch):
    """A process uses one set of instructions: another one is started for the others."""
    code = (
        "import jax, numpy as np; from ariel_jax.pallas_kernels.bitset_judge import bitset_judge, specs\n"
        "for spec in specs.SPECS.values():\n"
        "    if not spec.is_large:\n"
        "        for seed in (0, 1):\n"
        "            arrays = jax.tree.map(jax.numpy.asarray, spec.arrays(seed))\n"
        "            pairs = zip(bitset_judge(*arrays, impl='native'), bitset_judge(*arrays, impl='reference'))\n"
        "            assert all(np.array_equal(a, b) for a, b in pairs), spec\n"
        "print('same')"
    )
    monkeypatch.setenv("ARIEL_JAX_INSTRUCTIONS", "avx512")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "same\n", done.stderr


def test_every_operation_has_specs_and_ends_with_the_reference():
    for name in dispatch.OP_NAMES:
        op = dispatch.op(name)
        assert op.name == name
        assert op.implementations[-1].name == "reference"
        assert op.implementations[-1].platforms is None
        specs = importlib.import_module(f"ariel_jax.pallas_kernels.{name}.specs").SPECS
        for spec in specs.values():
            arguments, options = spec.abstract()
            assert op.explain(*arguments, **options).chosen is not None
