"""What every part of the teacher's pages needs of a visit: the server, the language, and errors.

The only place that turns what the package raises into what gradio shows.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from html import escape
from typing import ParamSpec, TypeVar

import gradio as gr
from starlette.requests import HTTPConnection

from llmarking.client import AsyncClient
from llmarking.errors import LLMarkingError
from llmarking.protocol.problems import type_and_place
from llmarking.ui.faults import explained
from llmarking.ui.login import Sessions
from llmarking.ui.shelf import Filled, Shelf
from llmarking.ui.texts import Language, language_of, say

log = logging.getLogger("llmarking.ui")
P = ParamSpec("P")
T = TypeVar("T")


class Desk:
    """Shared by all pages; knows who is asking."""

    def __init__(self, sessions: Sessions, shelf: Shelf) -> None:
        self._sessions = sessions
        self._shelf = shelf

    def client(self, request: gr.Request) -> AsyncClient:
        """The client with this visitor's key.

        Raises:
            gr.Error: the login has run out.
        """
        client = self._sessions.client(_visit(request))
        if client is None:
            language = self.language(request)
            raise _shown(language, say(language, "login_over"))
        return client

    def shelve(self, request: gr.Request, file: Filled) -> str:
        """Let a file wait for its download by this visitor; its token."""
        return self._shelf.put(_visit(request), file)

    def unshelve(self, token: str) -> None:
        """Forget a file."""
        self._shelf.drop(token)

    def language(self, request: gr.Request) -> Language:
        """What the browser asks for."""
        return language_of(_visit(request).headers.get("accept-language"))


def _visit(request: gr.Request) -> HTTPConnection:
    assert request.request is not None, "only browsers call these functions"
    return request.request


def told(handler: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """A handler whose errors are shown to the teacher and leave no trace in the log."""

    @functools.wraps(handler)
    async def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await handler(*args, **kwargs)
        except LLMarkingError as error:
            language = _language_in(args, kwargs)
            raise _shown(language, explained(language, error)) from None
        except gr.Error:
            raise
        except Exception as error:
            language = _language_in(args, kwargs)
            raise _failure(language, handler.__qualname__, error) from None

    return wrapped


def _language_in(args: Sequence[object], kwargs: Mapping[str, object]) -> Language:
    """The language of the visitor among the arguments of a handler."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, gr.Request):
            return language_of(_visit(value).headers.get("accept-language"))
    return "en"


def _failure(language: Language, where: str, error: Exception) -> gr.Error:
    # What an exception says may be what a student wrote: the log holds type and place.
    log.error("%s failed: %s", where, type_and_place(error))
    return _shown(language, say(language, "internal"))


def _shown(language: Language, text: str) -> gr.Error:
    # gradio shows the text as HTML; it may quote a cell of the teacher's file.
    title = say(language, "problem_title")
    return gr.Error(escape(text), title=title, print_exception=False)


def note(text: str, kind: str = "note") -> str:
    """A sentence with a coloured edge: good, note or problem."""
    return f'<p class="lm-{kind}">{escape(text)}</p>'


def headings(language: Language, *names: str, numbers: Collection[str] = ()) -> str:
    """The row of headings of a table; those above `numbers` stand right, as numbers do."""
    cells = (
        f'<th scope="col"{" class=lm-number" if name in numbers else ""}>'
        f"{escape(say(language, f'column_{name}'))}</th>"
        for name in names
    )
    return f"<tr>{''.join(cells)}</tr>"
