#!/usr/bin/env python3
"""Write the lock files from the requirements: every version, direct or not. Run by `make lock`.

One lock holds for Linux on x86-64 and arm64 with Python 3.11 to 3.14; where these differ, a line
has a marker. Versions already locked stay unless they no longer fit, or `--upgrade` is given.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from install import NEVER_ON_CPU, ROOT, TORCH_INDEX, Environment
from packaging.markers import Marker, default_environment

UV = "uv==0.13.9"  # resolves for other machines than this one, as pip cannot

# Left out of the lock for machines without a GPU.
EXCLUDED = {
    "cpu": [*NEVER_ON_CPU, "triton"]  # triton: a gigabyte that xgrammar asks for and only GPUs use
}
# pip takes the CPU build for `==2.13.0`, too, where it can see one.
NOT_FOR_GPUS = "!=2.13.0+cpu"
# What no wheel's metadata say on every machine, so that the resolver misses it.
ADDED = {"cpu": ["intel-cmplr-lib-ur==2024.2.1 ; platform_machine == 'x86_64'  # via intel-openmp"]}


def targets() -> list[dict[str, str]]:
    """The machines a lock must fit, as environments for markers."""
    here = {name: str(value) for name, value in default_environment().items()}
    return [
        here
        | {
            "python_version": f"3.{minor}",
            "python_full_version": f"3.{minor}.0",
            "platform_machine": machine,
        }
        for minor in range(11, 15)
        for machine in ("x86_64", "aarch64")
    ]


def trim(lines: Iterable[str]) -> list[str]:
    """Drop what fits none of our machines, and markers that hold on all of them."""
    kept = []
    for line in lines:
        need, _, via = (part.strip() for part in line.partition("# via "))
        pin, _, marker = (part.strip() for part in need.partition(" ; "))
        if "==" not in pin:
            continue
        fits = [not marker or Marker(marker).evaluate(target) for target in targets()]
        if any(fits):
            parents = ", ".join(name for name in via.split(", ") if not name.startswith("-"))
            need = pin if all(fits) else need
            kept.append(f"{need:<40} # via {parents}" if parents else need)
    return sorted(kept, key=str.lower)


def uv_environment(pip: Environment, wheels: str, torch_index: str) -> dict[str, str]:
    """Where pip looks, told to uv, which does not read pip's configuration."""
    command, environ = pip.command("config", "list")
    listed = subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout
    told: dict[str, list[str]] = {}
    for name, value in re.findall(r"^[^\n=]*?\.?([\w-]+)='(.*)'$", listed, re.MULTILINE):
        told.setdefault(name, []).extend(shlex.split(value))
    extra = told.get("extra-index-url", [])
    if not pip.offers("torch", "2.13.0+cpu")[0]:
        extra.append(torch_index)
    environ["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    environ["UV_EXTRA_INDEX_URL"] = " ".join(dict.fromkeys(extra))
    folders = [*told.get("find-links", []), *filter(None, [wheels])]
    environ["UV_FIND_LINKS"] = ",".join(dict.fromkeys(folders))
    if index := told.get("index-url"):
        environ["UV_DEFAULT_INDEX"] = index[-1]
    if certificate := told.get("cert"):
        environ["SSL_CERT_FILE"] = certificate[-1]
    return environ


def lock(name: str, source: Path, environ: dict[str, str], options: Sequence[str]) -> int:
    """Resolve one requirements file into its lock file; return how many packages it holds."""
    target, cpu = (ROOT / f"constraints-{lock}.txt" for lock in (name, "cpu"))
    with tempfile.TemporaryDirectory() as folder:
        wanted, left_out, limits, resolved = (Path(folder) / part for part in "abcd")
        lines = source.read_text(encoding="utf-8").splitlines()
        wanted.write_text("\n".join(line for line in lines if not line.startswith("-c")))
        left_out.write_text("\n".join(EXCLUDED.get(name, [])))
        limits.write_text(f"torch{NOT_FOR_GPUS}" if name == "gpu" else "")
        if name == "dev":  # goes on top of the others, so it must not want anything else
            limits = cpu
        known = target if target.exists() else cpu
        resolved.write_text(known.read_text(encoding="utf-8") if known.exists() else "")
        command = [
            *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal"),
            *("--python-version", "3.11", "--fork-strategy", "fewest", "--no-header"),
            *("--annotation-style", "line", "--excludes", str(left_out)),
            *("--constraints", str(limits), "--output-file", str(resolved)),
            *(*options, str(wanted)),
        ]
        subprocess.run(command, env=environ, check=True, cwd=folder)
        found = resolved.read_text(encoding="utf-8").splitlines()
    pins = trim([*found, *ADDED.get(name, [])])
    if name == "gpu":
        pins = [re.sub(r"^(torch==\S+)(?= |$)", rf"\1,{NOT_FOR_GPUS}", pin) for pin in pins]
    head = [
        f"# Every version behind {source.name}, written by `make lock`; do not edit.",
        "# `make setup` installs exactly this, by `pip install --no-deps -r`.",
    ]
    target.write_text("\n".join([*head, *pins]) + "\n", encoding="utf-8")
    return len(pins)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--upgrade", action="store_true", help="take the newest that fit")
    parser.add_argument("--wheels", default="", help="a folder with wheels to look in, too")
    parser.add_argument("--torch-index", default=TORCH_INDEX)
    options = parser.parse_args(arguments)
    pip = Environment(Path(sys.prefix))
    pip.pip("install", "--quiet", UV)
    environ = uv_environment(pip, options.wheels, options.torch_index)
    flags = ["--upgrade"] if options.upgrade else []
    for name, source in (("cpu", "-cpu"), ("gpu", ""), ("dev", "-dev")):
        count = lock(name, ROOT / f"requirements{source}.txt", environ, flags)
        print(f"constraints-{name}.txt: {count} packages", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
