#!/usr/bin/env bash
# Make .venv ready: a supported Python and the exact packages of constraints.txt.
# Does nothing when that is so already. PYTHON=/path/to/python chooses the Python;
# REFERENCES=1 adds the independent implementations that tests and benchmarks compare with.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly venv=.venv
readonly extras="train,jax,recipes,notebooks,dev${REFERENCES:+,references}"
readonly needed_gb=6 # 3.2 GB of packages, as much again while they are downloaded and unpacked
readonly stamp=$venv/.installed

fail() {
    echo "error: $*" >&2
    exit 1
}

supported() { # supported PYTHON: it runs, and is a version that pyproject.toml allows
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

# A pyenv shim can be on the path and not run, so every candidate is run. Debian's python3 comes
# without ensurepip until python3-venv is installed.
find_python() {
    local candidate without_venv="" candidates=(python3.13 python3.12 python3.11 python3 python)
    [[ -n ${PYTHON:-} ]] && candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        supported "$candidate" || continue
        if "$candidate" -c 'import venv, ensurepip' 2>/dev/null; then
            echo "$candidate"
            return
        fi
        without_venv=$candidate
    done
    if [[ -n $without_venv ]]; then
        fail "$without_venv cannot make virtual environments. Install its venv module (Debian, Ubuntu: the package python3-venv)."
    elif [[ -n ${PYTHON:-} ]]; then
        fail "PYTHON must be Python 3.11, 3.12 or 3.13. Received: PYTHON=$PYTHON ($("$PYTHON" --version 2>&1 | tail -n 1))"
    fi
    fail "Python 3.11, 3.12 or 3.13 is needed, and none was found. Install one, or say where it is: make PYTHON=/path/to/python3.12"
}

make_venv() {
    local python
    if [[ -x $venv/bin/python ]] && "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        supported "$venv/bin/python" ||
            fail "$venv holds $("$venv/bin/python" --version), but Python 3.11, 3.12 or 3.13 is needed. Remove it with 'make clean' and try again."
        return
    fi
    python=$(find_python)
    "$python" -m venv --clear "$venv" || fail "'$python -m venv $venv' failed; see above."
}

check_disk() {
    local free_kb
    free_kb=$(df -Pk . | awk 'NR == 2 { print $4 }')
    ((free_kb >= needed_gb * 1024 * 1024)) ||
        fail "$needed_gb GB of free disk are needed here, $((free_kb / 1024 / 1024)) GB are free."
}

# What decides which packages are installed. The folder is in it because an editable install and a
# virtual environment both hold its path.
fingerprint() {
    { pwd && echo "$extras" && cat pyproject.toml constraints.txt; } | cksum
}

wanted=$(fingerprint)
if [[ -f $stamp && $(<"$stamp") == "$wanted" && -x $venv/bin/python ]]; then
    exit 0
fi
if compgen -G "$venv/lib/python3.*/site-packages/tensorflow" >/dev/null; then
    notice="Bringing $venv up to date with constraints.txt."
else
    notice="Installing the packages of constraints.txt into $venv: about 3 GB, a few minutes, only this once."
    check_disk
fi
make_venv
rm -f "$stamp" # written again only after a whole install, so an interrupted one is repeated
echo "$notice"
"$venv/bin/python" -m pip install --quiet --quiet --disable-pip-version-check --no-input \
    --constraint constraints.txt --editable ".[$extras]" ||
    fail "the install failed; see above. The same command tries again."
echo "$wanted" >"$stamp"
