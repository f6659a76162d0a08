import asyncio
import json
import pathlib
import socket
import threading

import httpx
import pytest

from ariel_jax.errors import ConfigError, HttpError, IntegrityError, StorageError, UnknownNodeError
from ariel_jax.serving import http
from ariel_jax.serving.http import Call, Keys, Limits, Route, application

ONE, TWO = "one-key-of-many-letters", "two-key-of-many-letters"
KEYS = Keys(one=ONE, two=TWO)


def fail(error):
    raise error


ROUTES = [
    Route(method="POST", path="/echo", roles=("one",), handle=lambda call: {"body": dict(call.body), "roles": sorted(call.roles)}),
    Route(method="GET", path="/item/{id:int}", roles=("one", "two"), handle=lambda call: dict(call.path) | dict(call.query)),
    Route(method="GET", path="/open", roles=(), handle=lambda call: [1, "ü"], status=201),
    Route(method="POST", path="/item/{id:int}", roles=("two",), handle=lambda call: {"put": call.path["id"]}),
    *(
        Route(method="GET", path=f"/fail/{n}", roles=(), handle=lambda call, error=error: fail(error))
        for n, error in enumerate((
            ConfigError("x is wrong"), UnknownNodeError("no y", slot="data", node="y", nearest=()),
            StorageError("disk full"), IntegrityError("changed"), HttpError(404, "NotFound", "none"),
            ValueError("secret-detail"), KeyError("secret-detail"),
        ))
    ),
]  # fmt: skip


def call(method, path, *, key=ONE, app=None, headers=(), **options):
    """One call in this process, as a client at http://127.0.0.1:8765 makes it."""

    async def go():
        transport = httpx.ASGITransport(
            app=app or application(ROUTES, KEYS), raise_app_exceptions=True
        )
        sent = dict(headers)
        if key is not None:
            sent.setdefault("authorization", f"Bearer {key}")
        async with httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1:8765"
        ) as client:
            return await client.request(method, path, headers=sent, **options)

    return asyncio.run(go())


def refused(answer, status, kind):
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["type"] == kind
    assert error["message"]
    assert answer.headers["cache-control"] == "no-store"
    return error["message"]


def test_a_call_with_a_key_is_answered():
    answer = call("POST", "/echo", json={"a": [1, {"b": "ü"}]})
    assert (answer.status_code, answer.json()) == (
        200,
        {"body": {"a": [1, {"b": "ü"}]}, "roles": ["one"]},
    )
    assert answer.headers["content-type"] == "application/json"
    assert call("GET", "/item/7?x=1&x=2", key=TWO).json() == {"id": 7, "x": "2"}
    answer = call("GET", "/open", key=None)
    assert (answer.status_code, answer.json()) == (201, [1, "ü"])


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Bearer wrong", f"Basic {ONE}", f"Bearer {ONE}x", f"Bearer {ONE[:-1]}", ONE, "Bearer \xff"],
)  # fmt: skip
def test_without_the_right_key_nothing_runs(header):
    headers = {"authorization": header.encode("latin-1")}
    answer = call("POST", "/echo", key=None, headers=headers, json={})
    refused(answer, 401, "NoKey")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_the_key_of_another_role_is_refused():
    assert TWO not in refused(call("POST", "/echo", key=TWO, json={}), 403, "WrongKey")
    refused(call("POST", "/item/3", key=ONE, json={}), 403, "WrongKey")
    assert call("POST", "/item/3", key=TWO, json={}).json() == {"put": 3}


def test_keys_are_compared_in_constant_time_and_never_shown(monkeypatch):
    compared = []
    real = http.hmac.compare_digest
    monkeypatch.setattr(
        http.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or real(a, b)
    )
    assert KEYS.roles(ONE) == {"one"}
    assert KEYS.roles("") == frozenset()
    assert len(compared) == 4  # every key each time, whichever fits
    assert {len(x) for pair in compared for x in pair} == {32}
    for shown in (repr(KEYS), str(vars(KEYS))):
        assert ONE not in shown
        assert TWO not in shown


