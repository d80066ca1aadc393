#!/bin/sh
# Print the path of a working uv, installing one into .venvs/uv first if the machine has none.
#
# Looks, in order, at: $UV, PATH, .venvs/uv, ~/.local/bin, ~/.cargo/bin. An install touches nothing
# outside .venvs, except that as root on a Debian-like system whose python3 has neither pip nor
# venv, Debian's python3-venv is installed. Messages go to stderr. Exit 1 if no uv can be had.
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
own=$root/.venvs/uv
pins=$root/requirements/uv.txt

say() { echo "uv: $*" >&2; }
works() { [ -n "$1" ] && "$1" --version >/dev/null 2>&1; }
found() {
    echo "$1"
    exit 0
}

for uv in "${UV:-}" "$(command -v uv || true)" "$own/bin/uv" "$HOME/.local/bin/uv" "$HOME/.cargo/bin/uv"; do
    if works "$uv"; then found "$uv"; fi
done

# `--target` leaves the interpreter's own environment alone, so it is allowed where that is managed
# by the system (PEP 668).
with_pip() {
    "$1" -m pip --version >/dev/null 2>&1 || return 1
    PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 PIP_ROOT_USER_ACTION=ignore "$1" -m pip install --quiet --disable-pip-version-check \
        --require-hashes --target "$own" -r "$pins" >&2 </dev/null
}
with_venv() {
    "$1" -c 'import ensurepip' 2>/dev/null || return 1
    "$1" -m venv "$own" >&2 && "$own/bin/python" -m pip install --quiet \
        --disable-pip-version-check --require-hashes -r "$pins" >&2 </dev/null
}
install_with() {
    [ -n "$1" ] && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null || return 1
    for way in with_pip with_venv; do
        rm -rf "$own"
        if "$way" "$1" && works "$own/bin/uv"; then return 0; fi
    done
    return 1
}

say "none on this machine; installing one into ${own#"$root"/}"
mkdir -p "$root/.venvs"
for python in "$(command -v python3 || true)" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.*/bin/python3; do
    if install_with "$python"; then found "$own/bin/uv"; fi
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "python3 has neither pip nor venv; installing Debian's python3-venv"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq >/dev/null </dev/null || true
    apt-get install -y -qq --no-install-recommends python3 python3-venv ca-certificates \
        >/dev/null </dev/null || true
    if install_with "$(command -v python3 || true)"; then found "$own/bin/uv"; fi
fi
say "no uv can be had: install uv, or a python3 with pip or venv (Debian: apt-get install python3-venv), and run this again"
exit 1
