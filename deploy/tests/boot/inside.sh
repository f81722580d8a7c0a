#!/bin/sh
# Runs inside the booted container, see ../boot.sh: the life of an installation, in order, with sessions running.
set -eu

step() { passed=$((passed + 1)); echo "ok      $*"; }
passed=0
fail() {
    echo "FAILED  $*"
    systemctl --no-pager status 'muster-*' 2>&1 | tail -60
    journalctl --no-pager -n 60 2>/dev/null | tail -60
    exit 1
}
# Waits for a condition; a minute is patience, not a claim.
until_true() {
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 600 ] || fail "never came true: $*"
        sleep 0.1
    done
}
main_pid() { systemctl show -P MainPID "muster-$1.service"; }
status_is() { [ "$(muster status --json "$1" | sed -n 's/.*"status": *"\([a-z_]*\)".*/\1/p' | head -1)" = "$2" ]; }
connected() { muster workers | grep -q connected; }

# A session that waits for a permission, so that it is alive for as long as we want; then its tool runs a command.
waiting_session() {
    session=$(muster spawn --project web "work
[[script]][{\"tool_use\":[{\"name\":\"Bash\",\"input\":{\"command\":\"$1\",\"description\":\"x\"}}]},{\"text\":\"finished\"}]")
    until_true status_is "$session" needs_attention
    claude=$(pgrep -n -f /test/scripted-claude)
    [ -n "$claude" ] || fail "no claude runs"
}
lives() { kill -0 "$claude" 2>/dev/null || fail "claude is gone after $1"; }
finishes() {
    muster answer "$session" --allow >/dev/null
    until_true status_is "$session" completed
}

make_project() {
    install -d -o muster -g muster /var/lib/muster/projects
    runuser -u muster -- sh -c '
        git init -q -b main /var/lib/muster/projects/web && cd /var/lib/muster/projects/web &&
        git -c user.name=t -c user.email=t@t.invalid commit -q --allow-empty -m first'
}
configure() {
    make_project
    cat >/etc/muster/worker.toml <<TOML
state-dir = "/var/lib/muster/worker"
name = "here"
slots = 4
claude = "/test/scripted-claude"
project = ["web=/var/lib/muster/projects/web"]
TOML
}

# --- The package ---

dpkg -i /test/muster_1.0_amd64.deb >/test/dpkg 2>&1 || { cat /test/dpkg; fail "dpkg -i"; }
getent passwd muster muster-controller >/dev/null || fail "no accounts"
for role in worker controller; do
    if systemctl is-enabled --quiet muster-$role || systemctl is-active --quiet muster-$role; then fail "$role started by itself"; fi
done
step "installing makes accounts and starts nothing"

configure
systemctl enable --quiet --now muster-controller muster-worker
until_true connected
step "controller and worker start, and find each other"

waiting_session "id -un; cat /proc/self/cgroup; touch /etc/x /usr/x; ls /var/lib/muster-controller; cat /etc/muster/worker.env; \
grep NoNewPrivs /proc/self/status; ls /dev; touch /tmp/free && echo tmp-is-free"
unit=/system.slice/muster-worker.service
grep -q "$unit/muster-[0-9]*$" "/proc/$claude/cgroup" || { cat "/proc/$claude/cgroup"; fail "the session has no control group of its own"; }
step "a session runs in a control group of its own below the unit"

before=$(main_pid worker)
systemctl restart muster-worker
[ "$(main_pid worker)" != "$before" ] || fail "it was not restarted"
lives "a restart of the worker"
until_true connected
status_is "$session" needs_attention || fail "the session is not as it was"
finishes
muster logs "$session" --raw >/test/log
has() { grep -q -e "$1" /test/log || { cat /test/log; fail "the session did not say: $1"; }; }
has 'touch: cannot touch ./etc/x.: Read-only file system'
has 'touch: cannot touch ./usr/x.: Read-only file system'
has 'ls: cannot open directory ./var/lib/muster-controller.: Permission denied'
has 'cat: /etc/muster/worker.env: Permission denied'
has 'NoNewPrivs:\\t1'
has tmp-is-free
step "a session lives through systemctl restart muster-worker, and its tools run within the unit's bounds"

waiting_session "echo more"
kill -KILL "$(main_pid worker)"
until_true systemctl is-active --quiet muster-worker
until_true connected
lives "the worker was killed"
finishes
step "a session lives through a killed worker, which systemd starts again"

waiting_session "echo more"
systemctl restart muster-controller
lives "a restart of the controller"
until_true status_is "$session" needs_attention
finishes
step "a session lives through systemctl restart muster-controller"

waiting_session "echo more"
worker=$(main_pid worker) controller=$(main_pid controller)
dpkg -i /test/muster_1.1_amd64.deb >/test/dpkg 2>&1 || { cat /test/dpkg; fail "dpkg -i, the upgrade"; }
case " $(main_pid worker) $(main_pid controller) " in
    *" $worker "* | *" $controller "* | *" 0 "*) fail "the old program still runs, or none" ;;
esac
lives "an upgrade"
grep -q 'name = "here"' /etc/muster/worker.toml || fail "settings were overwritten"
until_true status_is "$session" needs_attention
finishes
step "a session lives through an upgrade; both services run the new program with the settings they had"

waiting_session "echo more"
systemctl stop muster-worker
lives "systemctl stop"
until_true status_is "$session" unreachable
systemctl start muster-worker
until_true status_is "$session" needs_attention
finishes
step "a session lives on while its worker is stopped, and says unreachable"

waiting_session "echo never"
dpkg -r muster >/test/dpkg 2>&1 || { cat /test/dpkg; fail "dpkg -r"; }
if kill -0 "$claude" 2>/dev/null; then fail "a session outlived the package"; fi
[ -z "$(ps -u muster,muster-controller -o pid=)" ] || fail "something still runs"
for path in /var/lib/muster/worker /var/lib/muster-controller /etc/muster/worker.toml; do
    [ -e "$path" ] || fail "$path went with the package"
done
[ ! -e /etc/systemd/system/multi-user.target.wants/muster-worker.service ] || fail "still enabled"
step "removing the package ends everything and keeps data and settings"

dpkg -i /test/muster_1.1_amd64.deb >/test/dpkg 2>&1 || { cat /test/dpkg; fail "dpkg -i again"; }
systemctl enable --quiet --now muster-controller muster-worker
until_true connected
muster ps >/test/ps
grep -q "$session" /test/ps || fail "the records are lost"
# The session that was killed is resumed, or said to have ended: but known, and never twice.
step "installed again it knows its sessions"

dpkg --purge muster >/test/dpkg 2>&1 || { cat /test/dpkg; fail "dpkg --purge"; }
for path in /etc/muster /var/lib/muster /var/lib/muster-controller /usr/bin/muster /usr/share/doc/muster; do
    [ ! -e "$path" ] || fail "purging left $path"
done
if systemctl cat muster-worker >/dev/null 2>&1; then fail "purging left a unit"; fi
step "purging leaves nothing"

# --- install.sh ---

PATH=$PATH:/usr/local/bin
archive=$(echo /test/muster-*.tar.gz)
/test/install.sh --from "$archive" >/test/install
configure
printf 'remote-listen = "127.0.0.1:7430"\nremote-name = ["127.0.0.1"]\n' >>/etc/muster/controller.toml
/test/install.sh --from "$archive" --enable controller >/test/install
until_true muster ps
muster token create --name here | /test/install.sh --from "$archive" --join - >/test/install
until_true connected
# No controller is named in its settings: it has the one that its identity names.
[ -f /var/lib/muster/worker/identity/member.json ] || fail "it did not join"
is_private() { [ "$(stat -c %a:%U "$1")" = "$2" ] || fail "$1 is $(stat -c %a:%U "$1"), not $2"; }
is_private /var/lib/muster 700:muster
is_private /var/lib/muster/worker/identity 700:muster
is_private /var/lib/muster-controller/ca/root.key 600:muster-controller
step "install.sh installs, joins by a token and starts"

echo nonsense | /test/install.sh --from "$archive" --enable controller --join - >/test/install
if grep -q '^install\|^restart\|^enable\|^join' /test/install; then cat /test/install; fail "the second run did something"; fi
step "once more it does nothing"

waiting_session "echo more"
worker=$(main_pid worker)
echo "# an older unit" >>/usr/local/lib/systemd/system/muster-worker.service
/test/install.sh --from "$archive" >/test/install
[ "$(main_pid worker)" != "$worker" ] || fail "not restarted"
lives "an upgrade by install.sh"
until_true status_is "$session" needs_attention
finishes
step "a session lives through an upgrade by install.sh"

waiting_session "echo never"
/usr/local/share/muster/install.sh --uninstall --purge >/test/install
if kill -0 "$claude" 2>/dev/null; then fail "a session outlived --uninstall"; fi
for path in /usr/local/bin/muster /etc/muster /var/lib/muster /var/lib/muster-controller /usr/local/share/muster; do
    [ ! -e "$path" ] || fail "--uninstall --purge left $path"
done
step "install.sh --uninstall --purge ends everything and leaves nothing"

# --- Ansible ---

play() {
    ansible-playbook -c local -i localhost, /test/play.yml -e "archive=$archive" "$@" >/test/play 2>&1 || { cat /test/play; fail "the play"; }
}
cat >/test/play.yml <<'YAML'
- name: All of it on one machine
  hosts: localhost
  roles:
    - role: muster
      vars:
        muster_archive: "{{ archive }}"
        muster_installer: /test/install.sh
        muster_roles: "{{ wanted }}"
        muster_controller_settings: {remote-listen: "127.0.0.1:7430", remote-name: ["127.0.0.1"]}
        muster_join_token: "{{ token | default('') }}"
        muster_worker_settings:
          name: here
          slots: "{{ slots | default(4) | int }}"
          claude: /test/scripted-claude
          project: [web=/var/lib/muster/projects/web]
        muster_worker_environment: [ANTHROPIC_API_KEY=not-a-key]
YAML
export ANSIBLE_ROLES_PATH=/test/roles ANSIBLE_NOCOLOR=1 ANSIBLE_JINJA2_NATIVE=1
play -e '{"wanted": ["controller"]}'
until_true muster ps
make_project
token=$(muster token create --name here)
play -e '{"wanted": ["controller", "worker"]}' -e "token=$token"
until_true connected
is_private /etc/muster/worker.env 600:root
if grep -q 'not-a-key\|mustjoin_' /test/play; then fail "a secret is in what Ansible printed"; fi
waiting_session "echo more"
step "the role installs, joins and starts"

worker=$(main_pid worker)
play -e '{"wanted": ["controller", "worker"]}' -e "token=$token"
grep -q 'changed=0 .*failed=0' /test/play || { cat /test/play; fail "a second play changed something"; }
[ "$(main_pid worker)" = "$worker" ] || fail "restarted for nothing"
step "a second play changes nothing"

play -e '{"wanted": ["controller", "worker"]}' -e "token=$token" -e slots=3
[ "$(main_pid worker)" != "$worker" ] || fail "not restarted with its new settings"
grep -qx 'slots = 3' /etc/muster/worker.toml || { cat /etc/muster/worker.toml; fail "the setting was not written"; }
lives "a play that changes settings"
until_true status_is "$session" needs_attention
finishes
step "a play that changes settings restarts the worker, and a session lives through it"

echo "$passed passed, 0 failed, 0 skipped"
