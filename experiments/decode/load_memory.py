"""Peak memory of loading a checkpoint, against the size of its file.

    python -m experiments.decode.load_memory --scale cpu --out results

Scale `cpu` loads a file of 4.9 GB (the shape of Llama-3.2-1B in float32, all zeros, sparse on the
disk) twice and needs 7 GB of free memory; it takes about a minute. `smoke` takes seconds.

Each load runs in its own process. The peak is the kernel's VmHWM: anonymous, file-backed and shared
memory together, the interpreter and its libraries included; the growth is that less what was there
before loading. Every weight is read once after loading, so that pages that are only mapped count.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence

import numpy as np

from ariel_jax import testing
from ariel_jax.errors import BackendError
from ariel_jax.models import presets
from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.hf import config_write, safetensors_io, weight_map
from experiments import runner
from experiments.runner import Case, Figure, Settings

LIMIT = 1.25
_CHILD = """
import json, sys
import jax, numpy as np
from ariel_jax.models.hf import load_pretrained
load_pretrained(sys.argv[2])  # what the first load of a process needs once is not the file's
def memory(field):
    with open("/proc/self/status") as status:
        (line,) = [line for line in status if line.startswith(field + ":")]
    return int(line.split()[1]) * 1024
before = memory("VmRSS")
model = load_pretrained(sys.argv[1])
total = sum(float(np.asarray(leaf).sum(dtype=np.float64)) for leaf in jax.tree.leaves(model.params))
print(json.dumps({"before": before, "peak": memory("VmHWM"), "sum": total}))
"""


def config(settings: Settings) -> DecoderConfig:
    """The decoder of a scale."""
    full = presets.preset("llama-3.2-1b")
    if not settings.is_tiny:
        return full
    return full.replace(n_layers=4, d_model=512, n_heads=8, d_ff=2048, vocab_size=32768)


def cases(settings: Settings) -> Sequence[Case]:
    """Files as this library and as transformers writes them."""
    if settings.scale == "gpu" and not settings.is_tiny:
        raise BackendError("load_memory measures host memory; run it with --scale cpu.")
    dtype = {"stored": "float32", "wanted": "float32"}
    return [
        Case(name="aligned (saved by this library)", config=dtype, expected_s=20.0),
        Case(name="unaligned (saved by transformers)", config=dtype, expected_s=20.0),
    ]


def write_sparse(folder: pathlib.Path, cfg: DecoderConfig, *, is_aligned: bool) -> int:
    """Writes a checkpoint of zeros that takes no room on the disk; returns the bytes of weights."""
    shapes = weight_map.stored_shapes(cfg)
    kind = np.dtype(np.float32)
    header, _ = safetensors_io.layout({name: (shape, kind) for name, shape in shapes.items()})
    if not is_aligned:  # eight more blanks: data begins as in files that other programs write
        header = (len(header)).to_bytes(8, "little") + header[8:] + b" " * 8
    n_bytes = sum(int(np.prod(shape)) for shape in shapes.values()) * kind.itemsize
    with open(folder / "model.safetensors", "wb") as file:
        file.write(header)
        file.truncate(len(header) + n_bytes)
    (folder / "config.json").write_text(json.dumps(config_write.to_hf(cfg, dtype="float32")))
    return n_bytes


def measure(case: Case, settings: Settings) -> Iterator[Figure]:
    """Loads one file in a process of its own."""
    cfg = config(settings)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        testing.write_toy_checkpoint(folder / "toy")
        n_bytes = write_sparse(folder, cfg, is_aligned=case.name.startswith("aligned"))
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, name, str(folder / "toy")],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise BackendError(f"the process that loads {case.name} failed: {done.stderr[-2000:]}")
    found = json.loads(done.stdout)
    growth, peak = (found["peak"] - found["before"]) / n_bytes, found["peak"] / n_bytes
    # In smoke the interpreter and jax alone outweigh the file.
    judged = growth if settings.is_tiny else peak
    metric = "peak growth over file" if settings.is_tiny else "peak over file"
    yield Figure(metric="file", value=n_bytes / 1e6, unit="MB", kind="measured")
    yield Figure(metric="before loading", value=found["before"] / 1e6, unit="MB", kind="measured")
    yield Figure(metric="peak", value=found["peak"] / 1e6, unit="MB", kind="measured")
    yield Figure(
        metric=metric,
        value=judged,
        unit="1",
        kind="measured",
        expected=f"at most {LIMIT:g}",
        verdict="PASS" if judged <= LIMIT else "FAIL",
    )


EXPERIMENT = runner.Experiment(
    name="decode.load_memory",
    title="Peak memory of loading a checkpoint",
    cases=cases,
    measure=measure,
)

if __name__ == "__main__":
    sys.exit(runner.main(EXPERIMENT))
