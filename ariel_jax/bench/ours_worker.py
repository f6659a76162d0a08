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
            return jax.device_put(host)

        # On both sides float32 means float32, on accelerators too.
        precision = Precision(matmul="highest")
        shapes = jax.eval_shape(
            lambda: init_params(self.cfg, key=jax.random.key(0), precision=precision)
        )
        self.params = jax.block_until_ready(jax.tree_util.tree_map_with_path(make, shapes))
        self._start = decode.start
        self._policy = self._advised() if spec.get("grows") else None
        length = np.full(spec["batch"], spec["n_prompt"] + spec["n_new"] / 2)
        self.measure()  # compiles
        if not spec.get("grows"):  # a long text has touched all memory by its end
            self.measure()
        self.facts = {
            "bytes_per_step": bytes_per_step(self.cfg, self.params, length),
            "n_params": sum(leaf.size for leaf in jax.tree.leaves(self.params)),
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

    def begin(self, batch: int) -> Any:
        """A run whose prompts have been read."""
        ids = weights.prompt(batch, self.spec["n_prompt"], self.cfg.vocab_size)
        return self._start(
            self.cfg, self.params, ids, max_new=self.spec["n_new"], capacity=self._policy
        )

    def measure(self) -> dict[str, Any]:
        """Seconds from the call to the first tokens and for the rest, all host work included."""
        called = time.perf_counter()
        run = self.begin(self.spec["batch"])
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
        """Answer one request: measure, memory, ceiling or split."""
        arguments = dict(request)
        return getattr(self, arguments.pop("ask"))(**arguments)


if __name__ == "__main__":
    serve(Ours)
