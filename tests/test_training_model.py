"""Log-odds read from packed rows are those of every answer by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llmarking.errors import InputError
from llmarking.training.model import (
    add_lora,
    attention_mask,
    check_quantize,
    collate,
    read_odds,
    readouts,
)
from llmarking.training.rows import Row, Segment
from llmarking.training.settings import TrainingSettings

TOKENS = (7, 9)


@pytest.fixture(scope="module")
def model() -> Any:
    """A model of two layers in 32 bits, with weights large enough to tell places apart."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(8)
    return model


def segment(name: str, ids: tuple[int, ...], rows: tuple[int, ...]) -> Segment:
    labels = tuple(i % 2 == 0 for i in rows)
    return Segment(ids, rows, labels, (1.0,) * len(rows), name, tuple(range(1, len(rows) + 1)),
                   (None,) * len(rows))  # fmt: skip


HEAD = (3, 14, 15, 9, 2, 6)
SEGMENTS = (
    segment("a", (5, 35, 8, 9, 7, 9), (2, 5)),
    segment("b", (32, 38, 4), (1, 2)),
    segment("c", (6, 26, 43, 38, 32), (4,)),
)


def alone(model: Any, part: Segment) -> list[float]:
    """Log-odds from the plain model, without any mask or position of ours."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*HEAD, *part.ids]])).logits[0]
    return [
        float(logits[len(HEAD) + at, TOKENS[0]] - logits[len(HEAD) + at, TOKENS[1]])
        for at in part.rows
    ]


def test_answers_in_one_row_are_read_as_if_each_were_alone(model: Any) -> None:
    rows = [
        Row(HEAD, SEGMENTS, "course/Q1", "points"),
        Row(HEAD[:4], SEGMENTS[1:2], "course/Q2", "whole"),
    ]
    found = {
        (r.group, r.answer, r.point): r.odds for r in readouts(model, rows, TOKENS, "cpu", 1000)
    }
    for part in SEGMENTS:
        expected = alone(model, part)
        for point, odds in zip(part.points, expected, strict=True):
            assert found["course/Q1", part.answer, point] == pytest.approx(odds, abs=1e-3)
    # Another head, another reading: the figures above are not equal because nothing matters.
    assert found["course/Q2", "b", 1] != pytest.approx(found["course/Q1", "b", 1], abs=1e-2)


def test_a_readout_carries_the_teachers_verdict(model: Any) -> None:
    found = readouts(model, [Row(HEAD, SEGMENTS, "g", "points")], TOKENS, "cpu", 1000)
    assert [(r.answer, r.point, r.label) for r in found] == [
        ("a", 1, True),
        ("a", 2, False),
        ("b", 1, False),
        ("b", 2, True),
        ("c", 1, True),
    ]


def test_reading_leaves_the_model_as_it_was(model: Any) -> None:
    model.train()
    readouts(model, [Row(HEAD, SEGMENTS, "g", "points")], TOKENS, "cpu", 1000)
    assert model.training
    model.eval()


def test_the_mask_shows_head_and_own_answer_only() -> None:
    mask = attention_mask(torch.tensor([[0, 0, 1, 1, 2, -1]]), torch.float32)[0, 0] == 0
    assert mask.int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]


def test_gradients_are_the_same_packed_and_alone(model: Any) -> None:
    """What is learnt from a packed row is what would be learnt from its answers one by one."""
    from peft import get_peft_model_state_dict

    settings = TrainingSettings(rank=2, dropout=0.0, targets=("q_proj", "v_proj"))
    torch.manual_seed(5)
    tuned = add_lora(model, settings, checkpointing=False).train()
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)

    def gradients(rows: list[Row]) -> dict[str, Any]:
        tuned.zero_grad()
        for row in rows:
            read_odds(tuned, collate([row]), TOKENS).sum().backward()
        return {n: p.grad.clone() for n, p in tuned.named_parameters() if p.grad is not None}

    packed = gradients([Row(HEAD, SEGMENTS, "g", "points")])
    single = gradients([Row(HEAD, (part,), "g", "points") for part in SEGMENTS])
    assert len(packed) == len(get_peft_model_state_dict(tuned)) == 8
    for name, gradient in packed.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(single[name], gradient, atol=1e-3, rtol=1e-3)


def test_four_bits_need_a_gpu() -> None:
    with pytest.raises(InputError, match="--qlora needs a CUDA GPU"):
        check_quantize("cpu")
