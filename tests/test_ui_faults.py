"""Faults in the visitor's language: every English sentence has a Chinese one, for any file."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import re
import string
from collections.abc import Callable, Iterator
from pathlib import Path

import openpyxl
import pytest
from conftest import serving, wait_until
from hostile_files import REFUSED

from llmarking.client import Client, Retry
from llmarking.datasets import courses
from llmarking.datasets.contents import whole_question
from llmarking.engines.scripted import ScriptedEngine
from llmarking.errors import DataError, InputError, RequestRefused, RubricError, ServerUnreachable
from llmarking.rubric import parse
from llmarking.sentences import Sentence, chinese_texts, sentence
from llmarking.settings import ServerSettings
from llmarking.store.database import open_store
from llmarking.tables import files as tables
from llmarking.tables.columns import Kind
from llmarking.ui.checking import checked, targets
from llmarking.ui.faults import explained, put
from llmarking.ui.intake import Intake

GOLDEN = sorted(
    path for path in (Path(__file__).parent / "golden").iterdir() if ".graded" not in path.name
)
CHINESE = chinese_texts()
PACKAGE = Path(__file__).resolve().parents[1] / "llmarking"
# Names that are made and not written down.
MADE = ("kind_", "state_", "value_")
# What a teacher does on the pages can fail here.
TOLD = ("tables/*.py", "rubric.py")


def calls(path: Path) -> Iterator[tuple[ast.Call, str]]:
    """Every call in a module, with the name of what is called."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Attribute):
                yield node, function.attr
            elif isinstance(function, ast.Name):
                yield node, function.id


def english() -> dict[str, set[str]]:
    """All texts of every name that the package gives a sentence."""
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for call, name in calls(path):
            if name == "sentence" and len(call.args) == 2:
                code, text = (ast.literal_eval(argument) for argument in call.args)
                found.setdefault(code, set()).add(text)
    return found


def places(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_every_sentence_has_a_chinese_one_with_the_same_places() -> None:
    named = english()
    assert {code: texts for code, texts in named.items() if len(texts) > 1} == {}
    assert set(named) - set(CHINESE) == set()
    assert {code for code in set(CHINESE) - set(named) if not code.startswith(MADE)} == set()
    for code, texts in named.items():
        assert places(CHINESE[code]) == places(*texts), code


def test_every_kind_of_file_has_a_chinese_name() -> None:
    assert {kind.said.code for kind in Kind} == {code for code in CHINESE if code[:5] == "kind_"}


def test_what_is_raised_over_files_has_a_name() -> None:
    """An English text alone, where a page would have to show it."""
    bare = []
    for path in (path for pattern in TOLD for path in PACKAGE.glob(pattern)):
        for call, name in calls(path):
            first = call.args[0] if call.args else None
            raises = name in ("DataError", "RubricError", "InputError", "fault", "_fault", "_Fault")
            if raises and isinstance(first, ast.Constant | ast.JoinedStr):
                bare.append((path.name, call.lineno))
    assert bare == []


def refused(data: bytes, name: str) -> DataError:
    """The fault of an answers file."""
    asked = [whole_question("Q1", "Why?", ["because"], 2.0)]
    try:
        upload = tables.detect(data, name)
        tables.class_from(upload, upload.columns, asked)
    except DataError as fault:
        return fault
    pytest.fail("it was not refused")


# Of a file and of formats; headers and cells are in quotes.
OURS = (
    r"x\.\w+|xl/[\w/]+\.xml|UTF-\d+|CSV|\.?xlsx?|HTML|MB|id|BadZipFile|['“][^'”]*['”]|question_code"
)


def foreign(said: str) -> list[str]:
    """Words that are neither Chinese nor names."""
    return re.findall(r"[A-Za-z]{2,}", re.sub(OURS, "", said))


@pytest.mark.parametrize("name", REFUSED)
def test_hostile_files_are_refused_in_chinese(name: str) -> None:
    file, data = REFUSED[name]
    fault = refused(data(), file)
    said = explained("zh", fault)
    assert said.startswith(file)
    assert foreign(said) == []
    if fault.line is not None:
        assert f"第 {fault.line} 行" in said
    if fault.column is not None and not isinstance(fault.column, Sentence):
        assert f"“{fault.column}”列" in said
    assert explained("en", fault) == str(fault)


def test_place_fault_and_advice() -> None:
    said = explained("zh", refused(REFUSED["formula"][1](), "x.xlsx"))
    assert said == ("x.xlsx 第 3 行 “answer”列：含有公式；请替换为数值（复制，再选择性粘贴为数值）")
    untitled = refused(b"id,answer,\n01,yes,,no\n", "x.csv")
    assert "第 4 列" in explained("zh", untitled)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_platforms_files_are_described_in_chinese(path: Path) -> None:
    upload = tables.detect(path.read_bytes(), path.name)
    asked = [
        whole_question(item.key, f"{n}?", ["x"]) for n, item in enumerate(upload.columns.items)
    ]
    notes = list(upload.notes)
    if asked:
        try:
            notes += tables.class_from(upload, upload.columns, asked).notes
        except DataError as error:
            notes.append(error.message)
    for text in (upload.kind.said, upload.form, *notes):
        assert isinstance(text, Sentence), text
        assert put("zh", text) != text


def test_the_check_step_is_in_chinese_throughout() -> None:
    made = Intake()
    made.sample()
    said = re.sub(r"<[^>]+>", " ", checked(made, "zh") + targets(made, "zh"))
    ours = r"EXAMPLE_CSV\d\.csv|LLMarking( mark| feedback)?|UTF-8|BOM|StudentAns|ManualScore"
    assert re.findall(r"[A-Za-z]{3,}", re.sub(ours, "", said)) == []
    made.remap(student=None, names=[], code=None, answers=[], mark=None, feedback=None)
    assert "缺失" in checked(made, "zh")
    assert "is missing" in checked(made, "en")


@pytest.mark.parametrize(
    "markup",
    [
        "no points",
        "<Point1:2><Point1:2>",
        "<Point1:2>a<Point1:3>",
        "<Point1:2>a<Point1:2><Point1:2>b<Point1:2>",
        "<Point1:2>a<Point1:2><Point1_case1:2>b<Point1_case1:2>",
        "<Point1_case1:2>a<Point1_case1:2><Point1_case2:3>b<Point1_case2:3>",
        "<Point2:1>a<Point2:1>",
        "<Point1:x>a<Point1:x>",
        "<Point0:1>a<Point0:1>",
        "<Point1:1>a",
        "<Point1:1>a<Point2:1>",
        "<Point1:1>a<Point1:1>",
    ],
)
def test_points_at_fault_are_told_in_chinese(markup: str) -> None:
    with pytest.raises(RubricError) as caught:
        parse(markup, 5)
    said = explained("zh", caught.value)
    assert re.findall(r"[A-Za-z]{3,}", re.sub(r"<?\bPoint\w*(:\w+>)?|_case\w*", "", said)) == []


@pytest.mark.parametrize(
    ("course", "said"),
    [
        (b"\xff", "c.json：课程不是 UTF-8 文本"),
        (b"{", "c.json 第 1 行 第 2 列：不是 JSON"),
        ({"questions": []}, "format：缺少这一项"),
        (
            {"questions": [{"code": "", "question": "?", "reference": ""}]},
            "code：至少要有 1 个字符",
        ),
        ({"questions": [{"code": "a", "question": "?", "reference": "x"}]}, "没有得分点"),
    ],
)
def test_a_course_at_fault_is_told_in_chinese(course: object, said: str) -> None:
    if isinstance(course, dict):
        whole = course if not course["questions"] else {"format": "llmarking-course/1", **course}
        course = json.dumps(whole).encode()
    assert isinstance(course, bytes)
    with pytest.raises(DataError) as caught:
        courses.parse(course, "c.json")
    assert said in explained("zh", caught.value)


QUESTION = {
    "code": "Q1",
    "text": "What is a hash table?",
    "reference": "It <Point1:2>stores pairs<Point1:2> and <Point2:1>is fast<Point2:1>.",
}


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, str]]:
    """A server and a class on it that is finished."""
    folder = tmp_path_factory.mktemp("faults")
    with (
        contextlib.closing(open_store(f"sqlite:///{folder / 'a.db'}")) as store,
        serving(ScriptedEngine(), ServerSettings(), store) as server,
        Client(str(server)) as client,
    ):
        answers = [{"student": "1", "name": "", "question": "Q1", "text": "It stores pairs."}]
        job = client.create_job(
            {"course": {"name": "7b"}, "questions": [QUESTION], "answers": answers}
        )
        wait_until(lambda: client.job(job.id).state == "finished")
        yield client, job.course


