#!/bin/sh
# Print the path of a CPython of the wanted version, installing one first if the machine has none.
#
#   python.sh [3.12|3.13|3.14|auto]
#
# auto (the default) is 3.14 when it can be had, else the newest of 3.13 and 3.12.
# Looks, in order, at: $PYTHON312, $PYTHON313 or $PYTHON314, PATH, pyenv, this script's own cache
# and what uv knows; then lets uv download one; 3.14 comes from Debian as the last resort.
# Messages, the choice among them, go to stderr. Exit 1 if no such interpreter can be had.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}

say() { echo "python: $*" >&2; }
bounded() { if command -v timeout >/dev/null; then timeout "$@"; else shift && "$@"; fi; }
# Print the real path of $1 if it runs and is CPython $2: a pyenv shim may exist and not run.
probe() {
    [ -n "$1" ] && "$1" -c '
import sys
if sys.implementation.name != "cpython" or "%d.%d" % sys.version_info[:2] != sys.argv[1]:
    sys.exit(1)
if sys.version_info >= (3, 14):
    import concurrent.interpreters
print(sys.executable)' "$2" 2>/dev/null
}
uv() {
    UV=${UV:-$("$here/uv.sh")} && export UV && "$UV" "$@"
}

on_machine() {
    eval "given=\${PYTHON$(echo "$1" | tr -d .):-}"
    pyenv=$(ls -d "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python3 2>/dev/null | sort -V | tail -n 1)
    for path in "$given" "$(command -v "python$1" || true)" "$pyenv" "$cache/python$1/usr/bin/python$1"; do
        if probe "$path" "$1"; then return 0; fi
    done
    probe "$(uv python find --system "$1" 2>/dev/null)" "$1"
}
downloaded() {
    say "no $1 on this machine; asking uv for one"
    uv --version >/dev/null || return 1
    bounded 180 "$UV" python install --quiet "$1" >/dev/null 2>&1 </dev/null || return 1
    probe "$("$UV" python find --system "$1" 2>/dev/null)" "$1"
}
debian() { [ "$1" = 3.14 ] && probe "$("$here/python314.sh" "$cache/python3.14")" 3.14; }
get() { on_machine "$1" || downloaded "$1" || debian "$1"; }

case ${1:-auto} in
3.12 | 3.13 | 3.14)
    get "$1" || {
        say "CPython $1 is not to be had on this machine: install it, or name it in PYTHON$(echo "$1" | tr -d .)"
        exit 1
    }
    ;;
auto | '')
    if path=$(get 3.14); then
        say "chose 3.14, the newest supported: $path"
    elif path=$(on_machine 3.13) || path=$(on_machine 3.12) || path=$(downloaded 3.13) || path=$(downloaded 3.12); then
        say "chose $path: 3.14 is not to be had on this machine (the subint backend needs it)"
    else
        say 'none of CPython 3.12, 3.13 and 3.14 is to be had on this machine: install one of them'
        exit 1
    fi
    echo "$path"
    ;;
*)
    say "'$1' is not supported: use 3.12, 3.13, 3.14 or auto"
    exit 2
    ;;
esac
