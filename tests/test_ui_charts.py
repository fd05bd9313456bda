"""Small pictures of a class: right numbers, also for no class at all."""

from __future__ import annotations

import re

from llmarking.protocol.courses import (
    AgreementSummary,
    HistogramBin,
    PointSummary,
    QuestionSummary,
)
from llmarking.ui.charts import agreement, difficulty, histogram, progress


def test_the_highest_bar_is_the_fullest_bin() -> None:
    bins = [
        HistogramBin(start=n / 4, end=(n + 1) / 4, answers=c) for n, c in enumerate((0, 5, 10, 1))
    ]
    html = histogram(bins, "en")
    heights = [float(height) for height in re.findall(r"height:([\d.]+)%", html)]
    assert heights == [0.0, 38.0, 76.0, 7.6]
    assert "25–50 %: 5" in html
    assert 'aria-label="Distribution of the marks of 16 answers"' in html


def test_the_hardest_question_comes_first() -> None:
    questions = [
        QuestionSummary(
            code="EASY", answers=3, mean=0.9, points=[PointSummary(id=1, held=0.9, disagreed=None)]
        ),
        QuestionSummary(
            code="HARD<", answers=3, mean=0.2, points=[PointSummary(id=1, held=0.2, disagreed=0.5)]
        ),
    ]
    html = difficulty(questions, "en")
    assert html.index("HARD&lt;") < html.index("EASY")
    assert "50 %" in html


def test_agreement_is_told_once_there_is_some() -> None:
    none = AgreementSummary(verdicts=0, agree=0, kappa=None)
    assert "Nothing can be compared yet" in agreement(none, "en")
    said = agreement(AgreementSummary(verdicts=12, agree=9, kappa=0.5), "en")
    assert "Of 12 verdicts" in said
    assert "9 right (75 %)" in said
    assert "0.50" in said
    assert "kappa" not in agreement(AgreementSummary(verdicts=1, agree=1, kappa=None), "en")


def test_nothing_graded_is_said_in_words() -> None:
    empty = [HistogramBin(start=0, end=1, answers=0)]
    assert "Nothing is graded yet." in histogram(empty, "en")
    assert "尚无评分结果" in difficulty([], "zh")


def test_progress_counts_failures_as_done() -> None:
    html = progress(6, 2, 16, "6 of 16 <b>")
    assert "width:50.00%" in html
    assert 'aria-valuenow="8"' in html
    assert "6 of 16 &lt;b&gt;" in html
    assert "width:0.00%" in progress(0, 0, 0, "")
