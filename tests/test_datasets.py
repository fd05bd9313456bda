"""Every form of data set from tiny files, every fault with its place, and the real ones counted."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from llmarking.datasets import finding as datasets
from llmarking.datasets.courses import Course as PlainCourse
from llmarking.datasets.finding import Course, load
from llmarking.errors import DataError

SECRET = "my grandmother told me that the answer is surely forty-two and nothing else"


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    """A file with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding=encoding, newline="")
    return path


def table(rows: Iterable[Iterable[str]], delimiter: str = ",") -> str:
    """Rows as CSV."""
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows(rows)
    return out.getvalue()


def refused(path: Path, *parts: str) -> DataError:
    """The error of loading a path; it holds every part and little of what a student wrote."""
    with pytest.raises(DataError) as caught:
        load(path)
    message = str(caught.value)
    for part in parts:
        assert part in message, message
    assert SECRET[:41] not in message
    return caught.value


# The original's course folder

QUESTION = {
    "QuestionCode": "A1",
    "Question": "What is a hash table?",
    "Fullmark": "3",
    "RightAnswer": "It <Point1:2>stores pairs<Point1:2> and <Point2:1>is fast<Point2:1>.",
    "Example1": 'Keeps "pairs".\n<Point1:2> *True* (It says (key, value) pairs.)\\n\n'
    "<Point2:9> *False* (No word of speed.)\\n",
    "Example2": 'It is fast.\n<Point1:1> *False* ()\\n\\n<Point2:1> *True* (He says \\"fast\\".)',
    "Example3": "",
}
ANSWER = {
    "QuestionCode": "A1",
    "StudentAns": "Pairs.\n",
    "ManualScore": '2/3 points\n"<Point1:True>,<Point2:False>"',
}


def original(
    root: Path,
    questions: Iterable[dict[str, str]] = (QUESTION,),
    answers: Iterable[dict[str, str]] = (ANSWER,),
    encodings: tuple[str, str] = ("utf-8-sig", "utf-8"),
) -> Path:
    """A course folder."""
    for number, records in enumerate((list(questions), list(answers)), start=1):
        cells = table([list(records[0]), *(r.values() for r in records)])
        write(root / "TINY" / f"TINY_CSV{number}.csv", cells, encodings[number - 1])
    return root / "TINY"


@pytest.mark.parametrize("encodings", [("utf-8", "utf-8-sig"), ("utf-8-sig", "utf-8")])
def test_original(tmp_path: Path, encodings: tuple[str, str]) -> None:
    """Questions, graded examples and answers, whichever file has a byte-order mark."""
    second = {**ANSWER, "StudentAns": "", "ManualScore": "0/3\n<Point1:false>, <Point2:FALSE>\n"}
    course = load(original(tmp_path, answers=[ANSWER, second], encodings=encodings))
    (question,) = course.questions
    assert (course.name, course.title, course.licence) == ("TINY", "TINY", "not stated")
    assert (question.code, question.full_mark) == ("A1", 3)
    assert question.reference == "It stores pairs and is fast."
    assert [(p.id, p.mark, p.cases) for p in question.points] == [
        (1, 2, ("stores pairs",)),
        (2, 1, ("is fast",)),
    ]
    first, other = question.examples
    assert (first.answer, dict(first.verdicts)) == ('Keeps "pairs".', {1: True, 2: False})
    assert first.reasons == {1: "It says (key, value) pairs.", 2: "No word of speed."}
    assert (other.answer, dict(other.verdicts)) == ("It is fast.", {1: False, 2: True})
    assert other.reasons == {2: 'He says "fast".'}
    assert [(a.id, a.text, a.verdicts, a.score) for a in course.answers] == [
        ("A1-1", "Pairs.\n", {1: True, 2: False}, None),
        ("A1-2", "", {1: False, 2: False}, None),
    ]
    assert course.notes == ()
    assert isinstance(course, PlainCourse)
    assert course.answers_to(question) == course.answers
    assert [datasets.teacher_mark(question, a) for a in course.answers] == [2, 0]


def test_original_oddities_are_noted(tmp_path: Path) -> None:
    """A total that does not fit, a verdict given twice and mistyped ids are told, not hidden."""
    example = "Pairs.\n<Point1:2> *True* (a)\n<Point1:2> *False* (b)"
    twice = '3/3 points\n"<Point1:True>,<Point1:True>, <Point2:False>"'
    folder = original(
        tmp_path, [{**QUESTION, "Example1": example}], [{**ANSWER, "ManualScore": twice}]
    )
    course = load(folder)
    assert course.questions[0].examples[0].verdicts == {1: True, 2: False}
    assert course.answers[0].verdicts == {1: True, 2: False}
    ids, twice_alike, total = course.notes
    assert ids == "A1, Example1: its lines name points [1, 1]; their order counts"
    assert twice_alike == "TINY_CSV2.csv, line 2: Point1 is marked twice, alike"
    assert total.startswith("TINY_CSV2.csv, line 2: says 3/3 points, but its verdicts add up to 2 ")


