"""The login of the teacher's pages: the server's keys, tried a few times, and nothing without."""

from __future__ import annotations

import httpx
import pytest
from conftest import Address, ServerFactory
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from llmarking.errors import RequestRefused, ServerUnreachable
from llmarking.ui.login import COOKIE, LASTS, WRONG_KEYS, Guard, Sessions, login_routes

KEY = "a-key-of-this-test"


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def server(live_server_factory: ServerFactory) -> Address:
    return live_server_factory(api_keys=(KEY, "another-key"))


def pages(sessions: Sessions, *, local: bool = False) -> httpx.AsyncClient:
    """Pages behind the guard: everything but the login says who is let in."""

    async def inside(request: Request) -> PlainTextResponse:
        return PlainTextResponse("inside")

    login = login_routes(sessions, local=local)
    routes = [Route(path, end, methods=methods) for path, methods, end in login]
    app = Guard(Starlette(routes=[*routes, Route("/{path:path}", inside)]), sessions)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://pages")


async def test_nothing_is_shown_without_a_login(server: Address) -> None:
    async with pages(Sessions(server)) as http:
        for path in ("/config", "/gradio_api/info", "/gradio_api/file=x", "/theme.css"):
            assert (await http.get(path)).status_code == 401
        assert (await http.post("/gradio_api/run/predict")).status_code == 401
        home = await http.get("/?course=c1")
        assert home.status_code == 303
        assert home.headers["location"] == "/login?next=%2F%3Fcourse%3Dc1"
        assert "default-src 'self'" in home.headers["content-security-policy"]
        form = await http.get("/login")
        assert form.status_code == 200
        assert 'type="password"' in form.text
        assert COOKIE not in http.cookies


async def test_every_key_of_the_server_opens_the_pages_until_logout(server: Address) -> None:
    async with pages(Sessions(server)) as http:
        wrong = await http.post("/login", data={"key": "no"})
        assert wrong.status_code == 401
        assert "does not know this key" in wrong.text
        entered = await http.post("/login?next=%2F%3Fcourse%3Dc1", data={"key": "another-key"})
        assert entered.status_code == 303
        assert entered.headers["location"] == "/?course=c1"
        cookie = entered.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert "another-key" not in cookie
        assert (await http.get("/config")).text == "inside"
        assert (await http.post("/logout")).status_code == 303
        assert (await http.get("/config")).status_code == 401


async def test_a_login_leads_nowhere_else(server: Address) -> None:
    async with pages(Sessions(server)) as http:
        for target in ("//elsewhere.example", "https://elsewhere.example", "/%5Celsewhere"):
            entered = await http.post("/login", params={"next": target}, data={"key": KEY})
            assert entered.headers["location"] == "/"


async def test_one_key_may_be_all_that_opens_the_pages(server: Address) -> None:
    sessions = Sessions(server, KEY)
    with pytest.raises(RequestRefused):
        await sessions.open("another-key")
    assert await sessions.open(KEY)


async def test_a_server_without_keys_is_entered_at_once(live_server: Address) -> None:
    async with pages(Sessions(live_server)) as http:
        assert (await http.get("/login")).status_code == 303
        assert (await http.get("/")).text == "inside"


@pytest.mark.parametrize(("host", "status"), [("127.0.0.1:7860", 303), ("evil.example", 200)])
async def test_another_name_for_this_machine_opens_nothing_without_a_key(
    live_server: Address, host: str, status: int
) -> None:
    async with pages(Sessions(live_server), local=True) as http:
        assert (await http.get("/login", headers={"host": host})).status_code == status


async def test_too_many_wrong_keys_are_refused_for_a_minute(server: Address) -> None:
    clock = Clock()
    sessions = Sessions(server, clock=clock)
    async with pages(sessions) as http:
        for _ in range(WRONG_KEYS):
            assert (await http.post("/login", data={"key": "no"})).status_code == 401
        assert (await http.post("/login", data={"key": KEY})).status_code == 429
        clock.now += 61
        assert (await http.post("/login", data={"key": KEY})).status_code == 303


async def test_a_login_ends_with_the_day(server: Address) -> None:
    clock = Clock()
    async with pages(Sessions(server, clock=clock)) as http:
        await http.post("/login", data={"key": KEY})
        assert (await http.get("/config")).status_code == 200
        clock.now += LASTS + 1
        assert (await http.get("/config")).status_code == 401


async def test_a_server_that_is_not_there_is_told(server: Address) -> None:
    with pytest.raises(ServerUnreachable):
        await Sessions("http://127.0.0.1:9").open(KEY)
    async with pages(Sessions("http://127.0.0.1:9")) as http:
        said = await http.get("/login", headers={"accept-language": "zh-CN"})
        assert said.status_code == 503
        assert "无法连接" in said.text


async def test_a_form_that_is_no_form_is_refused(server: Address) -> None:
    async with pages(Sessions(server)) as http:
        assert (await http.post("/login", content=b"x" * 10_000)).status_code == 413
        assert (await http.post("/login", content=b"\xff\xfe=%ff")).status_code in (200, 401)
        assert (await http.post("/login", data={"key": "schlüssel"})).status_code == 401
