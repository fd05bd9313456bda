"""Files that are broken or made to harm, and parts to make others of.

Spreadsheets are made here, part by part, as no program would write them.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping

import openpyxl

HEAD = "id,answer,mark\n"


def workbook(fill: Callable[[openpyxl.worksheet.worksheet.Worksheet], object]) -> bytes:
    """A spreadsheet with two answers, and what `fill` makes of it."""
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    for row in (["id", "answer", "mark"], ["01", "yes", None], ["02", "no", None]):
        sheet.append(row)
    fill(sheet)
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def repacked(data: bytes, part: str, change: Callable[[bytes], bytes]) -> bytes:
    """A spreadsheet with one of its parts changed."""
    out = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as old,
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, change(old.read(name)) if name == part else old.read(name))
    return out.getvalue()


PLAIN = workbook(lambda sheet: None)
SHEET = "xl/worksheets/sheet1.xml"
BOMB = b"""<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]><worksheet
xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData><row r="1"><c r="A1"
t="inlineStr"><is><t>&b;</t></is></c></row></sheetData></worksheet>"""


def _with_formula(sheet: openpyxl.worksheet.worksheet.Worksheet) -> None:
    sheet["B3"] = "=1+1"


# Of the hostile files those that are refused as answers, each with its name; the others are read.
REFUSED: Mapping[str, tuple[str, Callable[[], bytes]]] = {
    "unclosed quote": ("x.csv", lambda: b'id,answer,mark\n01,yes,\n02,"no,\n'),
    "megabyte in a cell": ("x.csv", lambda: f"{HEAD}01,{'x' * 2**20},\n".encode()),
    "too many rows": ("x.csv", lambda: ("id,answer\n" + "1,\n" * 250_001).encode()),
    "headers twice": ("x.csv", lambda: b"id,answer,answer\n01,yes,no\n"),
    "missing column": ("x.csv", lambda: b"id,word\n01,yes\n"),
    "merged cells": ("x.xlsx", lambda: workbook(lambda sheet: sheet.merge_cells("B2:B3"))),
    "formula": ("x.xlsx", lambda: workbook(_with_formula)),
    "zip bomb": (
        "x.xlsx",
        lambda: repacked(PLAIN, "docProps/app.xml", lambda _: b" " * 210_000_000),
    ),
    "entity bomb": ("x.xlsx", lambda: repacked(PLAIN, SHEET, lambda _: BOMB)),
    "web page": ("x.xlsx", lambda: b"<html><table><tr><td>answer</td></tr></table></html>"),
    "half of UTF-16": ("x.csv", lambda: f"{HEAD}01,yes,\n".encode("utf-16")[:-1]),
    "damaged": ("x.xlsx", lambda: PLAIN[:-100]),
    "slipped cells": ("x.csv", lambda: b"id,answer\n01,yes,no\n"),
    "empty": ("x.csv", lambda: b""),
    "old spreadsheet": ("x.xls", lambda: b"\xd0\xcf\x11\xe0" + b"\0" * 99),
}
