#!/bin/sh
# Validates, installs and starts the plugin with the pinned Claude Code versions, in a home of its own. No network, no key.
#
#   deploy/claude-plugin/validate.sh [MUSTER]      MUSTER: the program the plugin shall start [target/debug/muster]
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
repo=$(CDPATH='' cd -- "$here/../.." && pwd)
muster=${1:-${CARGO_TARGET_DIR:-$repo/target}/debug/muster}
[ -x "$muster" ] || { echo "plugin: there is no program $muster; build it or name another" >&2; exit 1; }
case $muster in /*) ;; *) muster=$(pwd)/$muster ;; esac

for version in 2.1.197 latest; do
    claude=$("$repo/harness/claude/install.sh" "$version")
    home=$(mktemp -d)
    trap 'rm -rf "$home"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    # A clean environment: nothing of whoever runs this is read or changed.
    run() {
        if ! env -i HOME="$home" PATH="$PATH" MUSTER_BIN="$muster" DISABLE_AUTOUPDATER=1 \
            CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1 "$claude" "$@" </dev/null >"$home/log" 2>&1; then
            echo "plugin: $version: claude $* failed:" >&2
            cat "$home/log" >&2
            exit 1
        fi
    }
    says() {
        grep -q "$1" "$home/log" || { echo "plugin: $version: no \"$1\" in:" >&2; cat "$home/log" >&2; exit 1; }
    }
    run plugin validate --strict "$here"
    run plugin validate --strict "$here/muster"
    run plugin marketplace add "$here"
    run plugin install muster@muster
    run plugin list
    says enabled
    run mcp list
    says 'plugin:muster:muster: .*Connected'
    echo "plugin: $version: valid, installed, connected"
    rm -rf "$home"
    trap - EXIT
done
