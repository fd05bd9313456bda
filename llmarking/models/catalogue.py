"""The models LLMarking knows, read from `models.toml`: find one by index, name, hub id or folder.

Nothing here touches the network or loads weights; `hub` does the one, the engine the other.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmarking.errors import InputError, UnknownModelError

if TYPE_CHECKING:
    from rich.table import Table

GIB = 2**30
BITS_STORED = {16: 16.0, 8: 8.5, 4: 5.0}  # with the scales of a quantized weight; see models.toml
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Payload:
    """A file of `size` bytes cut into parts, each the `member` of one wheel on a package index."""

    file: str
    size: int
    sha256: str
    package: str
    version: str
    wheels: int
    part_size: int
    member: str

    def part(self, number: int) -> tuple[str, str, int]:
        """Return package, member of its wheel, and bytes of part `number`, counted from 1."""
        size = min(self.part_size, self.size - (number - 1) * self.part_size)
        return self.package.format(n=number), self.member.format(n=number), size


@dataclass(frozen=True)
class ModelSpec:
    """One model: where it is, how it is loaded, what it needs and under which licence.

    None means that only the model's own files say it, as for a model outside the catalogue.
    """

    name: str
    hub_id: str = ""
    index: int | None = None
    modelscope_id: str | None = None
    quantization: str | None = None
    bits: int = 16
    dtype: str = "auto"
    context: int | None = None
    system_role: bool | None = None
    template_options: Mapping[str, bool] = field(default_factory=dict, hash=False)
    tensor_parallel: int = 1
    licence: str = "unknown"
    licence_url: str = ""
    gated: bool = False
    parameters: float | None = None
    trust_remote_code: bool = False
    revision: str | None = None
    payload: Payload | None = None
    default: bool = False
    note: str = ""
    path: Path | None = None

    @property
    def memory_gib(self) -> float | None:
        """GiB for weights and a modest KV cache, by the rule in `models.toml`; None if unknown."""
        if self.parameters is not None:
            weights = self.parameters * 1e9 * BITS_STORED[self.bits] / 8
        elif self.path is not None:
            weights = float(sum(file.stat().st_size for file in self.path.glob("*.safetensors")))
        else:
            return None
        return round(weights / GIB * 1.15 + 1, 1)


def read_catalogue(text: str) -> tuple[ModelSpec, ...]:
    """Parse the text of a catalogue file into its models.

    Raises InputError for an entry that is out of order or would run code of no fixed version.
    """
    content = tomllib.loads(text)
    payloads = {name: Payload(**entry) for name, entry in content.get("payload", {}).items()}
    specs = tuple(_spec(dict(entry), content["licence"], payloads) for entry in content["model"])
    for position, spec in enumerate(specs):
        if spec.index != position:
            raise InputError(
                f"models.toml: {spec.name} has index {spec.index}, its place is {position}"
            )
        if spec.trust_remote_code and not COMMIT.fullmatch(spec.revision or ""):
            raise InputError(f"models.toml: {spec.name} runs its own code and must pin a commit")
    return specs


def _spec(
    entry: dict[str, Any],
    licences: Mapping[str, Mapping[str, str]],
    payloads: Mapping[str, Payload],
) -> ModelSpec:
    if "payload" in entry:
        entry["payload"] = payloads[entry["payload"]]
    hub_id = entry["hub_id"]
    licence = licences[entry.pop("licence")]
    defaults: dict[str, Any] = {
        "name": hub_id.split("/")[1],
        "dtype": "bfloat16",
        "system_role": True,
        "licence": licence["name"],
        "licence_url": licence["url"].format(hub_id=hub_id),
    }
    return ModelSpec(**(defaults | entry))


@cache
def models() -> tuple[ModelSpec, ...]:
    """Return every model of the catalogue, in the order of their indices."""
    return read_catalogue((Path(__file__).parent / "models.toml").read_text(encoding="utf-8"))


def default_model() -> ModelSpec:
    """Return the model that is used when none is named."""
    return next(spec for spec in models() if spec.default)


def resolve(text: str) -> ModelSpec:
    """Find a model by index, name, hub id (Hugging Face's or ModelScope's, in any case) or folder
    with weights.

    A hub id outside the catalogue, `org/name`, gives a spec of which little is known before the
    download. Raises UnknownModelError, or InputError for a folder without the files of a model.
    """
    text = text.strip()
    if re.fullmatch(r"-?\d+", text):
        index = int(text)
        if 0 <= index < len(models()):
            return models()[index]
        raise UnknownModelError(
            f"there is no model {index}: indices run from 0 to {len(models()) - 1}; --list-models "
            "shows them"
        )
    wanted = text.casefold()
    for spec in models():
        if wanted in _names(spec):
            return spec
    folder = Path(text).expanduser()
    if text and folder.is_dir():
        return _from_folder(folder.resolve())
    if HUB_ID.fullmatch(text) and not text.startswith("."):
        return ModelSpec(name=text.split("/")[1], hub_id=text, modelscope_id=text)
    raise UnknownModelError(_unknown(text))


def _names(spec: ModelSpec) -> set[str]:
    return {n.casefold() for n in (spec.name, spec.hub_id, spec.modelscope_id) if n}


def _from_folder(folder: Path) -> ModelSpec:
    lacks = [
        what
        for what, pattern in (
            ("config.json", "config.json"),
            ("weights (*.safetensors)", "*.safetensors"),
        )
        if not any(folder.glob(pattern))
    ]
    if lacks:
        raise InputError(f"{folder} holds no model: it lacks {' and '.join(lacks)}")
    return ModelSpec(name=folder.name, path=folder)


def _unknown(text: str) -> str:
    names = {spec.name.casefold(): f"{spec.name} ({spec.index})" for spec in models()}
    wanted = text.casefold().rsplit("/", 1)[-1]
    near = [name for name in names if wanted and wanted in name]
    near += [n for n in difflib.get_close_matches(wanted, names, n=3, cutoff=0.5) if n not in near]
    hint = f" Near: {', '.join(names[name] for name in near[:4])}." if near else ""
    return (
        f"no model, hub id or folder is called {text!r}.{hint} --list-models shows all; a model "
        "outside the catalogue is named by its hub id, org/name"
    )


def as_table() -> Table:
    """Return the catalogue as a rich table, one row a model."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        *("#", "model", "10⁹ weights", "bits", "context", "GiB", "GPUs", "licence", "note"),
        box=SIMPLE_HEAD,
        caption="GiB: of memory, with a modest cache. *: accept the licence on the hub first.",
    )
    table.columns[1].no_wrap = True
    for column in range(2, 7):
        table.columns[column].justify = "right"
    for spec in models():
        numbers = (f"{spec.parameters:g}", spec.bits, spec.context, spec.memory_gib)
        table.add_row(
            str(spec.index),
            spec.hub_id,
            *map(str, numbers),
            str(spec.tensor_parallel),
            spec.licence + ("*" if spec.gated else ""),
            spec.note,
        )
    return table


def as_json() -> str:
    """Return the catalogue as a JSON array, one object a model, `memory_gib` included."""
    rows = []
    for spec in models():
        row = asdict(spec) | {"memory_gib": spec.memory_gib}
        del row["path"]
        rows.append(row)
    return json.dumps(rows, indent=2, ensure_ascii=False)
