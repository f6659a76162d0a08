"""`ariel-jax train-lm`: train or fine-tune a language model on text files."""

import json
import pathlib
from dataclasses import dataclass
from typing import Literal

import jax

from ariel_jax._checks import positive_int, seed
from ariel_jax.compat import auto_mesh
from ariel_jax.errors import ConfigError
from ariel_jax.layers.rope import RopeConfig
from ariel_jax.models.config import DecoderConfig, Precision
from ariel_jax.models.hf import Tokenizer, load_pretrained
from ariel_jax.models.hf.tokenizer import check_vocabulary
from ariel_jax.models.params import DecoderParams, init_params, n_params
from ariel_jax.models.presets import PRESETS
from ariel_jax.models.quantization import check_not_quantized
from ariel_jax.training.export import export_model
from ariel_jax.training.loop import LoopConfig, train
from ariel_jax.training.optimizer import OptimizerConfig, make_optimizer
from ariel_jax.training.placement import check_rows, start_distributed
from ariel_jax.training.step import LayerSkip, LMGrad
from ariel_jax.training.text import text_file_source

SIZES = ("layers", "width", "heads", "kv_heads", "ff", "positions")


@dataclass(frozen=True, kw_only=True)
class Args:
    """Flags of `ariel-jax train-lm`."""

    data: tuple[pathlib.Path, ...]
    """UTF-8 text files, each one document."""
    out: pathlib.Path
    """Folder of the run: checkpoints, metrics.jsonl, and in the end model/."""
    model: str = "layers=4,width=128,heads=4,ff=384,positions=512"
    """Sizes of a new Llama-shaped model, a preset, or the folder of a model to train on."""
    tokenizer: pathlib.Path | None = None
    """Folder with tokenizer.json; by default that of the model folder."""
    steps: int = 1000
    """Optimiser steps in all."""
    batch: int = 16
    """Sequences per step, over all devices."""
    seq: int = 256
    """Tokens per sequence."""
    microbatches: int = 1
    """Parts in which a device computes its sequences, to save memory."""
    lr: float = 1e-3
    """Peak learning rate."""
    warmup: int = 50
    """Steps of linear warm-up."""
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    """Shape of the learning rate; wsd falls over the last fifth."""
    layerskip: bool = False
    """Train for early exit: layer dropout and one early-exit loss per step."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of activations; weights and optimiser stay in float32."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the saved weights."""
    seed: int = 0
    """Of weights, order of the data and dropout."""
    resume: bool = False
    """Continue the run in the output folder; without it a used folder is refused."""
    checkpoint_s: float = 300.0
    """Seconds between checkpoints."""
    keep: int = 2
    """Checkpoints kept."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    distributed: bool = False
    """Join other processes; Slurm and Kubernetes are recognised, else give the next three."""
    coordinator: str | None = None
    """HOST:PORT of process 0."""
    num_processes: int | None = None
    """How many processes there are."""
    process_id: int | None = None
    """Number of this process, from 0."""


def before_jax(args: Args) -> None:
    """Joins the other processes, where there are any."""
    given = (args.coordinator, args.num_processes, args.process_id)
    if args.distributed or any(value is not None for value in given):
        start_distributed(*given)


def run(args: Args) -> int:
    """Trains and saves; returns 0, or 130 when a signal ended the run after a checkpoint."""
    seed(seed=args.seed)
    cfg, params, tokenizer = _model(args)
    if args.seq > cfg.max_positions:
        raise ConfigError(
            f"--seq {args.seq} exceeds the model's {cfg.max_positions} positions: shorten the "
            "sequences or train a model with more positions."
        )
    n_devices = jax.device_count()
    mesh = auto_mesh((n_devices,), ("data",)) if n_devices > 1 else None
    is_first = jax.process_index() == 0
    # Everything that can be refused is, before the first file is written.
    config = LoopConfig(
        steps=args.steps,
        microbatches=args.microbatches,
        checkpoint_every_s=args.checkpoint_s,
        keep=args.keep,
        log_every=args.log_every,
        seed=args.seed,
    )
    tx = make_optimizer(_optimizer(args))
    layerskip = LayerSkip(curriculum_steps=args.steps) if args.layerskip else None
    grad_fn = LMGrad(cfg=cfg, layerskip=layerskip)
    positive_int(batch=args.batch, seq=args.seq)
    check_rows(args.batch, mesh, args.microbatches)
    source = text_file_source(
        args.data,
        tokenizer,
        args.out / ("tokens" if is_first else f"tokens-{jax.process_index()}"),
        tokens_per_batch=args.batch * args.seq,
        lengths=((0, args.seq),),
        seed=args.seed,
        vocab_size=cfg.vocab_size,
    )
    if is_first:
        print(f"{n_params(params):,} parameters, {args.batch * args.seq:,} tokens per step")
    result = train(
        params,
        grad_fn=grad_fn,
        tx=tx,
        source=source,
        folder=args.out,
        config=config,
        mesh=mesh,
        resume=args.resume,
    )
    if result.interrupted:
        if is_first:
            print(f"stopped after step {result.step}; the same command with --resume continues")
        return 130
    if is_first:
        # Every leaf is whole on each device: the parameters are copies, not parts.
        local = jax.tree.map(lambda leaf: leaf.addressable_data(0), result.params)
        export_model(cfg, local, tokenizer, args.out / "model", dtype=args.dtype)
        print(json.dumps({"model": str(args.out / "model"), "steps": result.step}))
    return 0


def _optimizer(args: Args) -> OptimizerConfig:
    warmup = min(args.warmup, args.steps // 2)
    return OptimizerConfig(
        lr=args.lr,
        steps=args.steps,
        warmup_steps=warmup,
        schedule=args.schedule,
        decay_steps=args.steps // 5 if args.schedule == "wsd" else 0,
    )


def _model(args: Args) -> tuple[DecoderConfig, DecoderParams, Tokenizer]:
    precision = Precision(compute=args.precision)
    is_new = args.model in PRESETS or ("=" in args.model and not pathlib.Path(args.model).is_dir())
    if not is_new:
        model = load_pretrained(args.model, precision=precision)
        check_not_quantized(model.params, f"training on {args.model}")
        tokenizer = model.tokenizer
        if args.tokenizer is not None:
            tokenizer = Tokenizer.from_folder(args.tokenizer)
        if not isinstance(tokenizer, Tokenizer):
            raise ConfigError(f"{args.model} has no tokenizer.json: name one with --tokenizer.")
        check_vocabulary(tokenizer, model.cfg.vocab_size)
        return model.cfg, model.params, tokenizer
    if args.tokenizer is None:
        raise ConfigError("a new model needs --tokenizer FOLDER, with its tokenizer.json.")
    tokenizer = Tokenizer.from_folder(args.tokenizer)
    cfg = PRESETS.get(args.model) or _sizes(args.model, tokenizer.vocab_size)
    check_vocabulary(tokenizer, cfg.vocab_size)
    return cfg, init_params(cfg, key=jax.random.key(args.seed), precision=precision), tokenizer


def _sizes(text: str, vocab_size: int) -> DecoderConfig:
    pairs = [part.partition("=") for part in text.split(",")]
    try:
        given = {name.strip(): int(value) for name, _, value in pairs}
    except ValueError:
        given = {}
    required = {"layers", "width", "heads"}
    if not required <= set(given) <= set(SIZES) or len(given) != len(pairs):
        raise ConfigError(
            f"--model {text!r} is not understood: give a preset ({', '.join(PRESETS)}), a model "
            f"folder, or sizes such as layers=4,width=128,heads=4 (allowed: {', '.join(SIZES)})."
        )
    width, heads = given["width"], given["heads"]
    if heads < 1 or width % heads:
        raise ConfigError(f"width={width} is not a multiple of heads={heads}; choose one that is.")
    return DecoderConfig.create(
        family="llama",
        n_layers=given["layers"],
        d_model=width,
        n_heads=heads,
        n_kv_heads=given.get("kv_heads", heads),
        head_dim=width // heads,
        d_ff=given.get("ff", 3 * width),
        vocab_size=vocab_size,
        max_positions=given.get("positions", 1024),
        rope=RopeConfig(),
    )
