#!/bin/sh
# Does what docs/quick-start.md says, with a scripted claude: docs/check/quick_start.sh MUSTER SCRIPTED_CLAUDE
#
# Runs `muster up` in a repository of its own and, line by line, the blocks of the page that stand below `<!-- run -->`.
set -eu

[ $# -eq 2 ] || { echo "usage: quick_start.sh MUSTER SCRIPTED_CLAUDE" >&2; exit 2; }
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
muster=$(realpath "$1") claude=$(realpath "$2")
work=$(mktemp -d)
up=
finish() {
    if [ -n "$up" ] && kill -TERM "$up" 2>/dev/null; then wait "$up" 2>/dev/null || :; fi
    rm -rf -- "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

mkdir "$work/bin" "$work/repository" "$work/home"
ln -s "$muster" "$work/bin/muster"
ln -s "$claude" "$work/bin/claude"
export HOME="$work/home" PATH="$work/bin:$PATH" XDG_STATE_HOME="$work/state"
unset MUSTER_CONTROLLER MUSTER_TOKEN
cd "$work/repository"
git init -q -b main
git -c user.name=t -c user.email=t@t.invalid commit -q --allow-empty -m first
# What claude does here: asks whether it may, writes a file, and is done.
SCRIPTED_CLAUDE='[{"tool_use":[{"name":"Bash","input":{"command":"echo test > login_test","description":"x"}}]},{"text":"added a test"}]' \
    muster up --listen 127.0.0.1:0 --http 127.0.0.1:0 --claude-pass-env SCRIPTED_CLAUDE >"$work/up.log" 2>&1 &
up=$!
tries=0
until muster workers 2>/dev/null | grep -q connected; do
    tries=$((tries + 1))
    if [ $tries -ge 600 ] || ! kill -0 $up 2>/dev/null; then cat "$work/up.log"; echo "muster up does not come up"; exit 1; fi
    sleep 0.1
done
awk '/^<!-- run -->$/ { armed = 1; next } armed && /^```sh$/ { inside = 1; next } /^```$/ { inside = armed = 0 } inside' \
    "$here/../quick-start.md" >"$work/blocks.sh"
[ "$(grep -c '^muster\|=.(muster' "$work/blocks.sh")" -ge 8 ] || { echo "the quick start has too few lines to run"; exit 1; }
sh -eux "$work/blocks.sh" >"$work/out" 2>&1 || { cat "$work/out"; echo "the quick start does not work"; exit 1; }
grep -q login_test "$work/out" || { cat "$work/out"; echo "its diff shows no change"; exit 1; }
echo "the quick start does what it says"
