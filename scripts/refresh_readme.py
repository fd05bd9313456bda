#!/usr/bin/env python
"""Grade the README's example answer again and put what is printed into the README.

The block between the two marks begins with a command. It is run against a server that is running,
and all that follows it is replaced by its output:

  python vllm_server.py &
  python scripts/refresh_readme.py
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(
    r"(?P<head><!-- graded answer -->\n```text\n\$ python (?P<command>[^\n]+)\n)"
    r".*?(?P<foot>```\n<!-- end of graded answer -->)",
    re.DOTALL,
)


def main() -> int:
    """Return 1, with the README as it was, if the command fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="default: %(default)s")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", help=argparse.SUPPRESS)
    args = parser.parse_args()
    text = args.readme.read_text(encoding="utf-8")
    block = BLOCK.search(text)
    if block is None:
        print(f"{args.readme} has no graded answer to refresh", file=sys.stderr)
        return 1
    result = subprocess.run(
        [sys.executable, *shlex.split(block["command"])],
        cwd=ROOT,
        env=os.environ | {"LLMARKING_URL": args.url, "COLUMNS": "80", "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if result.returncode:
        return 1
    printed = "\n".join(line.rstrip() for line in result.stdout.splitlines())
    fresh = f"{block['head']}{printed.rstrip()}\n{block['foot']}"
    args.readme.write_text(text.replace(block.group(), fresh), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
