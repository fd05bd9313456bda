"""What the documents say is so: flags, commands, links, variables, and the tree of files."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType

import pytest
from adapter_files import adapter_folder
from conftest import ServerFactory

from llmarking.server import serve
from llmarking.store.database import Store

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
DOCUMENTS = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
ENTRY_SCRIPTS = (
    "vllm_client.py",
    "student_entry.py",
    "teacher_entry.py",
    "eval_short_batched.py",
    "finetune.py",
    "scripts/demo.py",
    "bench/publish.py",
)

# Flags in the documents that belong to others.
VLLM_FLAGS = {
    "--max-lora-rank",
    "--distributed-executor-backend",
    "--max-loras",
    "--max-cpu-loras",
    "--tensor-parallel-size",
    "--pipeline-parallel-size",
    "--data-parallel-size",
    "--max-model-len",
    "--gpu-memory-utilization",
    "--trust-remote-code",
}
OTHER_FLAGS = {"--build-arg", "--profile", "--build-context"}  # docker


def load(script: str) -> ModuleType:
    """Import a script that is not on the path."""
    name = "script_" + Path(script).stem
    spec = importlib.util.spec_from_file_location(name, ROOT / script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The argument parsers of all entry scripts."""
    found = {script: load(script)._parser() for script in ENTRY_SCRIPTS}
    return {"vllm_server.py": serve.parser(), **found}


def flags(parser: argparse.ArgumentParser) -> set[str]:
    """Its long flags."""
    given = {name for action in parser._actions for name in action.option_strings}
    return {name for name in given if name.startswith("--")}


def blocks(language: str, text: str = TEXT) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(text: str = TEXT) -> Iterator[str]:
    """The command lines in the shell blocks, without comments; a quotation may span lines."""
    for block in blocks("sh", text):
        whole = ""
        for line in block.splitlines():
            whole += line
            try:
                words = shlex.split(whole, comments=True)
            except ValueError:  # an open quotation
                whole += "\n"
                continue
            if words:
                yield whole
            whole = ""
        assert not whole, f"an open quotation: {whole}"


@pytest.mark.parametrize("script", ["vllm_server.py", *ENTRY_SCRIPTS])
def test_every_flag_is_documented(script: str) -> None:
    undocumented = {flag for flag in flags(parsers()[script]) if not names(TEXT, flag)}
    assert undocumented == set(), f"{script}: say in README.md or docs/ what these flags do"


def names(text: str, flag: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", text) is not None


def test_every_documented_flag_exists() -> None:
    known = set().union(*map(flags, parsers().values())) | VLLM_FLAGS | OTHER_FLAGS
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", TEXT))
    assert named - known == set()


@pytest.mark.slow
def test_the_flags_of_vllm_exist() -> None:
    """Its own list of engine arguments has those that our documents name."""
    pytest.importorskip("vllm")
    listed = subprocess.run(
        [sys.executable, str(ROOT / "vllm_server.py"), "--engine-help"],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    ).stdout
    assert {flag for flag in VLLM_FLAGS if not names(listed, flag)} == set()


def test_every_variable_of_ours_is_documented() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("llmarking/**/*.py"))
    used = set(re.findall(r"\"(LLMARKING_[A-Z_]+)\"", code))
    assert used - set(re.findall(r"`(LLMARKING_[A-Z_]+)`", TEXT)) == set()


def test_links_lead_somewhere() -> None:
    """Relative links and their anchors; what `make check` looks at as well."""
    checker = load("scripts/check_docs.py")
    for document in DOCUMENTS:
        assert list(checker.broken_links(document)) == [], document.name


