"""Explains a verdict that stands: the model writes a quotation and a sentence for a point.

The quotation counts if the answer holds it word for word; whatever is written, the verdict stays.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from llmarking.domain import Question, Sampling, Verdict
from llmarking.engines.engine import Engine, last
from llmarking.grading import evidence
from llmarking.grading.prompting import Slots, Template, chat_ids
from llmarking.grading.request_ids import request_id

EXPLAIN_TOKENS = 160
EXPLANATION: dict[str, Any] = {
    "type": "object",
    "properties": {
        "quote": {"type": "string", "maxLength": 300},
        "reason": {"type": "string", "maxLength": 400},
    },
    "required": ["quote", "reason"],
    "additionalProperties": False,
}


async def explain(
    engine: Engine,
    template: Template,
    question: Question,
    answer: str,
    verdict: Verdict,
    bar: float,
) -> tuple[Verdict, int, int]:
    """Evidence and reason for a verdict that stands: `held` cannot change any more.

    Args:
        answer: as it was graded, see `screening`.
        bar: how probable a verdict must be to go without a review.

    Returns:
        The verdict with what was found, and the tokens of prompt and reply.
    """
    slots = Slots()
    variables = {
        "question": slots.hold(question.text),
        "point": slots.hold(verdict.point.text),
        "held": bool(verdict.held),
        "answer": slots.hold(answer),
    }
    ids = chat_ids(template, variables, slots, engine.tokenizer)
    if verdict.raw is None or len(ids) + EXPLAIN_TOKENS > engine.info.context:
        # The answer is empty, or there is no room for a reason.
        return verdict, 0, 0
    generation = await last(
        engine.generate(
            ids,
            Sampling(max_tokens=EXPLAIN_TOKENS),
            request_id=request_id("explain"),
            schema=EXPLANATION,
        )
    )
    quote, reason = _parts(generation.completions[0].text)
    found = evidence.locate(quote, answer) if verdict.held and quote else None
    probability = verdict.probability
    if verdict.held and found is None and probability is not None:
        # Nothing in the answer could be pointed at: half as far from a coin flip as before.
        probability = 0.5 + (probability - 0.5) / 2
    explained = replace(
        verdict,
        evidence=found,
        reason=reason or None,
        probability=probability,
        needs_review=verdict.needs_review
        or (probability is not None and max(probability, 1 - probability) < bar),
    )
    return explained, generation.prompt_tokens, generation.completion_tokens


def _parts(text: str) -> tuple[str, str]:
    """Quote and reason from a reply that follows the schema, or was cut off in the middle of it."""
    try:
        data = json.loads(text)
    except ValueError:
        return "", ""
    if not isinstance(data, dict):
        return "", ""
    return str(data.get("quote", "")).strip(), " ".join(str(data.get("reason", "")).split())