def test_original_without_marks(tmp_path: Path) -> None:
    """Answers that nobody has marked yet."""
    blank = {**ANSWER, "ManualScore": " "}
    assert load(original(tmp_path, answers=[blank])).answers[0].verdicts is None
    no_column = {k: v for k, v in ANSWER.items() if k != "ManualScore"}
    assert load(original(tmp_path, answers=[no_column])).answers[0].verdicts is None


@pytest.mark.parametrize("title", ["StudentAns1", "Student answer", "STUDENT_ANS"])
def test_original_headers(tmp_path: Path, title: str) -> None:
    """The header of the answers differs from course to course."""
    row = {"QuestionCode": "A1", title: "Pairs.", "Manual Score": ANSWER["ManualScore"]}
    assert load(original(tmp_path, answers=[row])).answers[0].text == "Pairs."


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("Fullmark", "many", "line 2, column Fullmark: 'many' is no number"),
        ("Fullmark", "-1", "line 2, column Fullmark: '-1' is no number"),
        ("Fullmark", "nan", "column Fullmark: 'nan' is no number"),
        ("Fullmark", "", "column Fullmark: is empty"),
        ("Fullmark", "4", "column RightAnswer: the points add up to"),
        ("RightAnswer", "no points", "column RightAnswer: the reference answer has no points"),
        ("RightAnswer", "<Point1:3>x", "column RightAnswer: Point1 opened at column 1"),
        ("QuestionCode", " ", "column QuestionCode: is empty"),
        ("Question", "", "column Question: is empty"),
        ("Example1", "just text", "column Example1: has verdicts for points []"),
        ("Example2", "x\n<Point1:2> *True* ()", "column Example2: has verdicts for points [1]"),
        ("Example2", "x\n<Point2:1> *True*\n<Point2:1> *True*\n<Point1:1> *True*", "[2, 2, 1]"),
        ("Example3", "x\n<Point1:2> maybe\n<Point2:1> *True*", "<Point1:2> is followed by neither"),
    ],
)
def test_original_faults_in_questions(
    tmp_path: Path, column: str, value: str, message: str
) -> None:
    """File, line and column of every fault."""
    refused(original(tmp_path, [{**QUESTION, column: value}]), "TINY_CSV1.csv, line 2", message)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (
            "QuestionCode",
            "B7",
            "column QuestionCode: 'B7' is no question of TINY_CSV1.csv; it has A1",
        ),
        ("ManualScore", "2/3 points", "column ManualScore: has verdicts for points []"),
        ("ManualScore", "<Point1:True>,<Point2:Maybe>", "'<Point2:Maybe>' is no verdict"),
        ("ManualScore", "<Point1:True>,<Point3:True>", "points [1, 3]; the reference has [1, 2]"),
        ("ManualScore", "<Point1:True>,<Point1:False>", "Point1 is both True and False"),
        ("ManualScore", f"2/3 points {SECRET}", "is no verdict"),
    ],
)
def test_original_faults_in_answers(tmp_path: Path, column: str, value: str, message: str) -> None:
    """The line is where the record begins, though answers hold line breaks."""
    rows = [{**ANSWER, "StudentAns": "two\nlines"}, {**ANSWER, column: value}]
    refused(original(tmp_path, answers=rows), "TINY_CSV2.csv, line 5", message)


def test_original_code_twice(tmp_path: Path) -> None:
    """Two questions can't share a code."""
    refused(original(tmp_path, [QUESTION, QUESTION]), "column QuestionCode: 'A1' is used twice")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["is empty"]),
        ("\ufeff\n\n", ["is empty"]),
        ("QuestionCode,ManualScore\n", ["line 1, column StudentAns: is missing"]),
        ("QuestionCode,StudentAns,studentans1\n", ["column studentans1: stands twice"]),
        (f"QuestionCode,StudentAns\nA1,{SECRET}, and more\n", ["line 2: 3 cells under 2 headers"]),
        ("QuestionCode,StudentAns\nA1\n", ["line 2: 1 cells under 2 headers"]),
        (
            f'QuestionCode,StudentAns\nA1,fine\nA1,"{SECRET}\nA1,x\n',
            ["line 3: no table: unexpected"],
        ),
        (f'QuestionCode,StudentAns\nA1,"a" {SECRET}\n', ["line 2: no table: ',' expected after"]),
        ("QuestionCode,StudentAns\nA1," + "x" * 200_000 + "\n", ["line 2: no table: field larger"]),
    ],
)
def test_hostile_tables(tmp_path: Path, text: str, parts: list[str]) -> None:
    """A broken table is refused where it breaks, never read in part."""
    folder = original(tmp_path)
    write(folder / "TINY_CSV2.csv", text)
    refused(folder, "TINY_CSV2.csv", *parts)


def test_other_encodings(tmp_path: Path) -> None:
    """What is not UTF-8 is refused with the line, and with what to do."""
    folder = original(tmp_path)
    write(folder / "TINY_CSV2.csv", "QuestionCode,StudentAns\nA1,café\n", "latin-1")
    refused(folder, "line 2: is not UTF-8", "CSV UTF-8")


