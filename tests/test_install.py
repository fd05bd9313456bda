"""The installer: when it does nothing, what it hands to pip, and what it says when that fails."""

from __future__ import annotations

import importlib.util
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
VERSION = "2.13.0+cpu"


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("install", ROOT / "scripts" / "install.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "install", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """What an environment looks like from outside."""
    path = tmp_path / "venv"
    library = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    (path / library / "pip").mkdir(parents=True)
    (path / library / f"torch-{VERSION}.dist-info").mkdir()
    (path / "bin").mkdir()
    (path / "bin" / "python").symlink_to(sys.executable)
    (path / "pyvenv.cfg").write_text(f"version = {sys.version.split()[0]}\n", encoding="utf-8")
    return path


@pytest.fixture
def calls(install: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Pip's arguments, instead of pip."""
    made: list[str] = []

    def pip(self: object, *arguments: str, packages: int = 0) -> None:
        made.append(" ".join(arguments))

    monkeypatch.setattr(install.Environment, "pip", pip)
    monkeypatch.setattr(install.Environment, "create", lambda self: made.append("venv"))
    monkeypatch.setattr(install, "check_machine", lambda path, device: None)
    return made


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_the_second_run_does_nothing(
    install: ModuleType, venv: Path, calls: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--device", "cpu", "--dev", "--venv", str(venv)]
    assert install.main(arguments) == 0
    assert [call.split()[-1].rpartition("/")[2] for call in calls] == [
        "constraints-cpu.txt",
        "constraints-dev.txt",
        ROOT.name,
    ]
    assert all("--no-deps" in call for call in calls)
    calls.clear()
    capsys.readouterr()
    assert install.main(arguments) == 0
    assert calls == []
    assert capsys.readouterr().out == ""


def test_a_changed_lock_is_installed(install: ModuleType, venv: Path, calls: list[str]) -> None:
    arguments = ["--device", "cpu", "--venv", str(venv)]
    install.main(arguments)
    stamps = json.loads((venv / "installed.json").read_text(encoding="utf-8"))
    (venv / "installed.json").write_text(json.dumps(stamps | {"cpu": "other"}), encoding="utf-8")
    calls.clear()
    install.main(arguments)
    assert "constraints-cpu.txt" in calls[0]


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda venv: (venv / "pyvenv.cfg").write_text("version = 3.8.1"), "another Python"),
        (lambda venv: (venv / "pyvenv.cfg").unlink(), "no virtual environment"),
        (lambda venv: (venv / "bin" / "python").unlink(), "not whole"),
        (lambda venv: (venv / "installed.json").write_text('{"busy": "yes"}'), "in the middle"),
        (lambda venv: (venv / "installed.json").write_text('{"place": "x"}'), "another folder"),
        (
            lambda venv: next(venv.glob("lib/*/*/pip")).with_name("vllm-1.dist-info").mkdir(),
            "the other kind",
        ),
    ],
)
def test_an_environment_that_does_not_fit_is_made_anew(
    install: ModuleType,
    venv: Path,
    calls: list[str],
    capsys: pytest.CaptureFixture[str],
    spoil: object,
    word: str,
) -> None:
    assert callable(spoil)
    spoil(venv)
    install.main(["--device", "cpu", "--venv", str(venv)])
    assert calls[0] == "venv"
    assert word in capsys.readouterr().out


@pytest.mark.parametrize("fetched", ["own", "index"])
def test_torch_comes_from_pips_own_sources_or_from_the_index(
    install: ModuleType,
    venv: Path,
    calls: list[str],
    monkeypatch: pytest.MonkeyPatch,
    fetched: str,
) -> None:
    next(venv.glob(f"lib/*/*/torch-{VERSION}.dist-info")).rmdir()

    def offers(self: object, package: str, version: str, *source: str) -> tuple[bool, str]:
        return bool(source) is (fetched == "index"), ""

    monkeypatch.setattr(install.Environment, "offers", offers)
    place = ["--torch-index", "https://mirror.test/cpu"]
    assert install.main(["--device", "cpu", "--venv", str(venv), *place]) == 0
    index = "--index-url https://mirror.test/cpu " if fetched == "index" else ""
    assert calls[0] == f"install --no-deps --progress-bar off {index}torch=={VERSION}"


