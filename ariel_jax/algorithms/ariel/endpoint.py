"""A mapper behind an OpenAI-compatible address. Off unless you make one. Host only.

Privacy: what is mapped leaves this machine. Values (numbers, addresses of mail and of the web) are taken
out first, and only the text of one slot is sent, never the user's judgements.
"""

import dataclasses
import json
import os
import random
import time
import warnings
from collections.abc import Callable
from collections.abc import Mapping as Table
from typing import Any
from urllib.parse import urlsplit

from ariel_jax._checks import non_negative_int, one_of, positive, positive_int
from ariel_jax.algorithms.ariel.gate import VERSION as GATE
from ariel_jax.algorithms.ariel.mapper import LexiconMapper, Mapping, Nodes, gated
from ariel_jax.algorithms.ariel.prompts import NONE, map_prompt, prompts_hash
from ariel_jax.algorithms.ariel.text import clean, redact
from ariel_jax.algorithms.ariel.types import SLOTS
from ariel_jax.errors import (
    ConfigError,
    MapperUnavailableError,
    ModelOutputError,
    missing_extra,
)

MOST_REPAIRS = 2
"""How often an answer that breaks the schema is asked for again."""
_MOST_ANSWER = 65_536
_RETRIED = (429, 500, 502, 503, 504)
_WARNING = (
    "An endpoint maps text: what is mapped leaves this machine for {host}. Values are taken out first; "
    "what the text says otherwise is sent."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where a model answers and how it is asked.

    Attributes:
        base_url: such as `http://127.0.0.1:8000/v1`; `/chat/completions` is added. Plain http only to
            this machine.
        model: its name there.
        key_variable: environment variable with the key; it is read at each call, kept nowhere and
            shown in no message. None: no key is sent.
        timeout_s: for one call.
        retries: of a call that was refused for now (429, 5xx) or not answered; waits grow and vary.
        redact_values: send `[value]` for numbers, addresses of mail and of the web.

    Raises:
        ConfigError: no http(s) address, plain http to another machine, a key inside the address, or a
            number that is not allowed.
    """

    base_url: str
    model: str
    key_variable: str | None = None
    timeout_s: float = 20.0
    retries: int = 1
    redact_values: bool = True

    def __post_init__(self) -> None:
        positive(timeout_s=self.timeout_s)
        non_negative_int(retries=self.retries)
        parts = urlsplit(self.base_url)
        local = parts.hostname in ("127.0.0.1", "::1", "localhost")
        allowed = parts.scheme == "https" or (parts.scheme == "http" and local)
        if not allowed or not parts.hostname or parts.username or parts.password or parts.query:
            raise ConfigError(
                f"base_url with scheme {parts.scheme!r} and host {parts.hostname!r} is not allowed: "
                "pass https://HOST/v1, or http:// to this machine, without a key or query in it; keys "
                "come from key_variable."
            )

    @property
    def host(self) -> str:
        """For messages."""
        return urlsplit(self.base_url).netloc


class EndpointClient:
    """Asks an endpoint for JSON that keeps a schema, and believes nothing that it did not check.

    Args:
        endpoint: whom to ask.
        wait: called with seconds between retries.

    Raises:
        MissingExtraError: httpx is not installed.
    """

    def __init__(self, endpoint: Endpoint, *, wait: Callable[[float], None] = time.sleep) -> None:
        try:
            import httpx
        except ImportError as error:
            raise missing_extra("httpx", "agent", "An endpoint") from error
        self.endpoint = endpoint
        self._wait = wait
        self._httpx = httpx
        self._takes_format = True

    def json(
        self, prompt: str, name: str, schema: Table[str, Any], check: Callable[[Any], str]
    ) -> Any:
        """A checked answer.

        Where the server refuses `response_format` (400) it is left out from then on and the schema
        goes into the prompt.

        Args:
            prompt: what is asked.
            name: of the schema.
            schema: sent along.
            check: what is wrong with a parsed answer, in words; empty for nothing.

        Raises:
            MapperUnavailableError: refused, not allowed, not there, or too busy.
            ModelOutputError: still no valid answer after `MOST_REPAIRS` repairs.
        """
        messages = [{"role": "user", "content": prompt}]
        problem = ""
        for _ in range(1 + MOST_REPAIRS):
            text = self._complete(messages, name, schema)
            try:
                answer = json.loads(text)
                problem = check(answer)
            except ValueError:
                problem = "the answer is no JSON"
            except RecursionError:
                problem = "the answer is nested too deeply"
            else:
                if not problem:
                    return answer
            messages = [
                {"role": "user", "content": prompt},
                {"role": "assistant", "content": text[:2000]},
                {
                    "role": "user",
                    "content": f"Not valid: {problem}. Answer again with JSON that keeps this "
                    f"schema and nothing else: {json.dumps(schema)}",
                },
            ]
        raise ModelOutputError(
            f"{self.endpoint.host} gave no valid answer in {1 + MOST_REPAIRS} tries: {problem}."
        )

    def _complete(self, messages: list[dict[str, str]], name: str, schema: Table[str, Any]) -> str:
        if self._takes_format:
            form = {"name": name, "strict": True, "schema": dict(schema)}
            status, body = self._post(
                messages, {"response_format": {"type": "json_schema", "json_schema": form}}
            )
            if status != 400:
                return self._content(status, body)
            self._takes_format = False
        told = f"\nAnswer with JSON that keeps this schema and nothing else: {json.dumps(schema)}"
        first = {**messages[0], "content": messages[0]["content"] + told}
        return self._content(*self._post([first, *messages[1:]], {}))

    def _post(self, messages: list[dict[str, str]], more: Table[str, Any]) -> tuple[int, bytes]:
        """(status, body) of the last try; the body is cut."""
        endpoint = self.endpoint
        headers = {"content-type": "application/json"}
        if endpoint.key_variable is not None:
            key = os.environ.get(endpoint.key_variable, "").strip()
            if not key:
                raise MapperUnavailableError(
                    f"The environment variable {endpoint.key_variable} with the key for "
                    f"{endpoint.host} is not set."
                )
            headers["authorization"] = f"Bearer {key}"
        payload = {"model": endpoint.model, "messages": messages, "temperature": 0, **more}
        url = endpoint.base_url.rstrip("/") + "/chat/completions"
        problem = ""
        for attempt in range(1 + endpoint.retries):
            if attempt:
                self._wait(0.5 * 2**attempt * (0.5 + random.random()))
            try:
                status, body = self._send(url, headers, payload)
            except (self._httpx.HTTPError, self._httpx.InvalidURL) as error:
                problem = type(error).__name__  # its text may hold the address or a header
                continue
            if status not in _RETRIED:
                return status, body
            problem = f"status {status}"
        raise MapperUnavailableError(f"{endpoint.host} cannot be asked ({problem}).") from None

    def _send(self, url: str, headers: Table[str, str], payload: Any) -> tuple[int, bytes]:
        with (
            self._httpx.Client(
                timeout=self.endpoint.timeout_s,
                follow_redirects=False,
                trust_env=self.endpoint.base_url.startswith("https"),  # no proxy on this machine
            ) as client,
            client.stream("POST", url, headers=dict(headers), json=payload) as reply,
        ):
            body = b""
            for piece in reply.iter_bytes():
                body += piece
                if len(body) > _MOST_ANSWER:
                    break
            return reply.status_code, body[:_MOST_ANSWER]

    def _content(self, status: int, body: bytes) -> str:
        if status != 200:
            raise MapperUnavailableError(
                f"{self.endpoint.host} refused with status {status}"
                + (": check the key." if status in (401, 403) else ".")
            )
        try:
            text = json.loads(body)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError):
            return ""  # counts as an answer that is no JSON
        return text if isinstance(text, str) else ""


class EndpointMapper:
    """Asks an endpoint which of the nearest names a text means.

    What the gate refuses (`gate.refusal`) is not sent. Put it behind a `LexiconMapper` in a `Ladder`: what has a name never leaves the machine, and where
    the endpoint cannot be reached the ladder warns once and goes on without it. Its answers come without
    a probability that a threshold could be calibrated on, so by default a pick is only offered to the
    user as a candidate.

    Args:
        client: whom to ask.
        nodes: by slot.
        trusted: whether its picks count as mappings, with the score 1. Measure its wrong picks first (`calibration.report`).
        n_names: offered at most, the nearest by letters; None: all of the slot.

    Raises:
        ConfigError: n_names is no positive whole number.
    """

    def __init__(
        self,
        client: EndpointClient,
        nodes: Nodes,
        *,
        trusted: bool = False,
        n_names: int | None = None,
    ) -> None:
        if n_names is not None:
            positive_int(n_names=n_names)
        self._client, self._trusted, self._n_names = client, trusted, n_names
        self._lexicon = LexiconMapper(nodes, tau=1.0, stages=())
        warnings.warn(_WARNING.format(host=client.endpoint.host), stacklevel=2)

    @property
    def name(self) -> str:
        """With model, prompts and gate, without the address."""
        return f"endpoint@{self._client.endpoint.model}:{prompts_hash()}:gate{GATE}"

    def map(self, slot: str, text: str) -> Mapping:
        """The node that the endpoint picks for `text`, or none; none where the gate refuses it.

        Raises:
            ConfigError: no such slot.
            InvalidRequestError: text is no string.
            MapperUnavailableError: the endpoint refuses or cannot be reached.
        """
        one_of(SLOTS, slot=slot)
        read, flags = clean(text)
        refused = gated(slot, read, flags, self._lexicon.index(slot))
        if refused is not None:
            return refused
        names = self._lexicon.offered(slot, read, self._n_names)
        sent = redact(read) if self._client.endpoint.redact_values else read
        schema = name_schema([*names, NONE])

        def check(answer: Any) -> str:
            if not isinstance(answer, dict) or set(answer) != {"name"}:
                return "it must be an object with the one key name"
            return "" if answer["name"] in [*names, NONE] else "name is none of the allowed ones"

        try:
            picked = self._client.json(map_prompt(slot, list(names), sent), "name", schema, check)[
                "name"
            ]
        except ModelOutputError:
            return Mapping(slot=slot, text=read, node=None, reason="mapper_failed", flags=flags)
        if picked == NONE:
            return Mapping(slot=slot, text=read, node=None, reason="below_threshold", flags=flags)
        node = names[picked]
        if not self._trusted:
            return Mapping(
                slot=slot,
                text=read,
                node=None,
                candidates=((node, 0.0),),
                reason="below_threshold",
                flags=flags,
            )
        return Mapping(slot=slot, text=read, node=node, score=1.0, by="endpoint", flags=flags)


def name_schema(names: list[str]) -> dict[str, Any]:
    """An object with the one key `name`, one of `names`."""
    return {
        "type": "object",
        "properties": {"name": {"type": "string", "enum": names}},
        "required": ["name"],
        "additionalProperties": False,
    }
