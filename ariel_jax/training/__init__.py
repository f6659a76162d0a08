"""The training loop and the parts every trainer uses."""

from ariel_jax.training.checkpoints import Checkpoints
from ariel_jax.training.data import BatchSource, TokenFileSource, save_tokens
from ariel_jax.training.export import export_model
from ariel_jax.training.loop import LoopConfig, TrainResult, train
from ariel_jax.training.metrics import read_metrics
from ariel_jax.training.optimizer import OptimizerConfig, make_optimizer
from ariel_jax.training.scoring import score_documents
from ariel_jax.training.step import GradFn, LayerSkip, LMBatch, LMGrad, lm_loss
from ariel_jax.training.text import text_file_source

__all__ = [
    "BatchSource",
    "Checkpoints",
    "GradFn",
    "LMBatch",
    "LMGrad",
    "LayerSkip",
    "LoopConfig",
    "OptimizerConfig",
    "TokenFileSource",
    "TrainResult",
    "export_model",
    "lm_loss",
    "make_optimizer",
    "read_metrics",
    "save_tokens",
    "score_documents",
    "text_file_source",
    "train",
]
