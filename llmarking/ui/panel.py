"""One answer on the screen: what was written, with the evidence marked, beside its points.

Everything a student, a teacher or a model wrote is escaped here and nowhere else; the result goes
into the page as it is. `review.js` brings it to life.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import pairwise

from llmarking.protocol.bodies import PointResult
from llmarking.protocol.courses import AnswerDetail, WireContest
from llmarking.ui.texts import Language, say


def highlighted(text: str, evidence: Mapping[int, str | None]) -> str:
    """The text as HTML, the words that show a point marked with the point's number.

    Quotations may overlap; one that does not stand in the text is passed over.
    """
    spans = [
        (start, start + len(quote), point)
        for point, quote in evidence.items()
        if quote and (start := text.find(quote)) >= 0
    ]
    edges = sorted({0, len(text), *(edge for span in spans for edge in span[:2])})
    parts = []
    for start, end in pairwise(edges):
        covering = sorted(p for a, b, p in spans if a <= start and end <= b)
        piece = escape(text[start:end])
        if not covering:
            parts.append(piece)
            continue
        ends = ",".join(str(p) for p in sorted(p for _, b, p in spans if b == end))
        ending = f"<sup>{ends}</sup>" if ends else ""
        ids = " ".join(map(str, covering))
        parts.append(f'<mark data-points="{ids}">{piece}{ending}</mark>')
    return "".join(parts)


def panel(answer: AnswerDetail, language: Language, left: int | None = None) -> str:
    """The two sides and the keys below them; `left` answers are in the list it is from."""
    beneath = {point.id: point for point in (answer.model.points if answer.model else ())}
    # A teacher's mark has verdicts only; what the model said of a point goes on standing beside it.
    shown = [_with_reasons(point, beneath.get(point.id)) for point in answer.points]
    written = highlighted(answer.text, {point.id: point.evidence for point in shown})
    if not answer.text.strip():
        written = f'<em class="lm-muted">{_t(language, "empty_answer")}</em>'
    points = "".join(_point(point, language) for point in shown)
    attributes = f'data-answer="{escape(answer.id)}" data-mark="{answer.mark_id or 0}"'
    return f"""<article class="lm-panel" {attributes}>
{_head(answer, language, left)}
<div class="lm-sides">
<section class="lm-side" aria-label="{_t(language, "answer")}">
<details class="lm-question"><summary>{escape(answer.question)}
<span class="lm-muted">{_t(language, "question")}</span></summary>
<p>{escape(answer.question_text)}</p></details>
<div class="lm-text" lang="">{written}</div>
{_contests(answer.contests, language)}
</section>
<section class="lm-side" aria-label="{_t(language, "points")}">
<ol class="lm-points">{points}</ol>
</section>
</div>
{_keys(answer.same_as, language)}
</article>"""


def nothing(language: Language, key: str, *, undo: bool = False) -> str:
    """The panel without an answer: one sentence, and where there is something to undo, how."""
    button = f"<p>{_button(language, 'undo', 'u')}</p>" if undo else ""
    return f'<div class="lm-nothing">{_t(language, key)}{button}</div>'


def badges(flags: Iterable[str], language: Language) -> str:
    """Flags as small labels."""
    return "".join(
        f'<span class="lm-badge lm-flag" title="{_t(language, f"flag_{flag}_why")}">'
        f"{_t(language, f'flag_{flag}')}</span>"
        for flag in flags
    )


def percent(probability: float) -> str:
    """A probability as whole percents that never claim certainty."""
    return f"{min(99, max(1, round(100 * probability)))} %"


def _t(language: Language, key: str, **values: object) -> str:
    return escape(say(language, key, **values))


def _with_reasons(point: PointResult, model: PointResult | None) -> PointResult:
    if model is None:
        return point
    filled = {
        name: getattr(model, name)
        for name in ("probability", "evidence", "reason")
        if getattr(point, name) is None
    }
    return point.model_copy(update=filled)


def _head(answer: AnswerDetail, language: Language, left: int | None) -> str:
    state = f'<span class="lm-badge lm-{answer.state}">{_t(language, _state(answer))}</span>'
    who = " · ".join(escape(part) for part in (answer.student, answer.name) if part)
    waiting = f'<span class="lm-left">{_t(language, "left", count=left)}</span>' if left else ""
    mark, full = answer.mark or 0, answer.full_mark or 0
    return f"""<header class="lm-head">