def test_missing_or_doubled_file(tmp_path: Path) -> None:
    """A folder with one of the two files, or with two candidates for one."""
    folder = original(tmp_path)
    write(folder / "other_CSV1.csv", "x")
    refused(folder, "has 2 files named *_CSV1.csv")
    (folder / "other_CSV1.csv").unlink()
    (folder / "TINY_CSV2.csv").unlink()
    refused(folder, "is no course")


# XML


def question_xml(answers: str, references: str = "", attributes: str = "") -> str:
    """A question as SemEval-2013 and SAF write it."""
    references = references or '<referenceAnswer id="r1">It is closed.</referenceAnswer>'
    return (
        '<?xml version="1.0"?>\n'
        f'<question id="Q" module="ME" {attributes}><questionText>Why &amp; how?</questionText>\n'
        f"<referenceAnswers>{references}</referenceAnswers>\n"
        f"<studentAnswers>{answers}</studentAnswers></question>\n"
    )


def labelled(answer_id: str, label: str, text: str = "Because.") -> str:
    """A SemEval answer."""
    return f'<studentAnswer id="{answer_id}" accuracy="{label}">{text}</studentAnswer>'


def scored(answer_id: str, score: str, text: str = "Because.", feedback: str = "Correct") -> str:
    """A SAF answer."""
    return (
        f'<studentAnswer id="{answer_id}">\n <response>\n{text}\n </response>\n'
        f" <response_feedback>Well.</response_feedback> <score>{score}</score>"
        f"<verification_feedback>{feedback}</verification_feedback></studentAnswer>\n"
    )


def test_semeval(tmp_path: Path) -> None:
    """Labels become verdicts on one point; references are its cases, the best first."""
    references = "".join(
        f'<referenceAnswer category="{c}" id="r{n}">{t}</referenceAnswer>'
        for n, (c, t) in enumerate(
            [("MINIMAL", "m"), ("GOOD", "g"), ("BEST", "b"), ("KEYWORD", "k"), ("BEST", "b")]
        )
    )
    folder = tmp_path / "3way" / "beetle"
    write(folder / "b.xml", question_xml(labelled("2", "incorrect", "A &lt; B"), references))
    answers = labelled("1", "correct") + labelled("0", "contradictory", " No. ")
    write(folder / "a.xml", question_xml(answers))
    course = load(folder)
    assert (course.name, course.source) == ("beetle-3way", "SemEval-2013 task 7")
    assert course.licence == "CC BY-SA 3.0"
    first, second = course.questions
    assert (first.code, first.text, first.subject, first.full_mark) == ("a", "Why & how?", "ME", 1)
    assert first.points[0].cases == ("It is closed.",)
    assert (second.reference, second.points[0].cases) == ("b", ("b", "g", "m"))
    assert [(a.id, a.question_code, a.text, a.verdicts, a.quality) for a in course.answers] == [
        ("1", "a", "Because.", {1: True}, "correct"),
        ("0", "a", "No.", {1: False}, "contradictory"),
        ("2", "b", "A < B", {1: False}, "incorrect"),
    ]


def test_saf(tmp_path: Path) -> None:
    """A fraction is kept; only none and all of the mark are verdicts."""
    answers = [
        scored("s1", " 1"),
        scored("s2", "0.75", "<p>One</p> two", "Partially correct"),
        scored("s3", "0,0", "", "Incorrect"),
    ]
    write(tmp_path / "saf" / "english" / "2.1_DLL.xml", question_xml("".join(answers)))
    course = load(tmp_path / "saf" / "english")
    assert (course.name, course.licence) == ("saf-english", "MIT")
    assert [(a.text, a.verdicts, a.score, a.quality) for a in course.answers] == [
        ("Because.", {1: True}, 1, "correct"),
        ("One two", None, 0.75, "partially correct"),
        ("", {1: False}, 0, "incorrect"),
    ]
    question = course.questions[0]
    assert question.code == "2.1_DLL"
    assert [datasets.teacher_mark(question, a) for a in course.answers] == [1, 0.75, 0]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            question_xml(labelled("1", "right")),
            ["line 4, column 17: <studentAnswer> accuracy 'right' is not"],
        ),
        (question_xml(labelled("", "correct")), ["<studentAnswer> has no id"]),
        (question_xml(labelled("1", "correct") * 2), ["the id '1' is used twice"]),
        (question_xml("", "<p/>"), ["line 2, column 1: <question> has no reference answer"]),
        (question_xml("").replace("Why &amp; how?", " "), ["<questionText> is empty"]),
        (question_xml("").replace("questionText", "text"), ["<question> has no <questionText>"]),
        (
            question_xml(scored("1", "1.5")),
            ["line 8, column 47: <score> '1.5' is not between 0 and 1"],
        ),
        (question_xml(scored("1", SECRET)), ["<score> 'my grandmother"]),
        (question_xml('<studentAnswer id="1">x</studentAnswer>'), ["has no <score>"]),
        ("<quiz><question/></quiz>", ["<quiz> is not a question"]),
        ("<question><a></question>", ["line 1, column 16: no XML: mismatched tag"]),
        ("<question>&nbsp;</question>", ["line 1, column 11: no XML: undefined entity"]),
        ("<question>", ["no XML: no element found"]),
        ("<?xml version='1.0' encoding='martian'?>\n<question/>", ["no XML: "]),
        ("<question>" + "<a>" * 100_000, ["line 1: is nested too deeply"]),
    ],
)
def test_hostile_xml(tmp_path: Path, text: str, parts: list[str]) -> None:
    """File, line and column of every fault."""
    write(tmp_path / "x" / "q.xml", text)
    refused(tmp_path / "x", "q.xml", *parts)


