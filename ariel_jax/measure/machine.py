"""The facts about a machine that a measurement depends on."""

import importlib.metadata
import os
import platform as host
from typing import Any

from ariel_jax import backend

# Instruction sets that decide how fast a matrix product or a copy can be.
RELEVANT_FLAGS = (
    "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile",
    "amx_bf16", "amx_int8", "asimd", "asimddp", "bf16", "i8mm", "sve", "sve2",
)  # fmt: skip


def fingerprint() -> dict[str, Any]:
    """Returns the facts that make two measurements comparable, ready for JSON.

    Returns:
        cpu (model name), cpu_flags (the relevant ones), n_threads (processors that this process
        may use), memory_bytes, jax, jaxlib, python, platform, device_kind, n_devices, driver.
    """
    device = backend.facts()
    processor = backend.processor()
    return {
        "cpu": processor["model"],
        "cpu_flags": [flag for flag in RELEVANT_FLAGS if flag in processor["flags"]],
        "n_threads": n_threads(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "jax": importlib.metadata.version("jax"),
        "jaxlib": importlib.metadata.version("jaxlib"),
        "python": host.python_version(),
        "platform": device["platform"],
        "device_kind": device["device_kind"],
        "n_devices": device["n_devices"],
        "driver": device["driver"],
    }


def n_threads() -> int:
    """Returns how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