<strong>{_t(language, "number", number=answer.position + 1)}</strong><span>{who}</span>
<span class="lm-mark"><output>{mark:g}</output> / {full:g}</span>
{state}{badges(answer.flags, language)}{waiting}
</header>"""


def _state(answer: AnswerDetail) -> str:
    """The name of what is said of the mark's state.

    A mark that was confirmed counts as the teacher's own from the moment the model's verdicts
    differ from it, by a refit or a new version of the question.
    """
    if answer.state != "overridden":
        return answer.state
    decided = answer.mark_id or 0
    before = [mark for mark in answer.history if mark.kind == "model" and mark.id < decided]
    then = max(before, key=lambda mark: mark.id, default=None)
    agreed = then is not None and _held(then.points) == _held(answer.points)
    return "confirmed_once" if agreed else answer.state


def _held(points: Iterable[PointResult]) -> dict[int, bool | None]:
    return {point.id: point.held for point in points}


def _point(point: PointResult, language: Language) -> str:
    held = "true" if point.held else "false"
    classes = "lm-point lm-unsure" if point.needs_review else "lm-point"
    sure = ""
    if point.probability is not None:
        share = percent(point.probability)
        sure = (
            f'<div class="lm-sure" title="{_t(language, "probability", share=share)}">'
            f'<meter min="0" max="1" value="{point.probability:.3f}"></meter>'
            f"<span>{share}</span></div>"
        )
    reason = f"<p>{escape(point.reason)}</p>" if point.reason else ""
    quote = f"<q>{escape(point.evidence)}</q>" if point.evidence else ""
    unsure = (
        f'<span class="lm-badge">{_t(language, "flag_unsure")}</span>' if point.needs_review else ""
    )
    return f"""<li class="{classes}" data-point="{point.id}" data-worth="{point.mark:g}">
<button type="button" class="lm-toggle" aria-pressed="{held}"
 aria-label="{_t(language, "toggle", point=point.id)}">
<kbd>{point.id}</kbd><span class="lm-worth">{point.mark:g}</span></button>
<div class="lm-why"><div class="lm-wanted">{escape(point.text)} {unsure}</div>{reason}{quote}</div>
{sure}</li>"""


def _contests(contests: Sequence[WireContest], language: Language) -> str:
    if not contests:
        return ""
    said = []
    for contest in contests:
        about = (
            _t(language, "contest_all")
            if contest.point is None
            else _t(language, "contest_point", point=contest.point)
        )
        after = f'<span class="lm-badge">{_t(language, f"contest_{contest.state}")}</span>'
        said.append(f"<li><strong>{about}</strong> <q>{escape(contest.text)}</q> {after}</li>")
    title = f"<h4>{_t(language, 'contests')}</h4>"
    return f'<div class="lm-contests">{title}<ul>{"".join(said)}</ul></div>'


def _keys(same_as: int, language: Language) -> str:
    same = ""
    if same_as:
        same = (
            '<label class="lm-same"><input type="checkbox" class="lm-identical" checked> '
            f"<kbd>i</kbd> {_t(language, 'same', count=same_as)}</label>"
        )
    buttons: Sequence[tuple[str, str, str]] = (
        ("accept", "a", "lm-primary"),
        ("undo", "u", ""),
        ("previous", "k", ""),
        ("next", "j", ""),
    )
    made = "".join(_button(language, *button) for button in buttons)
    hint = f'<span class="lm-muted"><kbd>1</kbd>–<kbd>9</kbd> {_t(language, "toggles")}</span>'
    return f'<footer class="lm-keys">{same}<div>{made}{hint}</div></footer>'


def _button(language: Language, name: str, key: str, style: str = "") -> str:
    return (
        f'<button type="button" data-do="{name}" class="{style}"><kbd>{key}</kbd> '
        f"{_t(language, name)}</button>"
    )
