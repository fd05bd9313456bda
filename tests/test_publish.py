"""bench/publish.py on a server without a model: pieces, and no text in what is published."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import toy_run
from terminal_session import ROOT
from test_leaderboard import publish

from llmarking.datasets import finding as datasets
from llmarking.engines.scripted import ScriptedEngine
from llmarking.errors import InputError
from llmarking.terminal import ExitCode

MODEL = "SmolLM2-1.7B-Instruct"  # of the catalogue, without an adapter that ships


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script with two runs to make, which writes into a folder of its own."""
    module = publish()
    monkeypatch.setattr(module, "SHOTS", {"EXAMPLE": ("0", "1")})
    monkeypatch.setattr(module, "MODELS", (MODEL,))
    monkeypatch.setattr(module, "PUBLISHED", tmp_path / "published")
    monkeypatch.setattr(module, "PAGE", tmp_path / "results.md")
    monkeypatch.setenv("LLMARKING_DATA", str(ROOT / "data"))
    return module


def server(live_server_factory: Callable[..., str], model: str = MODEL) -> str:
    engine = ScriptedEngine()
    object.__setattr__(engine.info, "model", model)
    return live_server_factory(engine)


def test_runs_are_made_in_pieces_and_published(
    tool: ModuleType,
    live_server_factory: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Stopped after a moment, gone on with, and published once they are whole."""
    work = str(tmp_path / "work")
    options = ["--url", server(live_server_factory), "--work", work, "--methods", "verdict"]
    assert tool.main([*options, "--shots", "0", "--limit", "2"]) == ExitCode.OK
    assert not (tmp_path / "published").exists()
    capsys.readouterr()
    assert tool.main([*options, "--plan"]) == ExitCode.OK
    assert capsys.readouterr().out.splitlines() == [
        f"   20 of   140  {MODEL}  verdict  EXAMPLE  -n 0",
        f"    0 of   140  {MODEL}  verdict  EXAMPLE  -n 1",
    ]
    assert tool.main(options) == ExitCode.OK
    found = sorted((tmp_path / "published").rglob("metrics.json"))
    names = [path.parent.name for path in found]
    assert names == ["verdict-0-v1", "verdict-1-v1"]
    for path in found:
        assert {p.name for p in path.parent.iterdir()} == {"metrics.json", "run.json", "plots"}
        measured = json.loads(path.read_text("utf-8"))
        kept = Path(work) / path.relative_to(tmp_path / "published")
        assert measured == json.loads(kept.read_text("utf-8"))
    page = (tmp_path / "results.md").read_text("utf-8")
    assert page.count(f"**{MODEL}**") == 2
    # With the answers somewhere else, the page is still made from what is published.
    assert tool.main(["--page", "--work", str(tmp_path / "nothing")]) == ExitCode.OK
    assert (tmp_path / "results.md").read_text("utf-8") == page


def test_time_that_is_over_ends_a_run(
    tool: ModuleType, live_server_factory: Callable[..., str], tmp_path: Path
) -> None:
    options = ["--url", server(live_server_factory), "--work", str(tmp_path / "work")]
    assert tool.main([*options, "--minutes", "0.0001"]) == ExitCode.PARTIAL


def test_the_model_has_to_be_the_one(
    tool: ModuleType,
    live_server_factory: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = server(live_server_factory, "another")
    assert tool.main(["--url", url, "--work", str(tmp_path)]) == ExitCode.BAD_INPUT
    assert "runs another" in capsys.readouterr().err


def test_the_prose_method_is_run_on_the_bare_model() -> None:
    module = publish()
    prose, verdict = (module.Job(module.MODELS[0], m, "INT", "0") for m in ("prose", "verdict"))
    assert (prose.flags, verdict.flags) == (("--no-adapter",), ())
    assert prose.adapter is None
    assert verdict.adapter is not None
    assert module.Job(MODEL, "prose", "INT", "0").flags == ()


def test_runs_with_another_adapter_are_other_runs(tmp_path: Path) -> None:
    """After an adapter was trained anew under another name, everything is run again."""
    module = publish()
    job = module.Job(module.MODELS[0], "verdict", "INT", "0")
    what = {"course": "INT", "model": job.model, "adapter": "old"}
    folder = toy_run.write(tmp_path / "INT" / "m+old" / "verdict-0-v1", **what)
    assert job.folder(tmp_path) is None
    toy_run.write(tmp_path / "INT" / "m+new" / "verdict-0-v1", **{**what, "adapter": job.adapter})
    assert job.folder(tmp_path) not in (None, folder)


@pytest.mark.parametrize("which", ["answer", "question", "reference", "example"])
def test_text_of_a_course_is_not_published(tmp_path: Path, which: str) -> None:
    """Neither as it stands nor as JSON writes it."""
    module = publish()
    course = datasets.load(str(ROOT / "data" / "examples" / "course.json"))
    question = course.questions[0]
    text = {
        "answer": next(a.text for a in course.answers if len(a.text) > 60),
        "question": question.text,
        "reference": question.points[0].cases[0],
        "example": question.examples[0].answer,
    }[which]
    target = module.Target(tmp_path, course)
    for content in (f"x {text} y", json.dumps({"a": text})):
        with pytest.raises(InputError, match="not published"):
            target.write("run.json", content)
    assert list(tmp_path.iterdir()) == []
    target.write("run.json", json.dumps(toy_run.record()))
    target.write("report.md", text)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
