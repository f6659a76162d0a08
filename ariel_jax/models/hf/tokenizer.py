"""Text to tokens and back: a thin wrapper over the `tokenizers` package, with chat templates."""

import dataclasses
import datetime
import functools
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tokenizers

from ariel_jax.errors import CheckpointError, ConfigError
from ariel_jax.models.hf.safetensors_io import read_json

MAX_PADDING_ROWS = 1024  # embedding rows beyond the tokenizer that count as padding
MAX_CHAT_CHARACTERS = 4 << 20
_MAX_TEMPLATE_NUMBER = 1 << 20


def _token_text(value: Any) -> str | None:
    """A special token as `tokenizer_config.json` writes it: a string or an object with `content`."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else None


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """A `tokenizer.json` with the special tokens and chat template of `tokenizer_config.json`.

    Attributes:
        backend: the `tokenizers.Tokenizer`.
        settings: content of `tokenizer_config.json`, `chat_template` included whatever file it
            came from.
        source: the folder it was read from, for messages.
    """

    backend: tokenizers.Tokenizer
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    source: str = "tokenizer"

    @classmethod
    def from_folder(cls, folder: str | pathlib.Path) -> "Tokenizer":
        """The tokenizer of a model folder.

        Raises:
            CheckpointError: a file is damaged or not understood.
        """
        folder = pathlib.Path(folder)
        path = folder / "tokenizer.json"
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except BaseException as error:  # plain Exception, or a panic of its Rust code
            _reraise_interrupt(error)
            raise CheckpointError(
                f"{path} cannot be read: {error}. Save it again with the fast tokenizer of "
                "transformers (AutoTokenizer.from_pretrained(...).save_pretrained(...))."
            ) from error
        # Lengths are checked against the context by the caller, who can say what to do.
        backend.no_truncation()
        backend.no_padding()
        config, template = folder / "tokenizer_config.json", folder / "chat_template.jinja"
        settings = read_json(config) if config.is_file() else {}
        if template.is_file():
            try:
                settings["chat_template"] = template.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise CheckpointError(
                    f"{template} cannot be read as UTF-8 text: {error}. Download it again, or "
                    "remove it and use plain prompts."
                ) from error
        return cls(backend, settings, str(folder))

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def special(self, name: str) -> str | None:
        """Text of a special token such as `bos_token`, or None."""
        return _token_text(self.settings.get(name))

    def id_of(self, token: str) -> int | None:
        """Id of a token's text, or None if there is no such token."""
        return self.backend.token_to_id(token)

    @property
    def eos_id(self) -> int | None:
        """Id of the end-of-sequence token that `tokenizer_config.json` names, or None."""
        text = self.special("eos_token")
        return None if text is None else self.id_of(text)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text.

        Args:
            text: any text.
            add_special_tokens: put before and after what the tokenizer file says (a
                beginning-of-sequence token in Llama). Off for a rendered chat, which has them.

        Raises:
            ConfigError: `text` is no string, or no valid Unicode.
        """
        ids = self._encoding(text, None, add_special_tokens).ids
        if add_special_tokens and self.settings.get("add_bos_token") is True:
            bos = self.special("bos_token")
            first = None if bos is None else self.id_of(bos)
            if first is not None and ids[:1] != [first]:
                return [first, *ids]
        return ids

    def encode_pair(self, first: str, second: str) -> tuple[list[int], list[int]]:
        """Token ids of two texts, joined as the tokenizer file says, and the type of every token.

        Args:
            first: any text.
            second: any text.

        Returns:
            (ids, token types) of one length: the types are 0 and 1 for BERT, 0 for RoBERTa.

        Raises:
            ConfigError: one is no string, or no valid Unicode.
        """
        encoding = self._encoding(first, second, True)
        return encoding.ids, encoding.type_ids

    def _encoding(
        self, first: str, second: str | None, add_special_tokens: bool
    ) -> tokenizers.Encoding:
        """Of one text or two."""
        texts = [first] if second is None else [first, second]
        for text in texts:
            if not isinstance(text, str):
                raise ConfigError(f"encode got {type(text).__name__}; pass a string.")
        try:
            return self.backend.encode(first, second, add_special_tokens=add_special_tokens)
        except (TypeError, UnicodeEncodeError) as error:  # half of a surrogate pair
            raise ConfigError(
                f"the text {_start(texts)} is not valid Unicode and has no UTF-8 form: remove the "
                "characters that came from undecodable bytes."
            ) from error
        except BaseException as error:  # plain Exception, or a panic of its Rust code
            _reraise_interrupt(error)
            raise CheckpointError(
                f"the tokenizer of {self.source} fails on {_start(texts)}: {error}. Its file is "
                "damaged or incomplete; download it again."
            ) from error

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of token ids; bytes that are no UTF-8 become U+FFFD."""
        return self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    @property
    def chat_template(self) -> str | None:
        """The default chat template, or None."""
        template = self.settings.get("chat_template")
        if isinstance(template, list):  # several templates, by name
            named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
            template = named.get("default")
        return template if isinstance(template, str) else None

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The text that the model was trained to see for a conversation.

        Args:
            messages: `{"role": ..., "content": ...}` in order.
            add_generation_prompt: end with the mark after which the model answers.
            **variables: further variables of the template.

        Returns:
            A text to encode with `add_special_tokens=False`.

        Guarantees:
            The template runs in jinja2's immutable sandbox: it reaches no file, private attribute
            or function beyond its variables, and renders at most 4 Mi characters. It can still
            waste time and memory; render templates of unknown origin under a limit of your own.

        Raises:
            ConfigError: there is no template, or it refuses the messages.
            CheckpointError: the template itself is broken or not allowed.
        """
        template = self.chat_template
        if template is None:
            raise ConfigError(
                f"{self.source} has no chat template; pass a plain text prompt, or a folder whose "
                "tokenizer_config.json has a chat_template."
            )
        specials = {
            name: text
            for name in ("bos_token", "eos_token", "pad_token", "unk_token")
            if (text := self.special(name)) is not None
        }
        values = {
            "tools": None,  # given like this by transformers; templates ask whether they are none
            "documents": None,
            **specials,
            "messages": [dict(m) for m in messages],
            "add_generation_prompt": add_generation_prompt,
            **variables,
        }
        return _render(template, values, self.source)

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> list[int]:
        """Token ids of a rendered conversation, see `render_chat`."""
        return self.encode(self.render_chat(messages, **variables), add_special_tokens=False)


@dataclasses.dataclass(frozen=True)
class NoTokenizer:
    """Stands where a folder has no `tokenizer.json`: token ids work, text is refused."""

    source: str

    def _error(self) -> CheckpointError:
        return CheckpointError(
            f"{self.source} has no tokenizer.json, so it takes and gives token ids only. For text, "
            "add one: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) in "
            "transformers."
        )

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Refuses.

        Raises:
            CheckpointError: always.
        """
        raise self._error()

    def encode_pair(self, first: str, second: str) -> tuple[list[int], list[int]]:
        """Refuses.

        Raises:
            CheckpointError: always.
        """
        raise self._error()

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Refuses.

        Raises:
            CheckpointError: always.
        """
        raise self._error()


def _start(texts: Sequence[str]) -> str:
    return " with ".join(repr(text[:40]) for text in texts)


def _reraise_interrupt(error: BaseException) -> None:
    if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
        raise error


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int) -> None:
    """Raises unless every token has an embedding row and the rest of the rows is padding.

    Raises:
        CheckpointError: tokenizer and config disagree.
    """
    tokens = tokenizer.vocab_size
    if not tokens <= vocab_size <= tokens + MAX_PADDING_ROWS:
        raise CheckpointError(
            f"{tokenizer.source}: tokenizer.json has {tokens} tokens, config.json says "
            f"vocab_size={vocab_size}; it must be at least that many, and at most "
            f"{MAX_PADDING_ROWS} more (padding). They are of different models; download both again."
        )


def _render(template: str, values: dict[str, Any], source: str) -> str:
    import jinja2
    import jinja2.exceptions
    import jinja2.sandbox

    def check_numbers(*values: Any) -> None:
        # 'x' * 10**10 and its relatives fill the memory before the output's length is looked at.
        if any(isinstance(v, int) and abs(v) >= _MAX_TEMPLATE_NUMBER for v in values):
            raise jinja2.exceptions.SecurityError(f"numbers must stay below {_MAX_TEMPLATE_NUMBER}")

    class Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(("*", "**", "%"))

        def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
            # '{:999999999}'.format(...) hides the number in a text.
            is_format = isinstance(obj, str) and attr in ("format", "format_map")
            return not is_format and super().is_safe_attribute(obj, attr, value)

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            check_numbers(left, right)
            if not (isinstance(left, int) and isinstance(right, int)) or (
                operator == "**" and abs(right) > 32
            ):
                raise jinja2.exceptions.SecurityError(f"{operator} needs small whole numbers")
            return super().call_binop(context, operator, left, right)

        def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] the names are ours
            check_numbers(*args, *kwargs.values())
            return super().call(context, obj, *args, **kwargs)

    def guarded(fun: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(fun)  # keeps the marks that tell jinja2 to pass the context
        def checked(*args: Any, **kwargs: Any) -> Any:
            check_numbers(*args, *kwargs.values())
            return fun(*args, **kwargs)

        return checked

    def raise_exception(message: str) -> None:
        raise ConfigError(f"the chat template of {source} refuses these messages: {message}")

    def tojson(value: Any, indent: int | None = None, **_: Any) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    environment = Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters = {
        name: guarded(fun)
        for name, fun in {**environment.filters, "tojson": tojson}.items()
        if name != "format"  # '%0999999999d' hides the number in a text
    }
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    try:
        pieces, length = [], 0
        for piece in environment.from_string(template).generate(**values):
            length += len(piece)
            if length > MAX_CHAT_CHARACTERS:
                raise CheckpointError(
                    f"the chat template of {source} renders more than {MAX_CHAT_CHARACTERS} "
                    "characters; pass fewer or shorter messages."
                )
            pieces.append(piece)
        return "".join(pieces)
    except Exception as error:  # whatever a template does wrong: it is a program
        if isinstance(error, (ConfigError, CheckpointError)):
            raise
        raise CheckpointError(
            f"the chat template of {source} cannot be rendered: {error}. "
            "Check the messages (role and content), or use a plain prompt."
        ) from error
