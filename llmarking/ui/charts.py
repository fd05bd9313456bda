"""Small pictures of a class as HTML: they follow the theme, need no script, and read well aloud."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from llmarking.protocol.courses import AgreementSummary, HistogramBin, QuestionSummary
from llmarking.ui.texts import Language, say


def histogram(bins: Sequence[HistogramBin], language: Language) -> str:
    """Bars of how many answers got which share of the full mark."""
    most = max((bin.answers for bin in bins), default=0)
    if not most:
        return _nothing(language)
    bars = []
    for each in bins:
        share = f"{100 * each.start:.0f}–{100 * each.end:.0f} %"
        height = 76 * each.answers / most  # leaves room for the number above and the share below
        bars.append(
            f'<div class="lm-bar" title="{share}: {each.answers}"><span>{each.answers or ""}</span>'
            f'<i style="height:{height:.1f}%"></i><small>{share}</small></div>'
        )
    told = _t(language, "histogram_told", count=sum(each.answers for each in bins))
    return f'<figure class="lm-chart" role="img" aria-label="{told}">{"".join(bars)}</figure>'


def difficulty(questions: Sequence[QuestionSummary], language: Language) -> str:
    """A table of questions, the hardest first, each with its points below."""
    if not questions:
        return _nothing(language)
    rows = []
    for question in sorted(questions, key=lambda q: q.mean):
        rows.append(
            f'<tr class="lm-asked"><th scope="row">{escape(question.code)}</th>'
            f"<td>{_bar(question.mean)}</td><td>{question.answers}</td><td></td></tr>"
        )
        for point in question.points:
            disagreed = "" if point.disagreed is None else _percent(point.disagreed)
            rows.append(
                f'<tr><th scope="row">{_t(language, "point", point=point.id)}</th>'
                f"<td>{_bar(point.held)}</td><td></td><td>{disagreed}</td></tr>"
            )
    heads = "".join(
        f'<th scope="col">{_t(language, key)}</th>'
        for key in ("column_question", "column_earned", "column_answers", "column_disagreed")
    )
    return (
        f'<div class="lm-scroll"><table class="lm-table"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def agreement(so_far: AgreementSummary, language: Language) -> str:
    """How often the teacher said what the model had said."""
    if not so_far.verdicts:
        return f"<p>{_t(language, 'agreement_none')}</p>"
    share = _percent(so_far.agree / so_far.verdicts)
    said = _t(language, "agreement", verdicts=so_far.verdicts, agree=so_far.agree, share=share)
    if so_far.kappa is not None:
        said += " " + _t(language, "kappa", kappa=f"{so_far.kappa:.2f}")
    return f"<p>{said}</p>"


def progress(done: int, failed: int, total: int, said: str) -> str:
    """A bar with what it says below it."""
    share = 100 * (done + failed) / total if total else 0
    return (
        f'<div class="lm-progress" role="progressbar" aria-valuemin="0" aria-valuemax="{total}" '
        f'aria-valuenow="{done + failed}"><i style="width:{share:.2f}%"></i></div>'
        f'<p class="lm-said">{escape(said)}</p>'
    )


def _bar(share: float) -> str:
    return (
        f'<div class="lm-share" title="{_percent(share)}"><i style="width:{100 * share:.1f}%"></i>'
        f"<span>{_percent(share)}</span></div>"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _nothing(language: Language) -> str:
    return f'<p class="lm-muted">{_t(language, "nothing_graded")}</p>'


def _t(language: Language, key: str, **values: object) -> str:
    return escape(say(language, key, **values))
