#!/bin/sh
# Make a virtual environment with everything this project needs and print its interpreter.
#
#   setup.sh [3.12|3.13|3.14|auto] [dev|docs]
#
# Does all that is missing: uv, the interpreter, the environment in .venvs, the pinned and hashed
# requirements, the project itself (editable). A second run finds the stamp of the first and does
# nothing. The last line on stdout is the interpreter; messages go to stderr.
set -eu
want=${1:-auto}
group=${2:-dev}
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
cd "$root"

say() { echo "setup: $*" >&2; }
case $want in
auto) version=$(cat .venvs/.auto 2>/dev/null || true) ;;
3.12 | 3.13 | 3.14) version=$want ;;
*)
    say "Python '$want' is not supported: use 3.12, 3.13, 3.14 or auto"
    exit 2
    ;;
esac
suffix=
if [ "$group" != dev ]; then suffix=-$group; fi
pins=requirements/$group.txt
[ -r "$pins" ] || {
    say "no requirements named '$group': $pins is missing"
    exit 2
}

# The stamp: line 1 says what the environment was made from, line 2 which interpreter it is.
digest=$({ echo "$root" && cat pyproject.toml "$pins" requirements/build.txt scripts/setup.sh; } | cksum)
ready() {
    venv=$root/.venvs/$version$suffix
    # a symbolic link whose interpreter is gone is not executable
    [ -n "$version" ] && [ -x "$venv/bin/python" ] && [ -r "$venv/.stamp" ] &&
        [ "$(head -n 1 "$venv/.stamp")" = "$digest" ]
}
finish() {
    say "$(tail -n 1 "$venv/.stamp")"
    if [ "$want" = auto ] && [ "$version" != 3.14 ]; then
        say '3.14 was not to be had when this was set up; make clean looks again'
    fi
    echo "$venv/bin/python"
    exit 0
}
if ready; then finish; fi

mkdir -p .venvs
if command -v flock >/dev/null; then
    exec 9>.venvs/.lock
    flock 9
    if ready; then finish; fi
fi
unset VIRTUAL_ENV UV_PYTHON PYTHONHOME PYTHONPATH
UV=$(scripts/uv.sh)
UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-120}
export UV UV_HTTP_TIMEOUT
base=$(scripts/python.sh "$want")
version=$("$base" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
venv=$root/.venvs/$version$suffix
if [ "$want" = auto ]; then echo "$version" >.venvs/.auto; fi

if ! ready; then
    say "installing the requirements of '$group' into .venvs/$version$suffix"
    rm -rf "$venv"
    "$UV" venv --quiet --python "$base" "$venv" >&2
    # compiled once here: processes that may not write bytecode would compile at every start
    "$UV" pip sync --quiet --compile-bytecode --require-hashes --build-constraints requirements/build.txt \
        --python "$venv/bin/python" "$pins" >&2
    "$UV" pip install --quiet --no-deps --no-build-isolation --python "$venv/bin/python" --editable . >&2
    {
        echo "$digest"
        echo "CPython $("$base" -c 'import platform; print(platform.python_version())') ($base) in .venvs/$version$suffix"
    } >"$venv/.stamp"
fi
finish
