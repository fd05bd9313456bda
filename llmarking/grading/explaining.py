"""Explains a verdict that stands: the words that show the point, and one sentence.

Whatever is written, the verdict stays. The words are found by `evidence`. Of a point that is stated
the model writes the sentence; how it begins, and that it ends, is set by the schema that it is
generated in, as a model that was trained to say nothing but True and False has no other way to
begin one. Of a point that is not stated there is only that to say: a small model asked for more
names things that the answer does say, so the sentence is made here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llmarking.domain import Generation, Question, Sampling, Verdict
from llmarking.engines.engine import Engine, last
from llmarking.grading.prompting import Slots, Template, chat_ids
from llmarking.grading.request_ids import request_id
from llmarking.marks import overlap
from llmarking.screening.languages import function_words, language

EXPLAIN_TOKENS = 120
# A sentence about a point has at least this share of its words, or some and that share of those
# that show it. Words that say nothing by themselves are not counted.
OF_POINT = 0.3
OF_EVIDENCE = 0.5
# A clause at its end has more than this share of its own words from them, or it is a remark.
OF_CLAUSE = 0.5
_COMMA = re.compile(r",\s+|，")
# A word of our prompt, in sentences about the task.
_TASK = "student"
# How the reason for a point that is stated begins; in other languages the model has to find that.
_SAYS: Mapping[str, str] = {
    "English": "The answer says that ",
    "Chinese": "答案说明了",
    "Spanish": "La respuesta dice que ",
    "French": "La réponse dit que ",
    "German": "Die Antwort sagt, dass ",
    "Italian": "La risposta dice che ",
    "Portuguese": "A resposta diz que ",
    "Dutch": "Het antwoord zegt dat ",
}
# The reason for one that is not; every language that an answer is told to be in has one.
_DOES_NOT_SAY: Mapping[str, str] = {
    "English": "The answer does not say: “{}”",
    "Chinese": "答案没有说明：“{}”",
    "Japanese": "答案は次のことを述べていません：「{}」",
    "Korean": "답안에 다음 내용이 없습니다: “{}”",
    "Spanish": "La respuesta no dice: «{}»",
    "French": "La réponse ne dit pas : « {} »",
    "German": "Die Antwort sagt nicht: „{}“",
    "Italian": "La risposta non dice: «{}»",
    "Portuguese": "A resposta não diz: “{}”",
    "Dutch": "Het antwoord zegt niet: ‘{}’",
    "Russian": "В ответе не сказано: «{}»",
    "Arabic": "لا تذكر الإجابة: «{}»",
    "Hebrew": "התשובה אינה אומרת: ”{}”",
    "Greek": "Η απάντηση δεν λέει: «{}»",
    "Hindi": "उत्तर में यह नहीं कहा गया है: “{}”",
    "Thai": "คำตอบไม่ได้กล่าวว่า “{}”",
}


def explanation(spoken: str) -> dict[str, Any]:
    """The schema of a reason in a language: one sentence, and how it begins."""
    beginning = _SAYS.get(spoken, "")
    # Up to the first full stop; a dot before a digit is none. Its length is left to the number of
    # tokens: the grammar of a long counted repetition takes seconds to compile, or fails to.
    ideographs = spoken in ("Chinese", "Japanese")
    rest = r'[^"\\\n。]+。' if ideographs else r'([^"\\\n.]|\.[0-9])+\.'
    return {
        "type": "object",
        "properties": {"reason": {"type": "string", "pattern": f"^{beginning}{rest}$"}},
        "required": ["reason"],
        "additionalProperties": False,
    }


async def explain(
    engine: Engine,
    template: Template,
    question: Question,
    answer: str,
    verdict: Verdict,
    quote: str | None,
    bar: float,
) -> tuple[Verdict, Generation | None]:
    """Evidence and reason for a verdict that stands: `held` cannot change any more.

    Args:
        answer: as it was graded, see `screening`.
        quote: the words of it that show the point.
        bar: how probable a verdict must be to go without a review.

    Returns:
        The verdict with what was found, and what the model wrote for it, if it was asked.
    """
    if verdict.raw is None:
        # The answer is empty: there is nothing to explain.
        return verdict, None
    probability = verdict.probability
    if verdict.held and quote is None and probability is not None:
        # Nothing in the answer could be pointed at: half as far from a coin flip as before.
        probability = 0.5 + (probability - 0.5) / 2
    explained = replace(
        verdict,
        evidence=quote,
        probability=probability,
        needs_review=verdict.needs_review
        or (probability is not None and max(probability, 1 - probability) < bar),
    )
    spoken = language(answer, question)
    if not verdict.held:
        told = _DOES_NOT_SAY[spoken].format(verdict.point.text)
        return replace(explained, reason=told), None
    if quote is None:
        # What shows the point is not known, and about the rest of the answer nothing is to be said.
        return explained, None
    slots = Slots()
    variables = {
        "question": slots.hold(question.text),
        "point": slots.hold(verdict.point.text),
        "answer": slots.hold(quote),
        "language": spoken,
    }
    ids = chat_ids(template, variables, slots, engine.tokenizer)
    if len(ids) + EXPLAIN_TOKENS > engine.info.context:
        # There is no room for a reason.
        return explained, None
    generation = await last(
        engine.generate(
            ids,
            Sampling(max_tokens=EXPLAIN_TOKENS),
            request_id=request_id("explain"),
            schema=explanation(spoken),
        )
    )
    reason = _reason(generation.completions[0].text)
    # Words can be compared in one language only.
    if reason and language(verdict.point.text, question) == spoken:
        reason = _about_the_point(reason, spoken, question, verdict, quote)
    return replace(explained, reason=reason), generation


def _reason(text: str) -> str | None:
    """The sentence in a reply that follows the schema; None if it was cut off in the middle."""
    try:
        data = json.loads(text)
    except ValueError:
        return None
    if not isinstance(data, dict):
        return None
    return " ".join(str(data.get("reason") or "").split()) or None


def _about_the_point(
    reason: str, spoken: str, question: Question, verdict: Verdict, quote: str
) -> str | None:
    """A sentence without the remarks at its end; None if nothing in it is about the point.

    Small models like to add that something "is the point", and also write about their task.
    """
    empty = function_words(spoken)

    def words(text: str) -> frozenset[str]:
        return overlap.words(text) - empty

    beginning = _SAYS.get(spoken, "")
    start = len(beginning) if reason.startswith(beginning) else 0
    said = reason[start:]
    point = [words(case) for case in verdict.point.cases]
    evidence = words(quote)
    known = evidence.union(*point)
    for comma in reversed(list(_COMMA.finditer(said))):
        share = overlap.share(words(said[comma.end() :]), known)
        if share is not None and share > OF_CLAUSE:
            break
        said = said[: comma.start()] + reason[-1]
    found = words(said)
    if _TASK in found - known - words(question.text):
        return None
    of_point = [overlap.share(case, found) for case in point]
    of_evidence = overlap.share(evidence, found)
    enough = any(share is None or share >= OF_POINT for share in of_point)
    some = any(share is None or share > 0 for share in of_point)
    if enough or (some and (of_evidence is None or of_evidence >= OF_EVIDENCE)):
        return reason[:start] + said
    return None
