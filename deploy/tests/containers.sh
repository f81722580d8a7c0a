#!/bin/sh
# Builds both images and runs the farm of compose.yaml from them: deploy/tests/containers.sh MUSTER SCRIPTED_CLAUDE
#
# Needs root and, of Debian, podman, buildah, crun and debootstrap. Instead of the base image it takes the system that boot.sh
# made. Nothing has a network but the build, which asks apt's own sources. Takes three minutes and 5 GB, given back at the end.
set -eu

die() { echo "containers.sh: $*" >&2; exit 1; }
fail() { echo "FAILED  $*"; exit 1; }
step() { passed=$((passed + 1)); echo "ok      $*"; }
passed=0

[ $# -eq 2 ] || [ $# -eq 4 ] || die "usage: containers.sh MUSTER SCRIPTED_CLAUDE"
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
deploy=$(dirname -- "$here")
base=$(dirname -- "$deploy")/.tools/deploy/base-2
if [ "${4:-}" != inside ]; then
    [ "$(id -u)" = 0 ] || die "needs root"
    command -v podman >/dev/null || die "podman is missing (Debian: podman buildah crun)"
    [ -d "$base" ] || die "$base is missing: deploy/tests/boot.sh makes it"
    for program in "$1" "$2"; do [ -x "$program" ] || die "$program is no program"; done
    work=$(mktemp -d)
    # shellcheck disable=SC2317,SC2329 # called by the trap
    clean_up() {
        # Layers may hold mounts of a build that was ended.
        umount -R "$work/storage" 2>/dev/null || :
        rm -rf -- "$work"
    }
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    # Its own mounts, so that it finds one hierarchy of control groups whatever the machine has.
    unshare --mount "$0" "$1" "$2" "$work" inside
    exit
fi

work=$3
umount -R /sys/fs/cgroup 2>/dev/null || :
mount -t cgroup2 none /sys/fs/cgroup
podman="podman --root $work/storage --runroot $work/run --storage-driver vfs --cgroup-manager cgroupfs --events-backend file"
pod() { # shellcheck disable=SC2086 # words
    $podman "$@"
}
bounds="--pull=never --cgroups=disabled --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 --cap-drop=ALL --security-opt=no-new-privileges"
until_true() {
    tries=0
    until "$@" >"$work/last" 2>&1; do
        tries=$((tries + 1))
        if [ $tries -ge 120 ]; then
            cat "$work/last"
            pod logs controller
            pod logs worker
            fail "never came true: $*"
        fi
        sleep 0.5
    done
}
muster() { pod exec controller muster "$@"; }
connected() { muster workers | grep -q connected; }
status_is() { muster ps | grep "^$1" | grep -q "$2"; }

tar -C "$base" -c . | pod import - muster-base:bookworm >/dev/null 2>&1
strip -o "$work/muster" "$1" 2>/dev/null || cp -- "$1" "$work/muster"
chmod 755 "$work/muster"
BUILDER=$podman "$deploy/containers/build.sh" "$work/muster" "$2" --isolation=chroot --network=host --pull=never --layers=false \
    --build-arg BASE=localhost/muster-base:bookworm >"$work/build" 2>&1 || { tail -20 "$work/build"; fail "build"; }
step "both images build"

mkdir "$work/projects"
git -C "$work/projects" init -q -b main
git -C "$work/projects" -c user.name=t -c user.email=t@t.invalid commit -q --allow-empty -m first
chown -R 10002:10002 "$work/projects"
# shellcheck disable=SC2086 # words
{
    pod run -d --name controller --network=none --read-only --tmpfs /tmp $bounds -v c:/var/lib/muster-controller \
        localhost/muster-controller >/dev/null
    pod run -d --name worker --network=container:controller $bounds -v w:/var/lib/muster -v "$work/projects:/projects" \
        localhost/muster-worker worker --name here --project work=/projects >/dev/null
}
trap 'pod rm -f worker >/dev/null 2>&1; pod rm -f controller >/dev/null 2>&1' EXIT
until_true connected
step "controller, read only, and worker find each other without capabilities"

session=$(muster spawn 'work
[[script]][{"tool_use":[{"name":"Bash","input":{"command":"id -u; which node git","description":"x"}}]},{"text":"finished"}]')
until_true status_is "$session" needs_attention
muster answer "$session" --allow >/dev/null
until_true status_is "$session" completed
muster logs "$session" --raw >"$work/log"
grep -q '10002\\n/usr/bin/node\\n/usr/bin/git' "$work/log" || { cat "$work/log"; fail "the tool saw something else"; }
step "a session asks, is answered and ends; its tools run as the worker's user"

session=$(muster spawn 'work
[[script]][{"tool_use":[{"name":"Bash","input":{"command":"true","description":"x"}}]}]')
until_true status_is "$session" needs_attention
pod stop -t 30 worker >/dev/null
pod start worker >/dev/null
until_true status_is "$session" completed
step "a session that was ended with its container is resumed with it"

pod stop -t 30 controller >/dev/null
pod start controller >/dev/null
pod restart worker >/dev/null
until_true connected
status_is "$session" completed || fail "the records are lost"
step "records outlive the controller's container"

# shellcheck disable=SC2086 # words
printf '%s\n' '{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}' |
    timeout 60 $podman exec -i controller muster mcp >"$work/mcp"
grep -q '"serverInfo":{"name":"muster"' "$work/mcp" || fail "no MCP server answered"
step "an MCP client reaches it through exec"

# As the chart runs them: the controller listens for other machines, a worker joins by the chart's own command and has no project
# of its own.
pod rm -f worker >/dev/null
pod rm -f controller >/dev/null
# shellcheck disable=SC2086 # words
pod run -d --name controller --network=none --read-only --tmpfs /tmp $bounds -v farm:/var/lib/muster-controller \
    -e MUSTER_STATE_DIR=/var/lib/muster-controller/state -e MUSTER_REMOTE_LISTEN=127.0.0.1:7430 \
    -e MUSTER_REMOTE_NAME=127.0.0.1,farm.example localhost/muster-controller >/dev/null
until_true muster whoami
mkdir "$work/join"
muster token create --uses 3 --ttl 1h >"$work/join/token"
chmod 755 "$work/join"
chmod 644 "$work/join/token"
line=$("$deploy/../.tools/deploy/lint/bin/python3" "$deploy/tests/helm.py" --join-command)
join() { # shellcheck disable=SC2086 # words
    pod run --rm --network=container:controller $bounds -v pod-0:/var/lib/muster -e MUSTER_STATE_DIR=/var/lib/muster/worker \
        -e MUSTER_NAME=farm-muster-worker-0 --entrypoint sh "$@" localhost/muster-worker -c "$line"
}
join -v "$work/join:/run/join:ro"
join # without the token: it has joined
# shellcheck disable=SC2086 # words
pod run -d --name worker --network=container:controller $bounds -v pod-0:/var/lib/muster -e MUSTER_STATE_DIR=/var/lib/muster/worker \
    -e MUSTER_NAME=farm-muster-worker-0 -e MUSTER_SLOTS=4 -e MUSTER_LABEL=gpu=yes,os=linux localhost/muster-worker worker >/dev/null
until_true connected
muster workers | grep -q '^farm-muster-worker-0' || fail "another name"
step "a worker joins by the command of the chart, once, and runs"

echo "$passed passed, 0 failed, 0 skipped"
