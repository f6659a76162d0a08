"""The other side of a comparison, run as a process of its own: transformers `generate` on torch.

The only file of this library that imports them, inside the class, in the process that is that
side. Default attention (sdpa), default cache (which grows by a row a token) unless another one is
asked for, eager, greedy, in the dtype of the case.
"""

import time
from typing import Any

from ariel_jax.bench import weights
from ariel_jax.bench.cases import hf_config
from ariel_jax.bench.worker import serve


class _Clock:
    """A streamer that only notes when each step's tokens arrive (the first call is the prompt)."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Any) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


class Theirs:
    """A loaded, warmed-up case. Calling it measures once."""

    def __init__(self, spec: dict[str, Any]) -> None:
        import torch
        import transformers
        from transformers.initialization import no_init_weights

        transformers.logging.set_verbosity_error()
        torch.set_num_threads(spec["threads"])
        self.spec = spec
        hf = hf_config(spec["shape"])
        config = transformers.AutoConfig.for_model(**hf)
        with no_init_weights():
            self.model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        self.model.eval()
        with torch.no_grad():
            for parameter in self.model.parameters():
                if parameter.ndim == 1:
                    parameter.fill_(1.0)
                else:
                    weights.fill(parameter.numpy())
            for name, parameter in self.model.named_parameters():
                if name.endswith("bias"):
                    parameter.fill_(0.0)
        if spec["their_dtype"] == "bf16":
            self.model.to(torch.bfloat16)
        device = {"cpu": "cpu", "gpu": "cuda"}[spec["platform"]]
        self.model.to(device)
        ids = weights.prompt(spec["batch"], spec["n_prompt"], hf["vocab_size"])
        self.ids = torch.tensor(ids, device=device)
        self.mask = torch.ones_like(self.ids)
        self._warm: set[str] = set()
        if spec.get("grows"):
            self._warm_up("dynamic")
        else:
            self({})
            self({})
        self.facts = {
            "n_params": sum(p.numel() for p in self.model.parameters()),
            "version": f"transformers {transformers.__version__}, torch {torch.__version__}",
            "attention": self.model.config._attn_implementation,
        }

    def _options(self, cache: str) -> dict[str, Any]:
        import transformers

        settings: dict[str, Any] = {
            "max_new_tokens": self.spec["n_new"],
            "do_sample": False,
            "eos_token_id": None,
            "pad_token_id": 0,
        }
        if cache != "dynamic":
            settings["cache_implementation"] = "static"
            settings["disable_compile"] = cache == "static"
        if cache == "static, compiled":
            compiling = transformers.CompileConfig(mode="default")
            # By itself it compiles on accelerators only.
            vars(compiling)["_compile_all_devices"] = True
            settings["compile_config"] = compiling
        return {"generation_config": transformers.GenerationConfig(**settings)}

    def _warm_up(self, cache: str) -> None:
        """A few tokens of the very request: its caches are as long, and what is compiled is."""
        import torch
        import transformers

        class Few(transformers.StoppingCriteria):
            def __call__(self, ids: Any, scores: Any, **_: Any) -> Any:
                return torch.full((ids.shape[0],), ids.shape[1] >= few, device=ids.device)

        few = self.spec["n_prompt"] + 8
        self.model.generate(
            self.ids,
            attention_mask=self.mask,
            stopping_criteria=transformers.StoppingCriteriaList([Few()]),
            **self._options(cache),
        )
        self._warm.add(cache)

    def __call__(self, request: dict[str, Any]) -> dict[str, Any]:
        """Seconds from the call to the first tokens, and for the rest; `cache` names another one."""
        cache = request.get("cache", "dynamic")
        if cache != "dynamic" and cache not in self._warm:
            self._warm_up(cache)
        clock, options = _Clock(), self._options(cache)
        called = time.perf_counter()
        self.model.generate(self.ids, attention_mask=self.mask, streamer=clock, **options)
        first, last = clock.times[1], clock.times[-1]
        return {
            "first_s": first - called,
            "rest_s": last - first,
            "n_steps": len(clock.times) - 2,
        }


if __name__ == "__main__":
    serve(Theirs)
