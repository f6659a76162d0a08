"""A loaded model: configuration, weights, tokenizer and how it likes to be decoded."""

import dataclasses
import pathlib

from ariel_jax.models.config import DecoderConfig, Precision
from ariel_jax.models.hf.tokenizer import NoTokenizer, Tokenizer
from ariel_jax.models.params import DecoderParams


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationDefaults:
    """What `generation_config.json` recommends; None where it says nothing.

    Attributes:
        eos_ids: ids that end a text.
        bos_id, pad_id: other special ids.
        do_sample: draw instead of taking the likeliest token.
        temperature, top_k, top_p, min_p, repetition_penalty: sampling settings.
        max_new: tokens to generate.
    """

    eos_ids: tuple[int, ...] = ()
    bos_id: int | None = None
    pad_id: int | None = None
    do_sample: bool = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_new: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """What `load_pretrained` returns; lives on the host, its weights on devices.

    Attributes:
        cfg: what the decoder computes.
        params: its weights and their precision.
        tokenizer: text to ids and back, and the chat template.
        generation: recommended settings.
        source: the folder it was loaded from, or None.
        early_exits: layers that the checkpoint notes as exits for drafting (`early_exit` in
            config.json, `assistant_early_exit` in generation_config.json), rising; usually none.
            What the model computes does not depend on them.
    """

    cfg: DecoderConfig
    params: DecoderParams
    tokenizer: Tokenizer | NoTokenizer
    generation: GenerationDefaults = GenerationDefaults()
    source: pathlib.Path | None = None
    early_exits: tuple[int, ...] = ()

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Ids that end a text."""
        return self.generation.eos_ids

    @property
    def precision(self) -> Precision:
        """The dtypes in use."""
        return self.params.precision

    @property
    def chat_template(self) -> str | None:
        """The chat template's source, or None."""
        return self.tokenizer.chat_template if isinstance(self.tokenizer, Tokenizer) else None
