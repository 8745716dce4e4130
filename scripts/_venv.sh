# Sourced by the other scripts: `ensure_venv NAME EXTRAS` makes .venv with these extras of
# pyproject.toml, in the exact versions of constraints.txt. It does nothing where .venv is there
# already, with the same pyproject.toml. NAME is `demo` or `test`.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-python3}

fail() {
    echo "error: $1" >&2
    exit 2
}

# What an installed .venv depends on; it is kept in .venv/stamp-NAME.
fingerprint() {
    cat constraints.txt pyproject.toml $(ls setup.py 2>/dev/null) | cksum
}

# A .venv made for the tests serves the demo too: its extras hold those of the demo.
installed() {
    local stamp
    for stamp in ".venv/stamp-$1" .venv/stamp-test; do
        [ "$(cat "$stamp" 2>/dev/null)" = "$(fingerprint)" ] && .venv/bin/python -c "" 2>/dev/null &&
            return 0
    done
    return 1
}

ensure_venv() {
    local name=$1 extras=$2
    installed "$name" && return 0
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        fail "$PYTHON is missing or older than 3.11; install Python 3.11, or name one: PYTHON=python3.12 $0"
    echo "Setting up .venv (some minutes the first time)"
    .venv/bin/python -m pip --version >/dev/null 2>&1 || "$PYTHON" -m venv --clear .venv ||
        fail "$PYTHON cannot make a virtual environment; install its venv module (Debian: python3-venv)"
    rm -f .venv/stamp-*
    .venv/bin/python -m pip install --quiet --disable-pip-version-check \
        -c constraints.txt -e ".[$extras]" ||
        fail "the installation did not finish; the messages above say why; run $0 again"
    fingerprint >".venv/stamp-$name"
}
