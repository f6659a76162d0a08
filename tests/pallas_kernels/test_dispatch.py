import jax
import jax.numpy as jnp
import pytest

from ariel_jax import backend
from ariel_jax.errors import ConfigError, KernelUnavailableError
from ariel_jax.pallas_kernels import dispatch
from ariel_jax.pallas_kernels.decode_attention import decode_attention
from ariel_jax.pallas_kernels.linear import linear


def _even_only(x):
    return None if x.shape[0] % 2 == 0 else f"needs an even first axis, got {x.shape[0]}"


OP = dispatch.Op(
    "linear",
    (
        dispatch.Implementation(name="device", fun=lambda x: "device", platforms=("gpu", "tpu")),
        dispatch.Implementation(name="even", fun=lambda x: "even", why_not=_even_only),
        dispatch.Implementation(name="reference", fun=lambda x: "reference"),
    ),
)
EVEN, ODD = jax.ShapeDtypeStruct((2,), jnp.float32), jax.ShapeDtypeStruct((3,), jnp.float32)


def test_auto_takes_the_first_that_fits_the_platform_and_the_arguments():
    assert OP.select("auto", EVEN)(None) == "even"
    assert OP.select("auto", ODD)(None) == "reference"
    with backend.target("gpu"):
        assert OP.select("auto", ODD)(None) == "device"


def test_explain_gives_the_choice_and_the_reason_of_every_other():
    assert OP.explain(ODD) == dispatch.Choice(
        op="linear",
        platform="cpu",
        requested="auto",
        chosen="reference",
        reasons={
            "device": "runs on gpu and tpu only",
            "even": "needs an even first axis, got 3",
        },
    )
    assert OP.explain(EVEN).reasons["reference"] == "even comes first"
    assert OP.explain(EVEN, impl="reference").reasons["even"] == "impl='reference' was asked for"


def test_a_named_implementation_that_cannot_run_raises_with_all_reasons():
    with pytest.raises(KernelUnavailableError) as caught:
        OP.select("even", ODD)
    for part in ("impl='even'", "'cpu'", "needs an even first axis, got 3", "impl='auto'"):
        assert part in str(caught.value)
    with pytest.raises(KernelUnavailableError, match="device: runs on gpu and tpu only"):
        OP.select("device", EVEN)


def test_an_unknown_implementation_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="'auto', 'device', 'even', 'reference'"):
        OP.select("fast", EVEN)


def test_override_and_environment_replace_auto_and_yield_to_a_named_one(monkeypatch):
    with dispatch.override(linear="reference"):
        assert OP.select("auto", EVEN)(None) == "reference"
        assert OP.select("even", EVEN)(None) == "even"
        with dispatch.override(decode_attention="reference", linear="even"):
            assert OP.select("auto", EVEN)(None) == "even"
    monkeypatch.setenv("ARIEL_JAX_KERNELS", "reference")
    assert OP.select("auto", EVEN)(None) == "reference"
    monkeypatch.setenv("ARIEL_JAX_KERNELS", "decode_attention=reference, linear=even")
    assert OP.select("auto", EVEN)(None) == "even"
    with dispatch.override(linear="reference"):
        assert OP.select("auto", EVEN)(None) == "reference"


@pytest.mark.parametrize("text", ["matmul=reference", "linear=reference,softmax=auto"])
def test_an_environment_that_names_no_operation_is_refused(monkeypatch, text):
    monkeypatch.setenv("ARIEL_JAX_KERNELS", text)
    with pytest.raises(ConfigError, match="ARIEL_JAX_KERNELS names unknown operations"):
        OP.select("auto", EVEN)


def test_override_of_an_unknown_operation_is_refused():
    with pytest.raises(ConfigError, match="softmax"), dispatch.override(softmax="reference"):
        pass
    with pytest.raises(ConfigError, match="known are"):
        dispatch.op("softmax")


def test_linear_refuses_shapes_that_do_not_fit():
    with pytest.raises(ConfigError, match=r"x \[2, 3\] and w \[3, 4\].*stored \[in, out\]"):
        linear(jnp.ones((2, 3)), jnp.ones((3, 4)))
    with pytest.raises(ConfigError, match=r"bias of shape \[3\].*pass \[4\]"):
        linear(jnp.ones((2, 3)), jnp.ones((4, 3)), jnp.ones(3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": jnp.ones((1, 3, 8, 4))}, "N a multiple of K"),
        ({"v": jnp.ones((1, 2, 8, 4), jnp.bfloat16)}, "one dtype"),
        ({"length": jnp.ones((2,), jnp.int32)}, r"length \[2\]"),
        ({"window": 0}, "window=0"),
        ({"softcap": 0.0}, "softcap=0.0"),
    ],
)
def test_decode_attention_refuses_arguments_that_do_not_fit(change, message):
    arguments = {
        "q": jnp.ones((1, 1, 4, 4)),
        "k": jnp.ones((1, 2, 8, 4)),
        "v": jnp.ones((1, 2, 8, 4)),
        "length": jnp.ones((1,), jnp.int32),
        "scale": 0.5,
        **change,
    }
    q, k, v = (arguments.pop(name) for name in "qkv")
    with pytest.raises(ConfigError, match=message):
        decode_attention(q, k, v, **arguments)
