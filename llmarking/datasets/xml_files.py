"""SemEval-2013 task 7 and SAF: a folder of XML files, each a question with references and answers.

A question is marked as a whole, so it becomes one point that any of its references earns. SemEval
labels an answer (`accuracy="correct"`), SAF scores it between 0 and 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from llmarking.datasets.contents import (
    Contents,
    marked_answer,
    number,
    read_bytes,
    shown,
    whole_question,
)
from llmarking.domain import Question, StudentAnswer
from llmarking.errors import DataError

MAX_DEPTH = 32
LABELS = (
    "correct",
    "incorrect",
    "contradictory",
    "partially_correct_incomplete",
    "irrelevant",
    "non_domain",
)
# Beetle's references by rank. KEYWORD ("a gap") is left out: answers like it were marked both ways.
_RANKS = {"BEST": 0, "": 0, "GOOD": 1, "MINIMAL": 2}


@dataclass(slots=True)
class Node:
    """An XML element, where its tag begins. `pieces` is all text within it."""

    file: Path
    tag: str
    attributes: Mapping[str, str]
    line: int
    column: int
    children: list[Node] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Text without outer space, which in XML is layout."""
        return "".join(self.pieces).strip()

    def all(self, tag: str) -> Iterator[Node]:
        """Every element of that name below this one, in the order of the file."""
        for child in self.children:
            if child.tag == tag:
                yield child
            yield from child.all(tag)

    def find(self, tag: str) -> Node:
        """The first of them.

        Raises:
            DataError: there is none.
        """
        if (node := next(self.all(tag), None)) is None:
            raise self.fault(f"has no <{tag}>")
        return node

    def fault(self, message: str) -> DataError:
        """An error at this element."""
        return DataError(
            f"<{self.tag}> {message}",
            file=str(self.file),
            line=self.line,
            column=str(self.column),
        )


def matches(folder: Path) -> bool:
    """Whether the first XML file in the folder, or below it, may be a question."""
    first = min(folder.rglob("*.xml"), default=None) if folder.is_dir() else None
    if first is None:
        return False
    with first.open("rb") as file:
        return b"<question" in file.read(4096)


def read(folder: Path) -> Contents:
    """Read every XML file in the folder and below it, ordered by path.

    Raises:
        DataError: something in a file is wrong, or the same question stands in two files.
    """
    files = sorted(folder.rglob("*.xml"))
    questions: dict[str, Question] = {}
    places: dict[str, Path] = {}
    answers: list[StudentAnswer] = []
    ids: set[str] = set()
    labelled = False
    for file in files:
        root = parse(file)
        if root.tag != "question":
            raise root.fault("is not a question; the root of each file is <question>")
        # By file name: SAF gives the id 2.1 to three questions.
        code = file.stem
        if code in places:
            raise DataError(
                f"{code} stands in {places[code].parent} too; name the one folder that is wanted",
                file=str(file),
            )
        places[code] = file
        questions[code] = _question(code, root)
        for node in root.all("studentAnswer"):
            answer = _answer(node, questions[code])
            if answer.id in ids:
                raise node.fault(f"the id {shown(answer.id)} is used twice")
            ids.add(answer.id)
            answers.append(answer)
            labelled = labelled or "accuracy" in node.attributes
    return Contents(
        tuple(questions.values()),
        tuple(answers),
        tuple(files),
        source="SemEval-2013 task 7" if labelled else "Short Answer Feedback (SAF)",
        licence="CC BY-SA 3.0" if labelled else "MIT",
    )


def _question(code: str, root: Node) -> Question:
    references = [
        (_RANKS[category], node.text)
        for node in root.all("referenceAnswer")
        if (category := node.attributes.get("category", "").upper()) in _RANKS and node.text
    ]
    if not references:
        raise root.fault("has no reference answer")
    if not (text := root.find("questionText").text):
        raise root.find("questionText").fault("is empty")
    references.sort(key=lambda ranked: ranked[0])
    cases = [case for _, case in references]
    return whole_question(code, text, cases, subject=root.attributes.get("module", ""))


def _answer(node: Node, question: Question) -> StudentAnswer:
    if not (answer_id := node.attributes.get("id", "").strip()):
        raise node.fault("has no id")
    if (label := node.attributes.get("accuracy")) is not None:
        if label not in LABELS:
            raise node.fault(f"accuracy {shown(label)} is not one of {', '.join(LABELS)}")
        verdicts = {1: label == "correct"}
        return StudentAnswer(answer_id, question.code, node.text, verdicts, label)
    mark = node.find("score")
    score = number(mark.text)
    if score is None or score > 1:
        raise mark.fault(f"{shown(mark.text)} is not between 0 and 1")
    verdict = next(node.all("verification_feedback"), None)
    quality = verdict.text.lower() if verdict else ""
    return marked_answer(answer_id, question, node.find("response").text, score, quality)


def parse(path: Path) -> Node:
    """The root element of an XML file.

    Raises:
        DataError: no XML, or XML with a document type, whose entities could fill the memory.
    """
    document = Node(path, "", {}, 1, 1)
    stack = [document]
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def start(tag: str, attributes: dict[str, str]) -> None:
        line, column = parser.CurrentLineNumber, parser.CurrentColumnNumber + 1
        if len(stack) > MAX_DEPTH:
            raise DataError("is nested too deeply for a data set", file=str(path), line=line)
        node = Node(path, tag, attributes, line, column)
        stack[-1].children.append(node)
        stack.append(node)

    def end(_: str) -> None:
        stack.pop()

    def data(text: str) -> None:
        for node in stack[1:]:
            node.pieces.append(text)

    def doctype(*_: object) -> None:
        raise DataError(
            "declares a document type, which is refused; delete its <!DOCTYPE …>",
            file=str(path),
            line=parser.CurrentLineNumber,
        )

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = data
    parser.StartDoctypeDeclHandler = doctype
    raw = read_bytes(path)
    try:
        parser.Parse(raw, True)
    except expat.ExpatError as error:
        message = expat.ErrorString(error.code)
        raise DataError(
            f"no XML: {message}",
            file=str(path),
            line=error.lineno,
            column=str(error.offset + 1),
        ) from None
    except (ValueError, LookupError) as error:  # an encoding that Python does not know
        raise DataError(f"no XML: {error}", file=str(path)) from None
    return document.children[0]
