#!/bin/sh
# Install Debian's chromium for the browser tests, where root and apt-get can. It never fails:
# without a browser those tests are skipped and say so. Run by `make test`; tried once per .venv.
set -u

for name in chromium chromium-browser google-chrome; do
    if command -v "$name" >/dev/null 2>&1; then exit 0; fi
done
tried=.venv/browser-tried
if [ -e "$tried" ] || [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "note: no chromium here, so the browser tests are skipped (Debian: apt install chromium)"
    exit 0
fi
echo "Installing chromium for the browser tests …"
if ! { timeout 120 apt-get -qq update &&
    DEBIAN_FRONTEND=noninteractive timeout 600 \
        apt-get -qq install -y --no-install-recommends chromium; } >/dev/null 2>&1; then
    echo "note: apt-get could not install chromium, so the browser tests are skipped"
fi
if [ -d .venv ]; then : >"$tried"; fi
exit 0