BOMB = (
    '<!DOCTYPE question [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(9))
    + "]>"
)


@pytest.mark.parametrize(
    "doctype",
    [
        BOMB,
        '<!DOCTYPE question [<!ENTITY j SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE question SYSTEM "http://127.0.0.1:9/q.dtd">',
        "<!DOCTYPE question>",
    ],
)
def test_entities_are_refused(tmp_path: Path, doctype: str) -> None:
    """Entity bombs, foreign files and DTDs from the net: no document type is read at all."""
    text = question_xml(labelled("1", "correct", "&j;"))
    write(tmp_path / "x" / "q.xml", text.replace("\n", f"\n{doctype}\n", 1))
    refused(tmp_path / "x", "line 2: declares a document type, which is refused")


def test_same_question_in_two_folders(tmp_path: Path) -> None:
    """A parent of the 2-way and the 3-way labels is no course of its own."""
    for way in ("2way", "3way"):
        write(tmp_path / way / "q.xml", question_xml(labelled("1", "correct")))
    refused(tmp_path, "q stands in", "name the one folder")


# ASAP-SAS, Mohler, a course of one's own


def asap(root: Path, lines: list[str], questions: str | None = None) -> Path:
    """An ASAP-SAS table with the questions beside it."""
    if questions is None:
        questions = table(
            [
                ["EssaySet", "Question", "Reference", "Full mark"],
                ["1", "What is missing?", "How much vinegar", ""],
                ["11", "Why?", "<Point1:2>a<Point1:2> <Point2:2>b<Point2:2>", "4"],
                ["2", "Nobody answered", "x", ""],
            ]
        )
    write(root / "asap_sas" / "questions.csv", questions)
    return write(root / "asap_sas" / "train.tsv", "\n".join(lines) + "\n")


ASAP_HEAD = "Id\tEssaySet\tScore1\tScore2\tEssayText"


def test_asap(tmp_path: Path) -> None:
    """One record a line, quotes as they stand, marks from the first score."""
    path = asap(
        tmp_path,
        [
            ASAP_HEAD,
            '1\t1\t3\t2\tA 4" beaker and "vinegar',
            '2\t1\t1\t1\t"He said ""no"", twice."',
            '3\t11\t4\t4\t"a" and "b"\r',
            "4\t11\t0\t1\t",
            "5\t1\t\t\tunmarked",
        ],
    )
    course = load(path)
    assert (course.name, course.source) == ("asap_sas-train", "ASAP-SAS")
    assert "redistributed" in course.licence
    assert [(q.code, q.full_mark, len(q.points)) for q in course.questions] == [
        ("set1", 3, 1),
        ("set11", 4, 2),
    ]
    assert [(a.id, a.text, a.score, a.verdicts) for a in course.answers] == [
        ("1", 'A 4" beaker and "vinegar', 1, {1: True}),
        ("2", 'He said "no", twice.', 1 / 3, None),
        ("3", '"a" and "b"', 1, {1: True, 2: True}),
        ("4", "", 0, {1: False, 2: False}),
        ("5", "unmarked", None, None),
    ]
    marks = [datasets.teacher_mark(course.question(a.question_code), a) for a in course.answers]
    assert marks == [3, 1, 4, 0, None]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1\t1\t4\t4\tx", "line 2, column Score1: 4 is above the full mark, 3"),
        ("1\t1\ttwo\t2\tx", "line 2, column Score1: 'two' is no number"),
        ("1\t3\t2\t2\tx", "line 2, column EssaySet: set '3' is not in questions.csv"),
        (f"1\t1\t2\t2\t{SECRET}\t{SECRET}", "line 2: 6 cells under 5 headers"),
        ("\t1\t2\t2\tx", "line 2, column Id: is empty"),
    ],
)
def test_asap_faults(tmp_path: Path, line: str, message: str) -> None:
    """Line and column in a tab-separated table."""
    refused(asap(tmp_path, [ASAP_HEAD, line]), "train.tsv", message)


def test_asap_needs_its_questions(tmp_path: Path) -> None:
    """The table has none; the message says where to put them."""
    path = asap(tmp_path, [ASAP_HEAD, "1\t1\t2\t2\tx", "1\t1\t2\t2\ty"])
    refused(path, "line 3, column Id: '1' is used twice")
    for rows, message in (
        (["12,Why?,x,"], "line 2, column EssaySet: set '12' is none of the ten"),
        (["1,Why?,x,", "1,Why?,x,"], "line 3, column EssaySet: set '1' is used twice"),
        (["1,Why?,x,0"], "line 2, column full_mark: is 0"),
        (["1,Why?,<Point1:2>x,3"], "line 2, column Reference: Point1 opened"),
    ):
        head = ["EssaySet,Question,Reference,full_mark"]
        refused(asap(tmp_path, [ASAP_HEAD], "\n".join(head + rows)), "questions.csv", message)
    (path.parent / "questions.csv").unlink()
    refused(path, "has answers only", "questions.csv", "EssaySet, Question and Reference")


