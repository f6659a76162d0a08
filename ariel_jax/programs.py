"""The one program that belongs to no package: the probe for compiler options."""

import jax
import jax.numpy as jnp


def accepts_compiler_options(platform: str, options: dict[str, str | bool]) -> bool:
    """Returns whether the compiler of `platform` takes `options` (an unknown one raises).

    Static: nothing. Traced: one float32 scalar. Donated: nothing.

    Args:
        platform: `"cpu"`, `"gpu"` or `"tpu"`, a platform that is available.
        options: compiler option names and values.
    """
    on = jax.sharding.SingleDeviceSharding(jax.local_devices(backend=platform)[0])
    argument = jax.ShapeDtypeStruct((), jnp.float32, sharding=on)
    lowered = jax.jit(lambda x: x + 1).lower(argument)
    try:
        lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError:
        return False
    return True