def test_figures_in_tables_are_in_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all documents; and a figure that no file holds, or another section's, is found."""
    checker = load("scripts/check_docs.py")
    for document in DOCUMENTS:
        assert list(checker.unknown_figures(document)) == [], document.name
    monkeypatch.setattr(checker, "ROOT", tmp_path)
    for name, number in (("one", 0.8865), ("two", 0.25)):
        (tmp_path / "results" / name).mkdir(parents=True)
        (tmp_path / "results" / name / "a.json").write_text(json.dumps({"x": [{"y": number}]}))
    page = tmp_path / "page.md"
    table = "\n| what | figure | × a |\n|---|---|---|\n| c | {} | 9.99 |\n"
    for figure, where, wrong in (
        *(("0.887", "one", False), ("0.89", "one", False), ("88.7 %", "one", False)),
        *(("0.885", "one", True), ("0.887", "two", True), ("88.7", "one", True)),
    ):
        page.write_text(
            f"# A\n\n`results/one/`\n\n## B\n\nIn `results/{where}`.\n{table}".format(figure)
        )
        assert bool(list(checker.unknown_figures(page))) == wrong, (figure, where)
    page.write_text(f"# A\n\n`results/one/`\n\n## B\n{table}".format("0.885"))
    (fault,) = checker.unknown_figures(page)
    assert fault == "says 0.885 in a table, which is not in results/one"
    page.write_text(f"# A\n\n## B\n{table}".format("0.885"))
    assert list(checker.unknown_figures(page)) == []


def test_no_document_names_a_place_of_one_machine() -> None:
    """Absolute paths are made up, and addresses are those of an example."""
    homes = re.findall(r"/(?:home|root|Users|tmp|work)/[\w/]*", TEXT)
    assert homes == []


def tree() -> list[tuple[str, str]]:
    """The entries of the README's tree of files with their comments."""
    (block,) = [b for b in blocks("text", README.read_text("utf-8")) if "LICENSE " in b]
    entries: list[tuple[str, str]] = []
    folders: list[str] = []
    for line in block.splitlines():
        name, _, comment = line.strip().partition("  ")
        depth = (len(line) - len(line.lstrip())) // 2
        del folders[depth:]
        if name.endswith("/"):
            folders.append(name)
            if not comment:
                continue
        prefix = "".join(folders[:depth])
        entries += [(prefix + part, comment.strip()) for part in name.split()]
    return entries