MOHLER_HEAD = ["id", "question", "desired_answer", "student_answer", "score_me", "score_avg"]


def test_mohler(tmp_path: Path) -> None:
    """Questions go by their text and reference, marks run to 5."""
    rows = [
        MOHLER_HEAD,
        ["1.1", "What?", "This.", "that", "5", "5"],
        ["1.1", "What?", "This.", "this", "2", "3.5"],
        ["1.1", "Who?", "He.", "she", "0", "0"],
        ["1.1", "What?", "This.", "it", "2", "2.5"],
    ]
    course = load(write(tmp_path / "mohler.csv", table(rows)))
    assert [(q.code, q.text, q.full_mark) for q in course.questions] == [
        ("1.1", "What?", 5),
        ("Q2", "Who?", 5),
    ]
    assert [(a.id, a.score, a.verdicts) for a in course.answers] == [
        ("1.1-1", 1, {1: True}),
        ("1.1-2", 0.7, None),
        ("Q2-1", 0, {1: False}),
        ("1.1-3", 0.5, None),
    ]
    rows.append(["1.1", "What?", "This.", "it", "2", "6"])
    path = write(tmp_path / "mohler.csv", table(rows))
    refused(path, "line 6, column score_avg: 6 is above the full mark, 5")


OWN_HEAD = [
    "Question code",
    "question",
    "reference",
    "full_mark",
    "answer",
    "verdicts",
    "mark",
    "id",
]
OWN = [
    [
        "Q1",
        "Why?",
        "<Point1:1.5>a<Point1:1.5> <Point2:1>b<Point2:1>",
        "2,5",
        "x",
        "True;no",
        "",
        "",
    ],
    ["Q1", "", "", "", "y", "1 1", "2.5", "mine"],
    ["Q2", "How?", "Like this.", "", "z", "", "1", ""],
    ["Q1", "Why?", "", "", "late", "", "", ""],
]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_own(tmp_path: Path, delimiter: str) -> None:
    """A course of one's own, as any spreadsheet writes it."""
    path = write(tmp_path / "own.csv", table([OWN_HEAD, *OWN], delimiter), "utf-8-sig")
    course = load(path)
    assert course.name == "own"
    first, second = course.questions
    assert (first.full_mark, first.reference, len(first.points)) == (2.5, "a b", 2)
    assert (second.full_mark, second.points[0].cases) == (1, ("Like this.",))
    assert [(a.id, a.text, a.verdicts, a.score) for a in course.answers] == [
        ("Q1-1", "x", {1: True, 2: False}, None),
        ("mine", "y", {1: True, 2: True}, None),
        ("Q2-1", "z", {1: True}, 1),
        ("Q1-3", "late", None, None),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["Q1", "", "", "3", "x", "", "", ""], "column full_mark: is not what line 2 says of 'Q1'"),
        (["Q1", "What?", "", "", "x", "", "", ""], "column question: is not what line 2 says"),
        (["Q3", "", "r", "", "x", "", "", ""], "column question: is empty"),
        (["Q3", "q", "r", "0", "x", "", "", ""], "column full_mark: is 0"),
        (["Q3", "q", "<Point1>r", "", "x", "", "", ""], "column reference: '<Point1>' at column 1"),
        (
            ["Q1", "", "", "", SECRET, "True", "", ""],
            "column verdicts: 1 verdicts for the 2 points",
        ),
        (["Q1", "", "", "", "x", "True,hm", "", ""], "column verdicts: 'hm' is no verdict"),
        (
            ["Q1", "", "", "", "x", "1,0", "1", ""],
            "column mark: is 1, but the verdicts add up to 1.5",
        ),
        (["Q1", "", "", "", "x", "", "3", ""], "column mark: 3 is above the full mark, 2.5"),
        (["Q1", "", "", "", "x", "", "", "mine"], "column id: 'mine' is used twice"),
        (["", "", "", "", "x", "", "", ""], "column Question code: is empty"),
    ],
)
def test_own_faults(tmp_path: Path, row: list[str], message: str) -> None:
    """The header is named as the file writes it."""
    path = write(tmp_path / "own.csv", table([OWN_HEAD, *OWN, row]))
    refused(path, f"{path}, line 6, {message}")


# Names, roots, hashes


def our_json(name: str = "MINE", **more: Any) -> str:
    """A course in our JSON form."""
    question = {"code": "A1", "question": "Why?", "reference": "<Point1:1>x<Point1:1>"}
    answers = [{"id": "a", "answer": "y", "verdicts": {"1": True}, "quality": "right"}]
    course = {"format": "llmarking-course/1", "name": name, "licence": "CC0", **more}
    return json.dumps({**course, "questions": [{**question, "answers": answers}]})


