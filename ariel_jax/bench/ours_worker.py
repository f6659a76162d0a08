"""This library's side of a comparison: `python -m ariel_jax.bench.ours_worker`."""

import os
import tempfile
import time
from typing import Any

from ariel_jax.bench import weights
from ariel_jax.bench.cases import decoder_config
from ariel_jax.bench.worker import serve


class Ours:
    """A loaded, warmed-up case. Calling it answers one request."""

    def __init__(self, spec: dict[str, Any]) -> None:
        import jax
        import numpy as np

        from ariel_jax import backend, decode
        from ariel_jax.decode.traffic import bytes_per_step
        from ariel_jax.models.config import Precision
        from ariel_jax.models.params import init_params
        from ariel_jax.models.quantization import quantize
        from ariel_jax.pallas_kernels import tune

        backend.use(spec["platform"])
        backend.enable_compile_cache()
        self.spec = spec
        self.cfg = decoder_config(spec["shape"])

        def make(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
            host = np.empty(leaf.shape, np.float32)
            if leaf.ndim == 1:
                host[:] = path[-1].name == "scale"
            else:
                weights.fill(host)
            return jax.device_put(host.astype(leaf.dtype))

        # On both sides float32 means float32, on accelerators too.
        narrow = dict.fromkeys(("param", "compute", "cache"), "bfloat16")
        precision = Precision(matmul="highest", **narrow if spec["dtype"] == "bf16" else {})
        shapes = jax.eval_shape(
            lambda: init_params(self.cfg, key=jax.random.key(0), precision=precision)
        )
        self.params = jax.block_until_ready(jax.tree_util.tree_map_with_path(make, shapes))
        if spec["dtype"] == "int8":
            self.params = jax.block_until_ready(quantize(self.params, bits=8))
        self._start = decode.start
        self._policy = self._advised() if spec.get("grows") else None
        length = np.full(spec["batch"], spec["n_prompt"] + spec["n_new"] / 2)
        self.measure()  # compiles
        if not spec.get("grows"):  # a long text has touched all memory by its end
            self.measure()
        self.facts = {
            "bytes_per_step": bytes_per_step(self.cfg, self.params, length),
            "n_params": sum(leaf.size for leaf in jax.tree.leaves(shapes)),
            "kernels": f"{len(tune.records('linear'))} recorded products",
            "version": f"jax {jax.__version__}",
        }

    def _advised(self) -> Any:
        """The capacity policy that a profile measured now advises; the length is not told."""
        from ariel_jax.algorithms import bmc

        most = self.spec["n_prompt"] + self.spec["n_new"]
        rows = bmc.default_capacities(most)
        return bmc.Auto(
            bmc.profile(self.cfg, self.params, batch=self.spec["batch"], capacities=rows)
        )

    def verification(self, rows: int) -> dict[str, Any]:
        """Seconds of a plain step and of one over `rows` rows, drafting included; best of three."""
        from ariel_jax.decode import NGram, Speculative

        found = {}
        for name, strategy in (("one_s", None), ("many_s", Speculative(NGram(k=rows - 1)))):
            self.measure(strategy)  # compiles
            runs = [self.measure(strategy) for _ in range(3)]
            found[name] = min(run["rest_s"] / run["n_steps"] for run in runs)
        return found

    def begin(self, batch: int, strategy: Any = None) -> Any:
        """A run whose prompts have been read."""
        ids = weights.prompt(batch, self.spec["n_prompt"], self.cfg.vocab_size)
        return self._start(
            self.cfg,
            self.params,
            ids,
            max_new=self.spec["n_new"],
            capacity=self._policy,
            strategy=strategy,
        )

    def measure(self, strategy: Any = None) -> dict[str, Any]:
        """Seconds from the call to the first tokens and for the rest, all host work included."""
        called = time.perf_counter()
        run = self.begin(self.spec["batch"], strategy)
        first = time.perf_counter()
        run.advance()
        last = time.perf_counter()
        return {
            "first_s": first - called,
            "rest_s": last - first,
            "n_steps": run.report.decode_steps,
            "compiles": run.report.compiles,
            "growths": run.report.growths,
            "grow_s": run.report.grow_s,
        }

    def split(self) -> dict[str, Any]:
        """Seconds of a step and of its parts, at the middle length of the case."""
        from ariel_jax.bench.programs import split

        return split(
            self.cfg,
            self.params,
            batch=self.spec["batch"],
            length=self.spec["n_prompt"] + self.spec["n_new"] // 2,
        )

    def memory(self, batch: int) -> dict[str, Any]:
        """Bytes of the compiled segment program's temporaries beside those of the cache."""
        import numpy as np

        from ariel_jax.decode import programs

        run = self.begin(batch)
        segment: Any = programs.segment()  # typed as a plain function, it is a jitted one
        lowered = segment.lower(
            run.cfg, run.params, None, run.state, strategy=run.strategy, max_steps=np.int32(1)
        )
        found = lowered.compile().memory_analysis()
        return {"temp_bytes": found.temp_size_in_bytes, "cache_bytes": run.state.cache.nbytes}

    def ceiling(self) -> dict[str, Any]:
        """Read bandwidth of this machine, measured now."""
        from ariel_jax import measure

        with tempfile.TemporaryDirectory() as folder:  # the stored ceilings stay as they are
            store = measure.ProfileStore(os.path.join(folder, "profiles.json"))
            return {"read_bytes_per_s": measure.ceilings(store=store).read_bytes_per_s}

    def __call__(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one request: measure, memory, ceiling, verification or split."""
        arguments = dict(request)
        return getattr(self, arguments.pop("ask"))(**arguments)


if __name__ == "__main__":
    serve(Ours)
