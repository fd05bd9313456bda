#!/bin/sh
# Find a Python that is new enough, then let scripts/install.py fill .venv. Run by `make setup`.
set -eu

python=${PYTHON:-python3}
fits='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))'

if ! "$python" -c "$fits" 2>/dev/null; then
    found=$("$python" --version 2>&1) || found="not there"
    echo "error: LLMarking needs Python 3.11 to 3.14; $python is: $found" >&2
    for other in python3.14 python3.13 python3.12 python3.11; do
        if "$other" -c "$fits" 2>/dev/null; then
            echo "  $other is here; try:  make ${MAKE_GOAL:-setup} PYTHON=$other" >&2
            exit 1
        fi
    done
    echo "  Install one (Debian, Ubuntu: apt install python3.11 python3.11-venv) and name it:" >&2
    echo "  make ${MAKE_GOAL:-setup} PYTHON=/path/to/python3.11" >&2
    exit 1
fi
exec "$python" "$(dirname "$0")/install.py" "$@"