def test_json(tmp_path: Path) -> None:
    """Our own form, with its licence."""
    course = load(write(tmp_path / "c.json", our_json(title="My course")))
    assert (course.name, course.title, course.licence) == ("MINE", "My course", "CC0")
    assert course.answers[0].quality == "right"


def pointed(**changed: Any) -> str:
    """Verdicts on the points of an answer of `seb-2way-training`."""
    question = {
        "code": "q",
        "full_mark": 3,
        "reference": "<Point1:1>one<Point1:1>, <Point2:2>two<Point2:2>",
        "verdicts": {"a1": "10"},
    }
    whole = {"format": "llmarking-verdicts/1", "name": "PTS", "licence": "CC BY-SA 3.0"}
    return json.dumps({**whole, "of": "seb-2way-training", "questions": [{**question, **changed}]})


@pytest.fixture
def answered(tmp_path: Path) -> Path:
    """A folder with a whole-answer set and verdicts on its points."""
    text = question_xml(labelled("a1", "incorrect", "One."))
    write(tmp_path / "seb" / "training" / "2way" / "q.xml", text)
    write(tmp_path / "pts.json", pointed())
    return tmp_path


def test_pointed(answered: Path) -> None:
    """Verdicts by point on answers that stay where they are."""
    course = load("PTS", answered)
    assert (course.name, course.licence) == ("PTS", "CC BY-SA 3.0")
    assert course.source == "verdicts on seb-2way-training"
    assert [(p.mark, p.text) for p in course.questions[0].points] == [(1, "one"), (2, "two")]
    assert course.questions[0].text == load("seb-2way-training", answered).questions[0].text
    answer = course.answers[0]
    assert (answer.text, answer.verdicts) == ("One.", {1: True, 2: False})
    assert datasets.teacher_mark(course.questions[0], answer) == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"code": "z"}, "questions[0].code: seb-2way-training has no question 'z'"),
        ({"full_mark": 4}, "questions[0].reference: "),
        ({"verdicts": {"a1": "1"}}, "questions[0].verdicts: 'a1' has 1 verdicts for 2 points"),
        ({"verdicts": {"a2": "11"}}, "questions[0].verdicts: 'a2' is no answer to 'q'"),
        ({"verdicts": {"a1": "1x"}}, "questions[0].verdicts.a1: "),
        ({"verdicts": {}}, "questions[0].verdicts: "),
    ],
)
def test_pointed_faults(answered: Path, changed: dict[str, Any], message: str) -> None:
    """Each names its place in the file."""
    error = load_fails(write(answered / "pts.json", pointed(**changed)), answered)
    assert message in str(error)
    assert error.line == 1


def test_pointed_without_the_answers(tmp_path: Path) -> None:
    """The set that is missing is named, and what is there instead."""
    error = load_fails(write(tmp_path / "pts.json", pointed()), tmp_path)
    assert "of: the answers are not here: there is no course 'seb-2way-training'" in str(error)
    assert [e.name for e in datasets.available(tmp_path)] == ["PTS"]


@pytest.mark.parametrize("of", ["PTS", "OTHER", "pts.json"])
def test_pointed_at_verdicts(answered: Path, of: str) -> None:
    """Of itself, by name and by path, and of a file that is of it in turn."""
    own = {**json.loads(pointed()), "of": of}
    write(answered / "other.json", json.dumps({**own, "name": "OTHER", "of": "PTS"}))
    error = load_fails(write(answered / "pts.json", json.dumps(own)), answered)
    assert "of: the answers are not here: " in str(error)
    assert "it must be a set with answers of its own" in str(error)
    assert error.line == 1


def test_pointed_without_examples(tmp_path: Path) -> None:
    """The verdicts of the set's graded examples are about its own points."""
    example = {"answer": "y", "points": [{"id": 1, "verdict": True}]}
    course = json.loads(our_json("WITH"))
    course["questions"][0]["examples"] = [example]
    write(tmp_path / "with.json", json.dumps(course))
    entry = {"code": "A1", "reference": "<Point1:1>a<Point1:1> <Point2:1>b<Point2:1>"}
    verdicts = {**json.loads(pointed()), "of": "WITH"}
    verdicts["questions"] = [{**entry, "verdicts": {"a": "10"}}]
    write(tmp_path / "pts.json", json.dumps(verdicts))
    assert load("WITH", tmp_path).questions[0].examples
    assert not load("PTS", tmp_path).questions[0].examples


