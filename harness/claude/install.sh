#!/bin/sh
# Installs a pinned Claude Code into <repo>/.tools/claude/<version>/ and prints the path of its native binary.
#
#   harness/claude/install.sh 2.1.197
#   harness/claude/install.sh latest
#
# Nothing outside the repository is touched (npm's own cache aside) and no package script is run: the launcher's
# post-install only copies the native binary, which is used directly here. Safe to run twice, and by two at once:
# each installs into a folder of its own, the first rename wins. A changed lock file means a new install.
set -eu

die() { echo "install.sh: $*" >&2; exit 1; }

[ $# -eq 1 ] || die "usage: install.sh <version folder beside this script>"
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
repo=$(CDPATH='' cd -- "$here/../.." && pwd)
pin=$here/$1
case $1 in */* | .*) die "not a version: $1" ;; esac
[ -f "$pin/package-lock.json" ] || die "no pin named $1 (there are: $(cd "$here" && echo */))"

[ "$(uname -s)" = Linux ] || die "only Linux has been tried; found $(uname -s)"
case $(uname -m) in
    x86_64 | amd64) arch=x64 ;;
    aarch64 | arm64) arch=arm64 ;;
    *) die "no Claude Code for $(uname -m)" ;;
esac
libc=
for loader in /lib/ld-musl-*; do
    if [ -e "$loader" ] && [ ! -e /lib64/ld-linux-x86-64.so.2 ] && [ ! -e /lib/ld-linux-aarch64.so.1 ]; then libc=-musl; fi
done

target=$repo/.tools/claude/$1
binary=node_modules/@anthropic-ai/claude-code-linux-$arch$libc/claude

ready() { [ -x "$target/$binary" ] && cmp -s "$pin/package-lock.json" "$target/package-lock.json"; }

if ! ready; then
    command -v npm >/dev/null 2>&1 || die "npm is needed to install Claude Code $1; it was not found on PATH"
    mkdir -p "$repo/.tools/claude"
    work=$(mktemp -d "$repo/.tools/claude/.$1.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    cp "$pin/package.json" "$pin/package-lock.json" "$pin/.npmrc" "$work/"
    (cd "$work" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error) >&2 ||
        die "npm ci failed for Claude Code $1"
    [ -f "$work/$binary" ] || die "npm installed no binary at $binary"
    chmod 755 "$work" "$work/$binary"
    if ! ready; then
        # An install of an older pin steps aside first: rename cannot replace a folder that is not empty.
        old=$work.old
        if [ -e "$target" ]; then mv "$target" "$old" 2>/dev/null || :; fi
        mv -T "$work" "$target" 2>/dev/null || ready || die "could not move the installation to $target"
        rm -rf "$old"
    fi
fi
echo "$target/$binary"