def edited(client: Client, course: str, **changes: str) -> object:
    return client.regrade(course, [{**QUESTION, **changes}])


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda c, course: c.refit(course), "还没有确认或改动过模型的任何判定；请先决定一些答案"),
        (lambda c, course: c.pause_job(c.jobs(course)[0].id), "评分已完成，不能再暂停"),
        (edited, "不会影响任何分数：题目就是评分时所用的版本"),
        (
            lambda c, course: edited(c, course, reference="It <Point1:2>stores."),
            "questions.0.reference：第 4 个字符处的 Point1 没有用相同的标记关闭",
        ),
        (
            lambda c, course: edited(c, course, reference="x" * 200_001),
            "questions.0.reference：最多 200000 个字符",
        ),
        (lambda c, course: c.questions("gone"), "没有班级 'gone'"),
        (
            lambda c, course: c.add_upload(course, b"", filename="a.csv", kind="answers"),
            "文件是空的；请把内容作为请求正文发送",
        ),
    ],
)
def test_what_the_server_refuses_is_told_in_chinese(
    ask: Callable[[Client, str], object], said: str, graded: tuple[Client, str]
) -> None:
    with pytest.raises(RequestRefused) as caught:
        ask(*graded)
    assert explained("zh", caught.value) == said
    assert str(caught.value) == explained("en", caught.value)


def test_a_server_that_is_away_is_told_in_chinese() -> None:
    client = Client("127.0.0.1:9", retry=Retry(connect=0))
    with client, pytest.raises(ServerUnreachable) as caught:
        client.courses()
    assert "没有服务器应答" in explained("zh", caught.value)


def test_what_has_no_chinese_is_told_in_english() -> None:
    for text in ("a plain text", sentence("of_bytes", "bytes")):
        assert put("en", text) == str(text)
    assert put("zh", "a plain text") == "a plain text"
    assert explained("zh", InputError("a plain text")) == "a plain text"
    # Of a server that is newer than this page, or has other values.
    assert put("zh", Sentence("new", "no_such_name", {})) == "new"
    assert put("zh", Sentence("odd", "too_big", {"limit": "many"})) == "odd"
    assert explained("zh", RequestRefused("no", status=409)) == "no"


def test_values_are_never_taken_for_places() -> None:
    said = put("zh", sentence("used_twice", "{what} is used twice", what="{x} {0.__class__}"))
    assert said == "{x} {0.__class__} 用了两次"


def test_a_gradebook_names_its_faults() -> None:
    out = io.BytesIO()
    openpyxl.Workbook().save(out)
    assert explained("zh", refused(out.getvalue(), "x.xlsx")) == (
        "x.xlsx 第 1 行：是空的；第一行必须是表头"
    )