def test_a_machine_that_finds_no_torch_is_told_what_to_do(
    install: ModuleType,
    venv: Path,
    calls: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    next(venv.glob(f"lib/*/*/torch-{VERSION}.dist-info")).rmdir()
    answers = iter([(False, "no such version"), (False, "Name or service not known")])
    monkeypatch.setattr(install.Environment, "offers", lambda *arguments: next(answers))
    assert install.main(["--device", "cpu", "--venv", str(venv)]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: torch {VERSION} is nowhere to be had")
    assert "none for this Python and machine" in said
    assert f"{install.TORCH_INDEX}     cannot be reached" in said
    assert "WHEELS=/path/to/wheels" in said
    assert "TORCH_INDEX=" in said
    assert calls == []


def test_builds_for_cuda_are_removed_beside_a_cpu_torch(
    install: ModuleType, venv: Path, calls: list[str]
) -> None:
    next(venv.glob("lib/*/*/pip")).with_name("torchvision-0.28.0.dist-info").mkdir()
    install.main(["--device", "cpu", "--venv", str(venv)])
    assert "uninstall -y torchvision" in calls


def test_a_missing_wheel_folder_is_named(
    install: ModuleType, venv: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert install.main(["--venv", str(venv), "--wheels", "/nowhere at all"]) == 1
    assert "WHEELS=/nowhere at all: no such folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("nvidia_smi", "device"),
    [
        ("echo 'GPU 0: NVIDIA H200 (UUID: GPU-1)'", "gpu"),
        ("echo 'No devices were found'", "cpu"),
        ("echo 'GPU 0'; exit 9", "cpu"),
        (None, "cpu"),
    ],
)
def test_the_machine_is_asked_for_a_gpu(
    install: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    nvidia_smi: str | None,
    device: str,
) -> None:
    if nvidia_smi is not None:
        program(tmp_path, "nvidia-smi", nvidia_smi)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin" if nvidia_smi else str(tmp_path))
    assert install.find_device("auto") == device
    assert install.find_device("gpu") == "gpu"


def test_vllm_gets_a_path_without_spaces(
    install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    plain = tmp_path / "plain" / ".venv"
    assert install.shelter(plain) == plain
    spaced = tmp_path / "My Projects" / ".venv"
    real = install.shelter(spaced)
    assert real.parent == tmp_path / "cache" / "llmarking"
    (real / "bin").mkdir(parents=True)
    program(real / "bin", "python", 'echo "$0" "$1"')
    install.stand_in(spaced, real)
    said = subprocess.run([spaced / "bin" / "python", "a b"], capture_output=True, text=True)
    assert said.stdout == f"{real}/bin/python a b\n"


def test_pip_is_kept_from_settings_that_point_elsewhere(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PYTHONPATH", "PIP_TARGET", "PIP_PREFIX"):
        monkeypatch.setenv(name, "/elsewhere")
    monkeypatch.setenv("PIP_USER", "1")
    command, environ = install.Environment(Path("/v"), wheels="/my wheels").command("install", "x")
    assert command == ["/v/bin/python", "-m", "pip", "install", "x", "--find-links", "/my wheels"]
    assert environ["PIP_USER"] == "0"
    assert not {"PYTHONPATH", "PIP_TARGET", "PIP_PREFIX"} & {*environ}


def test_pips_failure_is_explained_and_kept(install: ModuleType, venv: Path) -> None:
    (venv / "bin" / "python").unlink()
    program(venv / "bin", "python", "echo 'ERROR: [Errno 28] No space left on device'; exit 1")
    environment = install.Environment(venv)
    with pytest.raises(install.SetupError, match=r"pip failed. The disk is full\.") as caught:
        environment.pip("install", "x")
    assert str(environment.log) in str(caught.value)
    assert "No space left" in environment.log.read_text(encoding="utf-8")


def test_an_interrupted_unpacking_is_remembered(install: ModuleType, venv: Path) -> None:
    (venv / "bin" / "python").unlink()
    program(venv / "bin", "python", "echo 'Installing collected packages: x'; exit 1")
    environment = install.Environment(venv)
    with pytest.raises(install.SetupError):
        environment.pip("install", "x")
    environment.read_stamps()
    assert environment.broken() == "was left in the middle of an installation"


@pytest.mark.parametrize("version", ["3.10", "3.15", None])
def test_an_unfit_python_is_refused_with_a_way_out(tmp_path: Path, version: str | None) -> None:
    unfit = tmp_path / "python3"
    if version:
        program(tmp_path, "python3", f'[ "$1" = --version ] && echo Python {version} || exit 1')
    fit = f'exec "{sys.executable}" "$@"'
    program(tmp_path, "python3.12", fit)
    done = subprocess.run(
        ["sh", ROOT / "scripts" / "setup.sh"],
        env={"PATH": f"{tmp_path}:/bin:/usr/bin", "PYTHON": str(unfit), "MAKE_GOAL": "demo"},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 1
    assert "needs Python 3.11 to 3.14" in done.stderr
    assert (f"Python {version}" if version else "not there") in done.stderr
    # The newest that fits is named; here it may also be a real one.
    assert "make demo PYTHON=python3.1" in done.stderr


def test_make_stops_where_setup_fails(tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", "demo", f"PYTHON={tmp_path}/none"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "needs Python 3.11" in done.stderr
    assert "demo.py" not in done.stdout
