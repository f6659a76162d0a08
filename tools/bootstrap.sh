#!/bin/sh
# Makes a virtual environment with pip in it, on a machine that may have nothing but python3 and pip.
# Debian and Ubuntu ship python3 without ensurepip and with a pip that refuses to install for the
# whole system; then virtualenv, which brings its own pip, is put into a folder of its own and used.
set -eu

venv=${1:?usage: tools/bootstrap.sh FOLDER}

if "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
  exit 0
fi

python=
for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
  if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then
  echo "bootstrap: needs Python 3.11 or newer, found $(python3 --version 2>&1)." \
    "Install one, or name it: make PYTHON=/path/to/python3.11 ..." >&2
  exit 1
fi

echo "making $venv with $("$python" --version)"
rm -rf "$venv"
if "$python" -m venv "$venv" >/dev/null 2>&1; then
  exit 0
fi
rm -rf "$venv"

if ! "$python" -m pip --version >/dev/null 2>&1; then
  echo "bootstrap: $python has neither venv nor pip. Install one: apt-get install python3-venv" >&2
  exit 1
fi
tool=$(mktemp -d)
trap 'rm -rf "$tool"' EXIT
"$python" -m pip install --quiet --disable-pip-version-check --target "$tool" virtualenv
PYTHONPATH=$tool "$python" -m virtualenv --quiet "$venv"
