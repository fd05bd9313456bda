"""The page that a student opens with her link: plain HTML, no script, English or Chinese."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import lru_cache
from importlib.resources import files

import jinja2

from llmarking.protocol.releases import StudentAnswerResult, StudentResults
from llmarking.sentences import chinese

LANGUAGES = ("en", "zh")

TEXTS = {
    "en": {
        "title": "Your results",
        "total": "In all {mark} out of {full}",
        "your_answer": "Your answer",
        "no_answer": "(nothing)",
        "marks": "{mark} out of {full}",
        "waiting": "not marked yet",
        "checked": "Checked by your teacher.",
        "proposed": "Proposed by a machine; your teacher has not looked at this answer.",
        "point": "Point",
        "worth": "worth {mark}",
        "held": "You stated this.",
        "missing": "Not found in your answer.",
        "unclear": "Not decided.",
        "evidence": "In your words",
        "comment": "Your teacher",
        "contest": "Something is wrong with this mark",
        "which": "What is it about?",
        "whole": "the whole answer",
        "why": "Say in a sentence why:",
        "send": "Send to your teacher",
        "your_objection": "Your objection",
        "about": " ({what}; {state}):",
        "colon": ": ",
        "open": "waiting for your teacher",
        "upheld": "looked at, the mark stays",
        "changed": "looked at, the mark was changed",
        "problem": "That did not work",
        "back": "Back to your results",
        "gone": "This link does not work (any more). Ask your teacher for another one.",
        "private": "This page is yours alone: whoever has its address can read it.",
    },
    "zh": {
        "title": "你的成绩",
        "total": "总分：{mark} / {full}",
        "your_answer": "你的答案",
        "no_answer": "（空）",
        "marks": "{mark} / {full} 分",
        "waiting": "尚未评分",
        "checked": "老师已确认。",
        "proposed": "由机器评出的建议分数，老师尚未查看。",
        "point": "得分点",
        "worth": "{mark} 分",
        "held": "你答到了这一点。",
        "missing": "答案中没有找到。",
        "unclear": "未能判定。",
        "evidence": "你的原文",
        "comment": "老师留言",
        "contest": "对这个分数有异议",
        "which": "针对哪一点？",
        "whole": "整个答案",
        "why": "用一句话说明理由：",
        "send": "提交给老师",
        "your_objection": "你的异议",
        "about": "（{what}；{state}）：",
        "colon": "：",
        "open": "等待老师处理",
        "upheld": "已复核，分数不变",
        "changed": "已复核，分数已修改",
        "problem": "没有成功",
        "back": "返回成绩页",
        "gone": "这个链接已失效，请向老师索取新的链接。",
        "private": "本页只属于你：知道网址的人都能看到它，请勿转发。",
    },
}


def language(accepted: str) -> str:
    """The language of a page for an `Accept-Language` header; English where none fits."""
    wishes = []
    for place, part in enumerate(accepted.split(",")[:20]):
        match = re.fullmatch(
            r"\s*([A-Za-z]{1,8})[\w-]*\s*(?:;\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*)?", part
        )
        if match and (code := match[1].lower()) in LANGUAGES:
            wishes.append((-float(match[2] or 1), place, code))
    return min(wishes)[2] if wishes and min(wishes)[0] < 0 else "en"


def page(results: StudentResults, path: str, accepted: str) -> str:
    """A student's answers with points, marks, evidence and a form to object.

    Args:
        path: of the page itself, to which its forms belong.
        accepted: the `Accept-Language` header.
    """
    return _render(language(accepted), results=results, path=path, problem=None)


def problem_page(says: str | None, accepted: str, back: str | None = None) -> str:
    """A page for what did not work; without words of its own, that the link is dead."""
    chosen = language(accepted)
    if says and chosen == "zh":
        says = chinese(says)
    return _render(chosen, results=None, problem=says or TEXTS[chosen]["gone"], back=back)


def headers() -> dict[str, str]:
    """What keeps a page private: no scripts, no frames, no traces, no copies."""
    style = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    return {
        "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{style}'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        "Referrer-Policy": "no-referrer",
        "X-Robots-Tag": "noindex, nofollow, noarchive",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Vary": "Accept, Accept-Language",
    }


def can_contest(answer: StudentAnswerResult) -> list[int | None]:
    """What of an answer can still be objected to; None is the whole of it."""
    waiting = {each.point for each in answer.contests if each.state == "open"}
    places: list[int | None] = [point.id for point in answer.points]
    return [] if answer.mark is None else [p for p in [*places, None] if p not in waiting]


def _render(chosen: str, **values: object) -> str:
    return _template().render(
        lang={"en": "en", "zh": "zh-Hans"}[chosen],
        t=TEXTS[chosen],
        style=_style(),
        can_contest=can_contest,
        **values,
    )


def _pages() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(_read),
        autoescape=True,  # all that students and teachers wrote is text
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["number"] = lambda value: f"{value:g}"
    return made


@lru_cache
def _template() -> jinja2.Template:
    return _pages().get_template("student.html.jinja")


@lru_cache
def _style() -> str:
    return _read("student.css")


def _read(name: str) -> str:
    return (files("llmarking.server") / "pages" / name).read_text(encoding="utf-8")