def load_fails(path: Path, root: Path) -> DataError:
    """The error of loading a path where courses are looked for in a root."""
    with pytest.raises(DataError) as caught:
        load(path, root)
    return caught.value


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One course of every form, and files that are none."""
    original(tmp_path)
    write(tmp_path / "c.json", our_json())
    write(tmp_path / "z.json", our_json())
    write(tmp_path / "other.json", "{}")
    write(tmp_path / "notes.csv", "a,b\n1,2\n")
    write(tmp_path / "latin.csv", "é\n", "latin-1")
    write(tmp_path / ".hidden" / "c.json", our_json("HIDDEN"))
    write(tmp_path / "sem" / "training" / "2way" / "seb" / "q.xml", question_xml(""))
    write(tmp_path / "own.csv", table([OWN_HEAD, *OWN]))
    asap(tmp_path, [ASAP_HEAD])
    write(tmp_path / "mohler.csv", table([MOHLER_HEAD]))
    return tmp_path


def test_available(root: Path) -> None:
    """What is there, in order of the path; a name that is taken is replaced by the path."""
    assert [(e.name, e.source) for e in datasets.available(root)] == [
        ("MINE", "LLMarking JSON"),
        ("mohler", "Mohler 2011"),
        ("own", "CSV"),
        ("z.json", "LLMarking JSON"),
        ("TINY", "LLMarking course folder"),
        ("asap_sas-train", "ASAP-SAS"),
        ("seb-2way-training", "SemEval-2013 or SAF XML"),
    ]


@pytest.mark.parametrize(
    ("name", "course"),
    [
        ("TINY", "TINY"),
        ("tiny", "TINY"),
        ("MINE", "MINE"),
        ("z.json", "MINE"),
        ("seb-2way-training", "seb-2way-training"),
        ("sem/training/2way", "sem-2way-training"),
        ("own.csv", "own"),
    ],
)
def test_load_by_name(root: Path, name: str, course: str) -> None:
    """By name whatever its case, or by path in the root; both give the same course."""
    assert load(name, root).name == course


def test_load_by_path(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path works from where the user stands, and as a Path."""
    monkeypatch.chdir(root)
    assert load("TINY/../own.csv", root / "sem").name == "own"
    assert load(root / "own.csv") == load("own", root)


@pytest.mark.parametrize("name", ["", "NOPE", "../own.csv/x"])
def test_unknown_names(root: Path, name: str) -> None:
    """The message lists what there is."""
    with pytest.raises(DataError, match=r"there are: MINE, mohler, own") as caught:
        load(name, root)
    assert str(root) in str(caught.value)


def test_tables_that_lack_a_column(tmp_path: Path) -> None:
    """A table that is nearly a course: the column that is missing is named, with file and line."""
    own, asap, mohler = tmp_path / "own.csv", tmp_path / "asap.tsv", tmp_path / "mohler.csv"
    write(own, f"question_code,question,answer\nQ1,What?,{SECRET}\n")
    refused(own, "own.csv, line 1, column reference: is missing; the headers are 'question_code'")
    write(tmp_path / "questions.csv", "EssaySet,Question,Reference\n1,What?,That.\n")
    write(asap, f"Id\tEssaySet\tText\n1\t1\t{SECRET}\n")
    refused(asap, "asap.tsv, line 1, column EssayText: is missing")
    write(mohler, f"\n\nquestion,desired_answer,student_answer\nWhat?,That.,{SECRET}\n")
    refused(mohler, "is no course")  # its first line holds no headers at all
    write(mohler, f"question,desired_answer,student_answer\nWhat?,That.,{SECRET}\n")
    refused(mohler, "mohler.csv, line 1, column score_avg: is missing")
    write(own, "id,question\n1,What?\n")
    refused(own, "is no course", "question_code, question, reference and answer")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_tables_in_other_encodings(tmp_path: Path, encoding: str) -> None:
    """As spreadsheets save them: refused for the encoding, not as something unknown."""
    own = tmp_path / "own.csv"
    write(own, "question_code,question,reference,answer\nQ1,What?,That.,café\n", encoding)
    refused(own, f"line {2 if encoding == 'latin-1' else 1}: is not UTF-8", "CSV UTF-8")


def test_no_course(root: Path) -> None:
    """A path to something else says what would do."""
    refused(root / "notes.csv", "is no course", "question_code")
    refused(root / "nowhere", "there is no such file or folder")
    refused(root / "mohler.csv", "holds no questions")
    with pytest.raises(DataError, match="no such data folder"):
        datasets.available(root / "nowhere")
    empty = root / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="there are: none"):
        load("x", empty)