def test_the_tree_is_the_repository() -> None:
    """Every file is under an entry of the tree, every entry is there, and each has a comment."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    files = [name for name in listed.split("\0") if name and (ROOT / name).exists()]
    entries = tree()
    silent = [name for name, comment in entries if not comment]
    assert silent == [], "say what these are for"

    def covers(entry: str, file: str) -> bool:
        return file.startswith(entry) if entry.endswith("/") else fnmatch(file, entry)

    missing = [f for f in files if not any(covers(entry, f) for entry, _ in entries)]
    assert missing == [], "add these to the tree in README.md"
    gone = [
        entry
        for entry, _ in entries
        if not any(covers(entry, f) for f in files) and not (ROOT / entry).exists()
    ]
    assert gone == [], "take these out of the tree in README.md"


def test_the_example_of_a_course_can_be_read(tmp_path: Path) -> None:
    from llmarking.datasets import courses

    (block,) = [b for b in blocks("json", README.read_text("utf-8")) if "llmarking-course" in b]
    path = tmp_path / "my_course.json"
    path.write_text(block, encoding="utf-8")
    assert [a.id for a in courses.read(path).answers] == ["anna", "ben"]


NOT_RUN = {"conda", "docker", "pip", "source"}


def words_of(command: str) -> list[str]:
    """The words without comments, variables set before them, and what catches the output."""
    words = shlex.split(command.partition(" > ")[0], comments=True)
    while re.match(r"\w+=", words[0]):
        words.pop(0)
    return words


def runnable() -> list[str]:
    """Commands that can be tried here, in the order of the documents."""
    return [command for command in dict.fromkeys(commands()) if words_of(command)[0] not in NOT_RUN]


@pytest.mark.parametrize("command", runnable())
def test_commands_run(
    command: str, live_server_factory: ServerFactory, store: Store, tmp_path: Path
) -> None:
    """They end well on the engine without a model; make's targets and the server's flags exist."""
    words = words_of(command)
    if words[0] == "make":
        goals = [word for word in words[1:] if "=" not in word]
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        assert set(goals) <= set(targets)
        return
    if words[0] == "python" and words[1] == "vllm_server.py" and "--list-models" not in words:
        given = [word for word in words[2:] if word != "&"]
        _, extra = serve.parser().parse_known_args(given)
        assert {word for word in extra if word.startswith("-")} <= VLLM_FLAGS
        return
    adapter_folder(tmp_path / "adapters" / "biology")
    url = live_server_factory(
        store=store, admin_keys=("the-admin-key",), adapter_folder=tmp_path / "adapters"
    )
    if words[0] == "curl":
        if shutil.which("curl") is None:
            pytest.skip("no curl here")
        words[1:] = [word.replace("http://127.0.0.1:8000", url) for word in words[1:]]
        words[1:1] = ["--fail-with-body", "--silent", "--show-error", "--max-time", "30"]
        assert any(url in word for word in words)
    else:
        assert words[0] == "python", f"how is this tried? {command}"
        words[:2] = [sys.executable, str(ROOT / words[1])]
        if words[1].endswith("demo.py"):
            words += ["--url", url, "--limit", "1"]
        if words[1].endswith("refresh_readme.py"):
            readme = tmp_path / "README.md"
            shutil.copy(README, readme)
            words += ["--url", url, "--readme", str(readme)]
    for block in blocks("json", README.read_text("utf-8")):
        (tmp_path / "my_course.json").write_text(block, encoding="utf-8")
    result = subprocess.run(
        words,
        cwd=tmp_path,
        env=os.environ | {"LLMARKING_URL": url, "NO_COLOR": "1"},
        input="What is osmosis?\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout


def test_python_examples_run(
    live_server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those for our own client; OpenAI's needs a model, and is tested with one."""
    monkeypatch.setenv("LLMARKING_URL", live_server)
    examples = [block for block in blocks("python") if "llmarking" in block]
    assert examples
    for example in examples:
        exec(compile(example, "example", "exec"), {})
    assert "of 1" in capsys.readouterr().out


def test_the_graded_answer_can_be_refreshed(live_server: str, tmp_path: Path) -> None:
    """Its command is run as it stands, and only what it printed is replaced."""
    readme = tmp_path / "README.md"
    shutil.copy(README, readme)
    script = ROOT / "scripts" / "refresh_readme.py"
    subprocess.run(
        [sys.executable, str(script), "--url", live_server, "--readme", str(readme)],
        check=True,
        timeout=60,
    )
    before, after = README.read_text("utf-8"), readme.read_text("utf-8")
    begin, end = "<!-- graded answer -->", "<!-- end of graded answer -->"
    assert before.partition(begin)[0] == after.partition(begin)[0]
    assert before.partition(end)[2] == after.partition(end)[2]
    shown = after.partition(begin)[2].partition(end)[0]
    assert "Total" in shown
    assert "scripted" in shown
    assert max(map(len, shown.splitlines()[3:])) <= 80


def test_the_graded_answer_is_that_of_the_default_model() -> None:
    from llmarking.models.catalogue import default_model

    shown = README.read_text("utf-8").partition("<!-- graded answer -->")[2]
    shown = shown.partition("<!-- end of graded answer -->")[0]
    assert default_model().name in shown
    assert re.search(r"^Total [\d.]+ / [\d.]+$", shown, re.MULTILINE)


def test_problem_statuses_are_documented() -> None:
    """Every status that the code gives its errors is in the API's table."""
    api = (ROOT / "docs" / "api.md").read_text("utf-8")
    modules = ("protocol/problems.py", "server/middleware.py")
    code = "\n".join((ROOT / "llmarking" / name).read_text("utf-8") for name in modules)
    statuses = set(re.findall(r"\b[45]\d\d\b", code)) - {"400"}
    assert {"401", "413", "422", "429", "503"} <= statuses
    for status in statuses:
        assert f"| {status} |" in api


def test_json_blocks_are_json() -> None:
    for block in blocks("json"):
        json.loads(block)
