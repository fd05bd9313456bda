"""The names that columns go by, in the languages of the platforms we know, and how to read them.

Platforms translate their headers, so a list can't be complete: where the structure of a file tells
what a column is, `formats` goes by that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

from llmarking.datasets.contents import number
from llmarking.datasets.tables import comparable

CODE = ("question_code", "question id", "q", "item", "item id", "题号", "题目编号")
TEXT = ("question", "question text", "prompt", "题目", "问题", "frage", "pregunta")
REFERENCE = (
    *("right answer", "scoring", "reference_answer", "reference", "model answer"),
    *("correct answer", "参考答案", "标准答案", "正确答案", "richtige antwort"),
)
FULL_MARK = (
    *("full_mark", "points possible", "max points", "maximum grade", "possible points"),
    *("满分", "bestwertung", "note maximale", "最高成绩"),
)
ANSWER = (
    *("StudentAns", "StudentAns1", "student answer", "stu_answer", "answer", "response"),
    *("online text", "学生答案", "答案", "回答", "antwort", "réponse", "respuesta", "risposta"),
)
MARK = (
    *("manual_score", "grade", "score", "mark", "marks", "得分", "成绩", "分数"),
    *("punkte", "bewertung", "calificación", "puntuación", "nota"),
)
FEEDBACK = ("feedback comments", "feedback", "comment", "comments", "评语", "反馈")
# The first one that a file has is taken.
STUDENT = (
    *("student id", "student number", "sid", "学号", "学生编号", "id number", "idnumber"),
    *("matrikelnummer", "identifier", "username", "user name", "user id", "sis user id", "sis id"),
    *("sis login id", "login id", "integration id"),
    *("anonymized student id", "id", "email address", "email", "e-mail-adresse", "电子邮件地址"),
    *("adresse de courriel", "dirección de correo", "student", "submission id"),
)
FULL_NAME = (
    "full name",
    "name",
    "student name",
    "vollständiger name",
    "nom complet",
    "全名",
    "姓名",
)
FIRST_NAME = ("first name", "firstname", "vorname", "prénom", "nombre", "名字", "名")
LAST_NAME = ("surname", "last name", "lastname", "nachname", "nom", "nom de famille", "姓氏", "姓")
STATE = ("state", "status", "état", "statut", "estado", "stato", "状态")
COMPLETED = ("completed", "beendet", "terminé", "finalizado", "完成", "完成于", "completato")

# What the columns of a series are called before their number.
RESPONSES = (
    *("response", "antwort", "réponse", "respuesta", "risposta", "resposta", "antwoord", "ответ"),
    *("回应", "响应", "回答", "答案", "答", "answer", "student answer", "学生答案"),
)
QUESTIONS = ("question", "frage", "pregunta", "domanda", "questão", "vraag", "вопрос", "问题")
ASKED_ONLY = ("q", "item", "题", "题目", "试题")
REFERENCES = (
    *("right answer", "correct answer", "richtige antwort", "réponse correcte", "bonne réponse"),
    *("respuesta correcta", "risposta corretta", "resposta correta", "juiste antwoord"),
    *("正确答案", "参考答案", "model answer", "reference answer"),
)
MARKS = ("manual score", "score", "mark", "得分")
FULL_MARKS = ("possible points", "points possible", "max points", "满分")
FEEDBACKS = ("feedback", "comment", "评语")

# Of Moodle's attempts. In other languages, an attempt without a time of completion is unfinished.
FINISHED = (
    "finished",
    "submitted",
    "beendet",
    "terminé",
    "finalizado",
    "completato",
    "已完成",
    "完成",
)
UNFINISHED = (
    *("in progress", "overdue", "never submitted", "abandoned", "not started", "in bearbeitung"),
    *("überfällig", "nie abgegeben", "en cours", "jamais remis", "en curso", "nunca enviado"),
    *("进行中", "从未提交", "超时"),
)
LOCKED = ("no", "nein", "non", "否", "不")
NOTHING = ("", "-", "–")


def key(text: str) -> str:
    """A name as names are compared: without case, space, punctuation and `/10.00`."""
    split = out_of(text)
    return comparable(split[0] if split else text)


def found(headers: Sequence[str], names: Iterable[str]) -> tuple[int, ...]:
    """The columns that go by one of the names."""
    known = {comparable(name) for name in names}
    return tuple(place for place, header in enumerate(headers) if key(header) in known)


def first(headers: Sequence[str], names: Iterable[str]) -> int | None:
    """The column of the first name that stands among the headers just once."""
    keys = [key(header) for header in headers]
    for name in map(comparable, names):
        if keys.count(name) == 1:
            return keys.index(name)
    return None


def is_one(text: str, names: tuple[str, ...]) -> bool:
    """Whether the text is one of the names."""
    return bool(text) and comparable(text) in _compared(names)


@cache
def _compared(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(map(comparable, names))


def series(headers: Sequence[str]) -> dict[str, dict[int, int]]:
    """Columns that differ in a number: {comparable name: {number: column}}."""
    families: dict[str, dict[int, int]] = {}
    for place, header in enumerate(headers):
        name, digits = numbered(header)
        if name and digits:
            families.setdefault(comparable(name), {}).setdefault(int(digits), place)
    return families


def numbered(header: str) -> tuple[str, str]:
    """`Response 12` as its name and its number, which is empty where there is none."""
    text = header.strip()
    name = text.rstrip("0123456789")
    digits = text[len(name) :]
    return (name.strip(), digits) if len(digits) <= 3 and comparable(name) else (text, "")


def out_of(header: str) -> tuple[str, float] | None:
    """`Grade/10.00` as a name and the most that can be had."""
    name, slash, rest = header.rpartition("/")
    worth = number(rest) if slash else None
    return (name.strip(), worth) if worth else None
