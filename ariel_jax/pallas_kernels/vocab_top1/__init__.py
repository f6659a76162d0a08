"""The likeliest token and the log-sum-exp of logits that are not kept."""

from ariel_jax.pallas_kernels.vocab_top1.api import vocab_top1

__all__ = ["vocab_top1"]
