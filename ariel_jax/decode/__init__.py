"""Decoding: states, strategies, sampling and the one jitted program."""

from ariel_jax.decode.adaptive import Adaptive, adaptive
from ariel_jax.decode.capacity import (
    Arithmetic,
    CapacityPolicy,
    Geometric,
    Iterative,
    Sqrt,
    Upfront,
)
from ariel_jax.decode.draft_model import DraftModel
from ariel_jax.decode.engine import Report, Run, start
from ariel_jax.decode.sampling import SamplingParams, SamplingTransform, Stage, chain
from ariel_jax.decode.speculative import NGram, Speculative
from ariel_jax.decode.state import DecodeState, StepInfo, fork, rekey, rollback, shard_state
from ariel_jax.decode.strategy import Autoregressive, Strategy
from ariel_jax.decode.stream import Completion, Detokenizer, Generation, from_padded, generate

__all__ = [
    "Adaptive",
    "Arithmetic",
    "Autoregressive",
    "CapacityPolicy",
    "Completion",
    "DecodeState",
    "Detokenizer",
    "DraftModel",
    "Generation",
    "Geometric",
    "Iterative",
    "NGram",
    "Report",
    "Run",
    "SamplingParams",
    "SamplingTransform",
    "Speculative",
    "Sqrt",
    "Stage",
    "StepInfo",
    "Strategy",
    "Upfront",
    "adaptive",
    "chain",
    "fork",
    "from_padded",
    "generate",
    "rekey",
    "rollback",
    "shard_state",
    "start",
]
