"""Files wait for their download, for one browser and one hour."""

from __future__ import annotations

from starlette.requests import HTTPConnection

from llmarking.ui.login import COOKIE
from llmarking.ui.shelf import FILES, LASTS, Filled, Shelf


def browser(name: str) -> HTTPConnection:
    cookie = f"{COOKIE}={name}".encode()
    return HTTPConnection({"type": "http", "headers": [(b"cookie", cookie)]})


def file(number: int) -> Filled:
    return Filled(b"%d" % number, f"{number}.csv")


def test_a_file_is_for_the_browser_that_had_it_made() -> None:
    shelf = Shelf()
    token = shelf.put(browser("a"), file(1))
    assert shelf.take(browser("a"), token) == file(1)
    assert shelf.take(browser("a"), token) == file(1)
    assert shelf.take(browser("b"), token) is None
    assert shelf.take(browser("a"), "") is None
    shelf.drop(token)
    assert shelf.take(browser("a"), token) is None


def test_the_last_few_are_kept_for_an_hour() -> None:
    now = 0.0
    shelf = Shelf(lambda: now)
    theirs = shelf.put(browser("b"), file(0))
    tokens = [shelf.put(browser("a"), file(n)) for n in range(FILES + 2)]
    kept = [shelf.take(browser("a"), token) for token in tokens]
    assert kept == [None, None, *map(file, range(2, FILES + 2))]
    assert shelf.take(browser("b"), theirs) == file(0)
    now = LASTS
    assert shelf.take(browser("b"), theirs) is None
