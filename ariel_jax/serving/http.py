"""What an HTTP service of ours rests on: keys, limits, loopback, errors as JSON. Host only.

`application` makes an ASGI application of routes, `serve` runs it. A handler is a plain function of a
`Call`, run in a thread; what it returns is the JSON of the answer.
"""

import dataclasses
import functools
import hashlib
import hmac
import ipaddress
import json
import logging
import os
import pathlib
import secrets
import socket
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ariel_jax._checks import one_of, positive, positive_int, whole_number
from ariel_jax.durable import storage_error
from ariel_jax.errors import (
    ArielError,
    ConfigError,
    DisclosureDenied,
    HttpError,
    IntegrityError,
    StorageError,
    UntrustedSourceError,
    missing_extra,
)

try:
    import anyio
    import anyio.to_thread
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import Response
    from starlette.routing import Route as StarletteRoute
    from starlette.routing import Router
except ImportError as error:  # pragma: no cover
    raise missing_extra("starlette", "serve", "serving over HTTP") from error

LOG = logging.getLogger("ariel_jax.serving")
"""Names methods, paths and statuses; never a header, a body or a key."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")
MIN_KEY = 16
"""Characters of a key."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What a caller may take.

    Attributes:
        body_bytes: of a request; more is refused before it is read.
        read_s: to send the body.
        depth: of brackets in its JSON.
        together: calls that run at one time; more wait.

    Raises:
        ConfigError: a value is not allowed.
    """

    body_bytes: int = 65_536
    read_s: float = 10.0
    depth: int = 16
    together: int = 16

    def __post_init__(self) -> None:
        positive_int(body_bytes=self.body_bytes, depth=self.depth, together=self.together)
        positive(read_s=self.read_s)


class Keys:
    """Which roles a caller has, by the key it shows; of the keys only their SHA-256 is kept."""

    def __init__(self, **keys: str):
        """Takes one key for each role.

        Raises:
            ConfigError: a key is short or not plain text, or two roles have the same.
        """
        for role, key in keys.items():
            # The message names the role, never the key.
            if len(key) < MIN_KEY or not key.isascii() or not key.isprintable() or " " in key:
                raise ConfigError(
                    f"the key of role {role!r} is not allowed: pass at least {MIN_KEY} ASCII characters "
                    "without spaces, such as those of secrets.token_urlsafe()."
                )
        if len(set(keys.values())) != len(keys):
            raise ConfigError(
                f"the roles {sorted(keys)} must have different keys: give each one of its own."
            )
        self._digests = {role: _digest(key) for role, key in keys.items()}

    def __repr__(self) -> str:
        return f"Keys({', '.join(sorted(self._digests))})"

    def roles(self, shown: str) -> frozenset[str]:
        """The roles whose key was shown; takes equally long whichever it is."""
        given = _digest(shown)
        return frozenset(
            [role for role, known in self._digests.items() if hmac.compare_digest(known, given)]
        )


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="replace")).digest()


def key_from(environment: str, file: pathlib.Path) -> str:
    """The key in an environment variable, else that in a file, which is made where there is none.

    Args:
        environment: name of the variable; an empty one counts as none.
        file: readable by this user only.

    Raises:
        ConfigError: the file can be read by others, or holds no key.
        StorageError: it can be neither read nor made.
    """
    if key := os.environ.get(environment, ""):
        return key
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(file, flags, 0o600), "w", encoding="ascii") as new:
            new.write(secrets.token_urlsafe(32) + "\n")
            new.flush()
            os.fsync(new.fileno())
    except FileExistsError:
        pass
    except OSError as error:
        raise storage_error(file, error) from error
    try:
        if file.stat().st_mode & 0o077:
            raise ConfigError(
                f"the key in {file} can be read by others: remove the file to have a new one made, or "
                "chmod 600 it if nobody has read it."
            )
        key = file.read_text(encoding="ascii").strip()
    except UnicodeDecodeError:
        key = ""
    except OSError as error:
        raise storage_error(file, error) from error
    if not key:
        raise ConfigError(f"{file} holds no key: remove it to have a new one made.")
    return key


@dataclasses.dataclass(frozen=True, kw_only=True)
class Call:
    """What a handler is given.

    Attributes:
        body: the JSON object that was sent; empty for GET.
        path: parameters of the path.
        query: parameters after the question mark; the last of equal names.
        roles: of the caller.
    """

    body: Mapping[str, Any]
    path: Mapping[str, Any]
    query: Mapping[str, str]
    roles: frozenset[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Route:
    """One way in.

    Attributes:
        method: `GET` or `POST`.
        path: as starlette writes them, such as `/v1/decisions/{id:int}`.
        roles: the caller's key must have one of them; without any the way is open to everybody.
        handle: makes the JSON of the answer; what it raises becomes an error body.
        status: of the answer.
    """

    method: str
    path: str
    roles: tuple[str, ...]
    handle: Callable[[Call], Any]
    status: int = 200

    def __post_init__(self) -> None:
        one_of(("GET", "POST"), method=self.method)


_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (UntrustedSourceError, 403),
    (DisclosureDenied, 403),
    (ConfigError, 400),
    (StorageError, 503),
    (IntegrityError, 500),
    (ArielError, 500),
)


def application(
    routes: Sequence[Route],
    keys: Keys,
    *,
    limits: Limits | None = None,
    hosts: Sequence[str] = LOOPBACK,
) -> Any:
    """An ASGI application.

    Args:
        routes: the ways in.
        keys: of the roles that routes ask for; shown as `Authorization: Bearer KEY`.
        limits: None is `Limits()`.
        hosts: names that the header `Host` may have, with any port: a page in a browser that was led to
            this address by another name is refused, as is every call with an `Origin`.

    Errors are answered by `{"error": {"type": ..., "message": ...}}`: 400 bad input, 401 no key, 403 a key
    of another role, 404, 405, 408 too slow, 411 or 413 size, 415 no JSON, 421 another host, 503 the log
    cannot be written, 500 the rest without details.
    """
    limits = limits or Limits()
    running = _Together(limits.together)
    made = [_starlette(route, keys, limits, running) for route in routes]
    router = Router(routes=_by_path(made), redirect_slashes=False)
    allowed = frozenset(host.casefold() for host in hosts)

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await router(scope, receive, send)
            return
        if scope["type"] != "http":
            raise ValueError(f"a connection of type {scope['type']} is not served")
        request = Request(scope, receive)
        try:
            _check_origin(request, allowed)
        except HttpError as error:
            await _refusal(error)(scope, receive, send)
            return
        await router(scope, receive, send)

    return answer


class _Together:
    """A limiter made in the event loop that uses it."""

    def __init__(self, n: int):
        self._n = n

    @functools.cached_property
    def limiter(self) -> anyio.CapacityLimiter:
        return anyio.CapacityLimiter(self._n)


def _by_path(routes: list[StarletteRoute]) -> list[StarletteRoute]:
    """The routes, and for other methods and paths an error of ours."""

    async def wrong_method(request: Request) -> Response:
        return _refusal(HttpError(405, "MethodNotAllowed", f"{request.method} is not served here."))

    async def nowhere(request: Request) -> Response:
        return _refusal(HttpError(404, "NotFound", "there is nothing at this path."))

    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    paths = dict.fromkeys(route.path for route in routes)
    others = [StarletteRoute(path, wrong_method, methods=methods) for path in paths]
    rest = StarletteRoute("/{rest:path}", nowhere, methods=methods)
    return [*routes, *others, rest]


def _check_origin(request: Request, allowed: frozenset[str]) -> None:
    name = request.headers.get("host", "")
    host = name[1:].partition("]")[0] if name.startswith("[") else name.rpartition(":")[0] or name
    if host.casefold() not in allowed:
        raise HttpError(421, "WrongHost", "this address is served under another name only.")
    if "origin" in request.headers:
        raise HttpError(403, "Browser", "calls from pages in a browser are refused.")


def _starlette(route: Route, keys: Keys, limits: Limits, running: _Together) -> StarletteRoute:
    made = StarletteRoute(
        route.path, _endpoint(route, keys, limits, running), methods=[route.method]
    )
    made.methods = {route.method}  # without HEAD
    return made


def _endpoint(route: Route, keys: Keys, limits: Limits, running: _Together) -> Any:
    async def endpoint(request: Request) -> Response:
        try:
            roles = _roles(request, keys)
            if route.roles and not roles:
                raise HttpError(401, "NoKey", "show a key: Authorization: Bearer KEY.")
            if route.roles and roles.isdisjoint(route.roles):
                raise HttpError(
                    403,
                    "WrongKey",
                    f"this needs the key of {' or '.join(route.roles)}; another was shown.",
                )
            body = await _body(request, limits) if route.method == "POST" else {}
            call = Call(
                body=body, path=dict(request.path_params), query=dict(request.query_params), roles=roles
            )  # fmt: skip
            found = await anyio.to_thread.run_sync(
                functools.partial(route.handle, call), limiter=running.limiter
            )
            return _json(route.status, found)
        except ClientDisconnect:
            return Response(status_code=499)
        except ArielError as error:
            return _refusal(error)
        except Exception as error:
            # Its text may quote what was asked for: only its type and place are written down.
            place = traceback.extract_tb(error.__traceback__)[-1]
            LOG.error(
                "%s %s failed: %s at %s:%s", route.method, route.path, type(error).__name__,
                pathlib.Path(place.filename).name, place.lineno,
            )  # fmt: skip
            return _json(
                500,
                {"error": {"type": "InternalError", "message": "the server failed; see its log."}},
            )

    return endpoint


def _roles(request: Request, keys: Keys) -> frozenset[str]:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return keys.roles(key.strip()) if scheme.casefold() == "bearer" else frozenset()


async def _body(request: Request, limits: Limits) -> Mapping[str, Any]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().casefold()
    if kind != "application/json":
        raise HttpError(415, "NotJson", "send Content-Type: application/json.")
    said = request.headers.get("content-length")
    if said is not None and (not said.isdigit() or int(said[:20]) > limits.body_bytes):
        raise HttpError(413, "TooLarge", f"a body may have {limits.body_bytes} bytes.")
    parts, size = [], 0
    try:
        with anyio.fail_after(limits.read_s):
            async for part in request.stream():
                size += len(part)
                if size > limits.body_bytes:
                    raise HttpError(413, "TooLarge", f"a body may have {limits.body_bytes} bytes.")
                parts.append(part)
    except TimeoutError:
        raise HttpError(
            408, "TooSlow", f"the body was not there after {limits.read_s:g} s."
        ) from None
    return parse(b"".join(parts), depth=limits.depth)


def parse(data: bytes, *, depth: int = 16) -> dict[str, Any]:
    """A JSON object from outside.

    Raises:
        HttpError: it is no UTF-8, no JSON, has NaN, infinity, a name twice or deep brackets, or is no
            object. The message quotes nothing of it.
    """

    def refuse(what: str) -> HttpError:
        return HttpError(400, "BadJson", f"the body {what}: send one JSON object.")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise refuse("has a name twice")
        return found

    def no_constant(text: str) -> Any:
        raise refuse(f"has {text}")

    try:
        text = data.decode("utf-8")
        if _depth(text) > depth:
            raise refuse(f"has more than {depth} brackets in one another")
        value = json.loads(text, object_pairs_hook=once, parse_constant=no_constant)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        if isinstance(error, ArielError):
            raise
        raise refuse("is not JSON in UTF-8") from None
    if not isinstance(value, dict):
        raise refuse("is no object")
    return value


def _depth(text: str) -> int:
    """The most brackets in one another, those in strings counted too (a limit may be too strict)."""
    depth = most = 0
    for character in text:
        if character in "[{":
            depth += 1
            most = max(most, depth)
        elif character in "]}":
            depth -= 1
    return most


def _refusal(error: Exception) -> Response:
    status = next((s for kind, s in _STATUS if isinstance(error, kind)), 500)
    kind = type(error).__name__
    if isinstance(error, HttpError):
        status, kind = error.status, error.kind
    return _json(status, {"error": {"type": kind, "message": str(error)}})


def _json(status: int, value: Any) -> Response:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(text, status, headers, media_type="application/json")


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(
    app: Any,
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    allow_remote: bool = False,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Runs an application until it is interrupted, and then raises `KeyboardInterrupt`.

    Args:
        app: of `application`.
        host: address to listen at.
        port: 0 lets the system choose.
        allow_remote: whether an address that other machines reach is allowed. There is no encryption here:
            put a proxy with TLS in front.
        ready: given the address once it listens.

    Raises:
        ConfigError: the address is not loopback, or the port is not one.
        MissingExtraError: uvicorn is not installed.
        StorageError: nothing can listen at the address.
    """
    whole_number(0, 65535, port=port)
    if not is_loopback(host) and not allow_remote:
        raise ConfigError(
            f"host={host!r} can be reached by other machines and there is no encryption: pass 127.0.0.1, or "
            "allow_remote=True behind a proxy with TLS."
        )
    try:
        import uvicorn
    except ImportError as error:
        raise missing_extra("uvicorn", "serve", "serving over HTTP") from error
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise StorageError(
            f"cannot listen at {host} port {port}: {error}. Choose another address or port."
        ) from error
    config = uvicorn.Config(
        app, access_log=False, log_level="warning", server_header=False, proxy_headers=False, ws="none",
        timeout_keep_alive=5, limit_concurrency=256,
    )  # fmt: skip
    with listening:
        if ready is not None:
            ready(f"{host} port {listening.getsockname()[1]}")
        server = uvicorn.Server(config)
        server.run(sockets=[listening])
    if server.started:
        # It came to an end by a signal, which uvicorn gives back to a loop that may be past noticing.
        raise KeyboardInterrupt
