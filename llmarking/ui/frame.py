"""The frame around the steps: whose class this is, and where a visit begins."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from llmarking.errors import RequestRefused
from llmarking.ui.desk import Desk, told
from llmarking.ui.texts import say

UPLOAD, CHECK, GRADE, REVIEW, EXPORT = range(1, 6)


class FramePage:
    """The functions behind the frame."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    @told
    async def opened(self, request: gr.Request) -> list[Any]:
        """The class that the address names, and the step it has come to."""
        course = request.query_params.get("course", "")
        if not course:
            return ["", gr.skip()]
        client = self._desk.client(request)
        try:
            jobs = await client.jobs(course)
        except RequestRefused as error:
            if error.status != 404:
                raise
            return ["", gr.skip()]  # it was deleted, or never was
        done = bool(jobs) and all(job.state in ("finished", "cancelled") for job in jobs)
        return [course, gr.Walkthrough(selected=REVIEW if done else GRADE)]

    @told
    async def top(self, course: str, request: gr.Request) -> str:
        """The line above the steps."""
        language = self._desk.language(request)
        name = ""
        if course:
            about = await self._desk.client(request).course(course)
            name = (
                f'<span class="lm-class">{escape(about.name)}</span>'
                f'<a href="/">{escape(say(language, "another_class"))}</a>'
            )
        return (
            f'<div class="lm-top"><h1>LLMarking</h1>{name}<form method="post" action="/logout">'
            f"<button>{escape(say(language, 'logout'))}</button></form></div>"
        )


def build_frame() -> gr.HTML:
    """The line above the steps."""
    return gr.HTML('<div class="lm-top"><h1>LLMarking</h1></div>', elem_id="top")