@pytest.mark.parametrize(
    "key",
    ["short", "has a blank in the middle", "ümläute-are-not-ascii", "line\nline-line-line", ""],
)
def test_a_bad_key_is_refused_without_being_shown(key):
    with pytest.raises(ConfigError) as caught:
        Keys(agent=key)
    assert "'agent'" in str(caught.value)
    assert not key or key not in str(caught.value)
    with pytest.raises(ConfigError, match="different keys") as caught:
        Keys(a=ONE, b=ONE)
    assert ONE not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"), (b"{", "not JSON"), (b"[1]", "no object"), (b"3", "no object"), (b'"x"', "no object"),
        (b"\xff{}", "not JSON"), (b'{"a": NaN}', "NaN"), (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": 1, "a": 2}', "twice"), (b'{"a": "\\ud800"}', "not JSON"), (b"[" * 30_000, "brackets"),
        (b'{"a":' * 20 + b"1" + b"}" * 20, "brackets"), (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
    ],
)  # fmt: skip
def test_a_body_that_is_no_json_object_is_refused(body, words):
    headers = {"content-type": "application/json"}
    assert words in refused(call("POST", "/echo", content=body, headers=headers), 400, "BadJson")


def test_a_body_is_json_and_small():
    refused(
        call("POST", "/echo", content=b"{}", headers={"content-type": "text/plain"}), 415, "NotJson"
    )
    refused(call("POST", "/echo", content=b"{}"), 415, "NotJson")
    json_type = {"content-type": "application/json; charset=utf-8"}
    assert call("POST", "/echo", content=b"{}", headers=json_type).status_code == 200
    app = application(ROUTES, KEYS, limits=Limits(body_bytes=10))
    refused(call("POST", "/echo", app=app, json={"a": "x" * 10}), 413, "TooLarge")
    for length in ("11", "99999999999999999999999999", "-1", "ten"):
        headers = json_type | {"content-length": length}
        refused(call("POST", "/echo", app=app, content=b"{}", headers=headers), 413, "TooLarge")

    async def parts():
        for _ in range(4):
            yield b'{"a":'

    refused(call("POST", "/echo", app=app, content=parts(), headers=json_type), 413, "TooLarge")


def test_a_body_that_does_not_come_is_given_up():
    app = application(ROUTES, KEYS, limits=Limits(read_s=0.05))

    async def slow():
        yield b"{"
        await asyncio.sleep(5)

    answer = call(
        "POST", "/echo", app=app, content=slow(), headers={"content-type": "application/json"}
    )
    refused(answer, 408, "TooSlow")


def test_other_hosts_and_pages_in_browsers_are_refused():
    for host in (
        "evil.example",
        "evil.example:8765",
        "127.0.0.1.evil.example",
        "",
        "[::2]:1",
        "127.0.0.2",
    ):
        refused(call("GET", "/open", headers={"host": host}), 421, "WrongHost")
    for host in ("localhost", "LOCALHOST:1", "[::1]:8765", "[::1]", "127.0.0.1"):
        assert call("GET", "/open", headers={"host": host}).status_code == 201
    refused(call("GET", "/open", headers={"origin": "http://127.0.0.1:8765"}), 403, "Browser")
    app = application(ROUTES, KEYS, hosts=("judge.example",))
    assert call("GET", "/open", app=app, headers={"host": "judge.example:1"}).status_code == 201
    refused(call("GET", "/open", app=app), 421, "WrongHost")


def test_paths_and_methods_that_are_not_there():
    refused(call("GET", "/nothing"), 404, "NotFound")
    refused(call("GET", "/item/x"), 404, "NotFound")
    refused(call("GET", "/open/"), 404, "NotFound")
    refused(call("DELETE", "/open"), 405, "MethodNotAllowed")
    refused(call("GET", "/echo"), 405, "MethodNotAllowed")
    assert call("HEAD", "/open").status_code == 405


def test_errors_have_their_status_and_others_say_nothing(caplog):
    for n, (status, kind) in enumerate(
        [(400, "ConfigError"), (400, "UnknownNodeError"), (503, "StorageError"), (500, "IntegrityError"),
         (404, "NotFound"), (500, "InternalError"), (500, "InternalError")]
    ):  # fmt: skip
        message = refused(call("GET", f"/fail/{n}"), status, kind)
        assert "secret-detail" not in message
    assert "secret-detail" not in caplog.text  # it may be what was asked for
    assert "GET /fail/5 failed: ValueError at test_http.py:" in caplog.text
    assert ONE not in caplog.text


def test_handlers_run_beside_one_another_up_to_a_limit():
    inside, most, lock = 0, 0, threading.Lock()
    both = threading.Barrier(2, timeout=5)

    def handle(call: Call):
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        both.wait()
        with lock:
            inside -= 1
        return {}

    app = application(
        [Route(method="GET", path="/", roles=(), handle=handle)], KEYS, limits=Limits(together=2)
    )

    async def go():
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await asyncio.gather(*(client.get("/") for _ in range(6)))

    assert [answer.status_code for answer in asyncio.run(go())] == [200] * 6
    assert most == 2


def test_a_key_comes_from_the_environment_or_a_private_file(tmp_path, monkeypatch):
    file = tmp_path / "key"
    monkeypatch.setenv("SOME_KEY", ONE)
    assert http.key_from("SOME_KEY", file) == ONE
    assert not file.exists()
    monkeypatch.setenv("SOME_KEY", "")
    made = http.key_from("SOME_KEY", file)
    assert len(made) >= 32
    assert file.stat().st_mode & 0o777 == 0o600
    assert http.key_from("SOME_KEY", file) == made
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="read by others") as caught:
        http.key_from("SOME_KEY", file)
    assert made not in str(caught.value)
    file.chmod(0o600)
    for text in (b"", b" \n", b"\xff\xfe"):
        file.write_bytes(text)
        with pytest.raises(ConfigError, match="holds no key"):
            http.key_from("SOME_KEY", file)
    with pytest.raises(StorageError, match="create it first"):
        http.key_from("SOME_KEY", pathlib.Path(tmp_path / "absent" / "key"))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org", ""])
def test_only_this_machine_is_served_unless_it_is_asked_for(host):
    with pytest.raises(ConfigError, match="reached by other machines"):
        http.serve(application(ROUTES, KEYS), host=host)


def test_bad_arguments_are_refused():
    for make in (lambda: Limits(body_bytes=0), lambda: Limits(read_s=0), lambda: Limits(together=0),
                 lambda: http.serve(None, port=70_000),
                 lambda: Route(method="PUT", path="/", roles=(), handle=print)):  # fmt: skip
        with pytest.raises(ConfigError):
            make()


def test_an_address_that_is_taken_is_an_error():
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(StorageError, match="cannot listen"),
    ):
        http.serve(application(ROUTES, KEYS), port=taken.getsockname()[1])


def test_json_of_the_answer_is_strict():
    app = application(
        [Route(method="GET", path="/", roles=(), handle=lambda call: float("nan"))], KEYS
    )
    assert call("GET", "/", app=app).json()["error"]["type"] == "InternalError"
    assert json.loads(call("GET", "/open").content) == [1, "ü"]