def test_default_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LLMARKING_DATA first, then the shared folder, then what is shipped, which is always there."""
    monkeypatch.setenv("LLMARKING_DATA", str(root))
    assert load("TINY").name == "TINY"
    names = [entry.name for entry in datasets.available()]
    assert names[0] == "MINE"
    assert "EXAMPLE" in names
    monkeypatch.setenv("LLMARKING_DATA", " ")
    monkeypatch.setattr(datasets, "SHARED", root)
    assert datasets.default_root() == root
    monkeypatch.setattr(datasets, "SHARED", root / "nowhere")
    assert datasets.default_root() == datasets.SHIPPED


def test_sha256(root: Path) -> None:
    """Hashes that anybody can make with sha256sum."""

    def digest(text: bytes) -> str:
        return hashlib.sha256(text).hexdigest()

    assert load("MINE", root).sha256 == digest((root / "c.json").read_bytes())
    names = ("TINY_CSV1.csv", "TINY_CSV2.csv")
    listing = "".join(f"{digest((root / 'TINY' / n).read_bytes())}  {n}\n" for n in names)
    before = load("TINY", root).sha256
    assert before == digest(listing.encode())
    write(root / "TINY" / "TINY_CSV2.csv", "QuestionCode,StudentAns\n")
    assert load("TINY", root).sha256 != before


def test_messages_hold_little_of_an_answer(tmp_path: Path) -> None:
    """Even a file that is all one answer shows at most 40 characters of it."""
    path = write(tmp_path / "TINY" / "TINY_CSV1.csv", SECRET * 50)
    write(tmp_path / "TINY" / "TINY_CSV2.csv", SECRET)
    assert len(str(refused(path.parent, "is missing"))) < len(str(path)) + 150


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["t/T_CSV1.csv", "t/T_CSV2.csv", "t/q.xml", "t.csv", "t.tsv", "t.json"]),
    pieces=st.lists(
        st.one_of(
            st.sampled_from(
                [
                    '{"format": "llmarking-course/1", ',
                    "<question>",
                    "<studentAnswer id='1' accuracy='correct'>",
                    "</question>",
                    "QuestionCode,Question,Fullmark,RightAnswer,StudentAns,ManualScore\n",
                    "question_code,question,reference,answer,verdicts\n",
                    "Id\tEssaySet\tScore1\tEssayText\n",
                    "A1,Why?,1,<Point1:1>x<Point1:1>,",
                    '"',
                    "\n",
                    "\0",
                    "True",
                ]
            ).map(str.encode),
            st.binary(max_size=20),
        ),
        max_size=8,
    ),
)
def test_whatever_bytes(
    tmp_path_factory: pytest.TempPathFactory, name: str, pieces: list[bytes]
) -> None:
    """Any bytes are either a course or a `DataError`."""
    home = tmp_path_factory.mktemp("bytes")
    original(home)
    (home / "TINY").rename(home / "t")
    for number in (1, 2):
        (home / "t" / f"TINY_CSV{number}.csv").rename(home / "t" / f"T_CSV{number}.csv")
    if name.endswith("xml"):
        shutil.rmtree(home / "t")
        (home / "t").mkdir()
    (home / name).write_bytes(b"".join(pieces))
    for entry in datasets.available(home):
        with contextlib.suppress(DataError):
            load(entry.path)
    with contextlib.suppress(DataError):
        load(home / name.split("/")[0])


# The real files

COUNTS = [
    ("INT", 8, 81, 202),
    ("CPT", 8, 81, 638),
    ("semeval2013/test/2way/sciEntsBank/test-unseen-answers", 135, 540, 540),
    ("semeval2013/test/2way/beetle/test-unseen-answers", 47, 439, 439),
    ("semeval2013/training/2way", 182, 8910, 8910),
    ("semeval2013/training/3way", 182, 8910, 8910),
    ("saf/training/english", 18, 1476, 1063),
]


@pytest.fixture(scope="module")
def real() -> Callable[[str], Course]:
    """Loads a real course, or skips."""

    def read(name: str) -> Course:
        home = datasets.default_root()
        if home == datasets.SHIPPED or not (home / "llmarking").is_dir():
            pytest.skip(f"the data sets are not in {home}; set {datasets.VARIABLE} to their folder")
        return load(name)

    return read


@pytest.mark.parametrize(("name", "questions", "answers", "verdicts"), COUNTS)
def test_real_counts(
    real: Callable[[str], Course], name: str, questions: int, answers: int, verdicts: int
) -> None:
    """Nothing is lost and nothing is made up."""
    course = real(name)
    assert len(course.questions) == questions
    assert len(course.answers) == len({a.id for a in course.answers}) == answers
    assert sum(len(a.verdicts or {}) for a in course.answers) == verdicts
    assert all(
        datasets.teacher_mark(course.question(a.question_code), a) is not None
        for a in course.answers
    )


def test_real_examples(real: Callable[[str], Course]) -> None:
    """Every question of the original has three graded examples with a reason for every point."""
    for name in ("INT", "CPT"):
        for question in real(name).questions:
            ids = {point.id for point in question.points}
            assert len(question.examples) == 3
            for example in question.examples:
                assert set(example.verdicts) == set(example.reasons) == ids
                assert "<Point" not in example.answer
                assert "\\n" not in example.answer


def test_real_oddities(real: Callable[[str], Course]) -> None:
    """The known faults of CPT are told, and INT has none."""
    notes = real("CPT").notes
    assert sum("their order counts" in note for note in notes) == 3
    assert sum("the verdicts count" in note for note in notes) == 7
    assert sum("marked twice, alike" in note for note in notes) == 1
    assert real("INT").notes == ()


def test_shipped_forms_agree() -> None:
    """The example course says the same in both of its forms."""
    ours, theirs = (
        load(datasets.SHIPPED / path) for path in ("examples/course.json", "short/EXAMPLE")
    )
    assert [(a.text, a.verdicts) for a in ours.answers] == [
        (a.text, a.verdicts) for a in theirs.answers
    ]
    assert [(q.points, q.examples) for q in ours.questions] == [
        (q.points, q.examples) for q in theirs.questions
    ]
