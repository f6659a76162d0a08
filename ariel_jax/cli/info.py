"""`ariel-jax info`: the machine report."""

import dataclasses
import importlib
import importlib.metadata
import json
import time
from dataclasses import dataclass
from typing import Any

import jax

import ariel_jax
from ariel_jax import backend, measure
from ariel_jax.pallas_kernels import dispatch

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "safetensors")


@dataclass(frozen=True, kw_only=True)
class Args:
    """Flags of `ariel-jax info`."""

    json: bool = False
    """Print one JSON object instead of text."""
    remeasure: bool = False
    """Measure the ceilings again even if there are stored ones."""


def run(args: Args) -> int:
    """Prints the report; returns the exit status."""
    found = report(remeasure=args.remeasure)
    print(json.dumps(found, indent=2) if args.json else _text(found))
    return 0


def report(*, remeasure: bool = False) -> dict[str, Any]:
    """Returns the machine report, ready for JSON.

    Args:
        remeasure: measure the ceilings again even if there are stored ones.

    Returns:
        versions, machine (see `measure.fingerprint`), backend (see `backend.facts`), ceilings,
        compile_cache (a folder or None) and kernels (per operation and named shape the chosen
        implementation and the reasons against the others).
    """
    return {
        "versions": {
            "ariel-jax": ariel_jax.__version__,
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
        "machine": measure.fingerprint(),
        "backend": backend.facts(),
        "ceilings": dataclasses.asdict(measure.ceilings(remeasure=remeasure)),
        "compile_cache": jax.config.jax_compilation_cache_dir,  # pyright: ignore[reportAttributeAccessIssue]  # made at run time
        "kernels": kernels(),
    }


def kernels() -> list[dict[str, Any]]:
    """Returns which implementation each operation takes for each of its named shapes, and why."""
    rows = []
    for name in dispatch.OP_NAMES:
        op = dispatch.op(name)
        specs = importlib.import_module(f"ariel_jax.pallas_kernels.{name}.specs").SPECS
        for case, spec in specs.items():
            arguments, options = spec.abstract()
            choice = op.explain(*arguments, **options)
            rows.append({"case": case, **dataclasses.asdict(choice)})
    return rows


def _text(found: dict[str, Any]) -> str:
    machine, device, top = found["machine"], found["backend"], found["ceilings"]
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(top["measured_at"]))
    lines = [
        "versions   " + "  ".join(f"{name} {v}" for name, v in found["versions"].items()),
        f"           Python {machine['python']}",
        f"host       {machine['cpu']}, {machine['n_threads']} threads, "
        f"{machine['memory_bytes'] / 2**30:.1f} GiB ({' '.join(machine['cpu_flags'])})",
        f"backend    {device['platform']}: {device['n_devices']} x {device['device_kind']} "
        f"(available: {', '.join(device['available'])}; driver: {device['driver']})",
        f"memory     kinds: {', '.join(device['memory_kinds'])}",
        f"ceilings   measured {when} at load {top['load']:.1f}: read {top['read_bytes_per_s'] / 1e9:.1f} GB/s, "
        f"copy {top['copy_bytes_per_s'] / 1e9:.1f} GB/s (read + write),",
        f"           product {top['product_float32_flops_per_s'] / 1e9:.0f} GFLOP/s in float32, "
        f"{top['product_bfloat16_flops_per_s'] / 1e9:.0f} in bfloat16",
        f"compiled   kept in {found['compile_cache'] or 'memory only'}",
        "kernels",
    ]
    for row in found["kernels"]:
        why = "; ".join(f"not {name}: {reason}" for name, reason in row["reasons"].items())
        lines.append(f"  {row['op']:17s} {row['case']:20s} {row['chosen']}  {why}".rstrip())
    return "\n".join(lines)
