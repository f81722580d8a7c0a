#!/bin/sh
# Backs up a controller at work and restores it: deploy/tests/backup.sh MUSTER SCRIPTED_CLAUDE. About half a minute.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname -- "$0")/lib.sh"

[ $# -eq 2 ] || { echo "usage: backup.sh MUSTER SCRIPTED_CLAUDE" >&2; exit 2; }
muster=$(realpath "$1") claude=$(realpath "$2")
export muster claude
backup="$deploy/backup.sh"

until_true() {
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 600 ] || { tail -20 ./*.log; fail "never came true: $*"; }
        sleep 0.1
    done
}
# Ends what this test started, and waits for it: sessions are stopped before, so nothing outlives them.
stop() { if [ -n "$1" ] && kill "-$2" "$1" 2>/dev/null; then wait "$1" 2>/dev/null || :; fi; }
controller_pid='' worker_pid=''
farm_trap() { trap 'stop "$worker_pid" TERM; stop "$controller_pid" KILL' EXIT; }

controller() { # state folder; on the port it had before, if it had one
    HOME=$T "$muster" controller --listen "${url#http://}" --state-dir "$1" --port-file port >>controller.log 2>&1 &
    controller_pid=$!
    until_true "$muster" ps --controller "$url"
}
farm() {
    git init -q -b main repo
    git -C repo -c user.name=t -c user.email=t@t.invalid commit -q --allow-empty -m first
    HOME=$T "$muster" controller --listen 127.0.0.1:0 --state-dir state --port-file port >>controller.log 2>&1 &
    controller_pid=$!
    farm_trap
    until_true [ -s port ]
    url=http://$(cat port)
    export MUSTER_CONTROLLER="$url"
    HOME=$T "$muster" worker --name here --slots 4 --state-dir worker --project "web=$T/repo" --claude "$claude" >>worker.log 2>&1 &
    worker_pid=$!
    until_true connected
}
spawned_at_least() { [ "$(wc -l <spawned)" -ge "$1" ]; }
gone() { ! kill -0 "$1"; }
connected() { "$muster" workers | grep -q 'here	connected'; }
status_is() { "$muster" ps --all | grep "^$1	" | grep -q "	$2	"; }
done_with() { # a session that says its word and ends
    session=$("$muster" spawn "$1
[[script]][{\"text\":\"said $1\"}]")
    until_true status_is "$session" completed
}
waiting() {
    session=$("$muster" spawn 'work
[[script]][{"tool_use":[{"name":"Bash","input":{"command":"echo x > file","description":"x"}}]},{"text":"finished"}]')
    until_true status_is "$session" needs_attention
}

a_backup_of_a_controller_at_work_holds_all_that_was_acknowledged() {
    farm
    done_with one
    one=$session
    # Spawns all the while: each that was acknowledged before a backup began must be in it.
    (while [ ! -e enough ]; do "$muster" spawn 'x [[script]][{"text":"x"}]' >>spawned; done) 2>/dev/null &
    spawner=$!
    for round in 1 2 3; do
        until_true spawned_at_least $((round * 5))
        sed '$d' spawned >"known.$round" # the last line may be half written
        "$backup" save state "backup.$round.tar.gz"
    done
    touch enough
    wait $spawner || :
    stop "$worker_pid" TERM
    stop "$controller_pid" KILL
    for round in 1 2 3; do
        "$backup" restore "backup.$round.tar.gz" "restored.$round"
        controller "restored.$round"
        "$muster" ps --all >found
        while read -r session; do grep -q "^$session	" found || fail "backup $round lost $session"; done <"known.$round"
        "$muster" logs "$one" --raw | grep -q 'said one' || fail "output is lost"
        stop "$controller_pid" TERM
    done
    controller restored.3
    HOME=$T "$muster" worker --name here --slots 4 --state-dir worker --project "web=$T/repo" --claude "$claude" >>worker.log 2>&1 &
    worker_pid=$!
    until_true connected
    done_with again
}

a_session_that_runs_is_found_again_after_a_restore() {
    farm
    waiting
    "$backup" save state backup.tar.gz
    stop "$controller_pid" KILL
    mv state lost
    "$backup" restore backup.tar.gz state
    controller state
    until_true status_is "$session" needs_attention
    "$muster" answer "$session" --allow
    until_true status_is "$session" completed
}

a_session_younger_than_the_backup_is_ended_and_its_work_kept() {
    farm
    "$backup" save state backup.tar.gz
    waiting
    branch=muster/$session
    claude_pid=$(pgrep -f -- "--session-id=$("$muster" status --json "$session" | sed -n 's/.*"id": *"\([0-9a-f-]*\)".*/\1/p' | head -1)")
    stop "$controller_pid" KILL
    mv state lost
    "$backup" restore backup.tar.gz state
    controller state
    until_true connected
    until_true gone "$claude_pid"
    ends_with 3 "$muster" status "$session"
    git -C repo rev-parse --verify --quiet "$branch" >/dev/null || fail "its branch is gone"
    done_with after
}

identities_come_back() {
    farm
    secret=$("$muster" token create ada --role viewer --json | sed -n 's/.*"token": *"\([^"]*\)".*/\1/p')
    cp state/ca/root.pem before.pem
    "$backup" save state backup.tar.gz
    stop "$worker_pid" TERM
    stop "$controller_pid" KILL
    "$backup" restore backup.tar.gz restored
    is "$(stat -c %a restored)" 700
    is "$(stat -c %a restored/ca/root.key)" "$(stat -c %a state/ca/root.key)"
    controller restored
    cmp before.pem restored/ca/root.pem
    MUSTER_TOKEN=$secret "$muster" whoami | grep -q ada || fail "the token is unknown"
}

a_damaged_backup_is_refused_and_so_is_a_folder_with_something_in_it() {
    farm
    done_with one
    "$backup" save state backup.tar.gz
    is "$(stat -c %a backup.tar.gz)" 600
    "$backup" verify backup.tar.gz
    ends_with 1 "$backup" restore backup.tar.gz state
    says 'is not empty'
    mkdir unpacked
    tar -C unpacked -xzf backup.tar.gz
    journal=$(echo unpacked/muster/store/journal-*)
    printf X | dd of="$journal" bs=1 seek=30 conv=notrunc status=none
    tar -C unpacked -czf damaged.tar.gz muster
    ends_with 1 "$backup" verify damaged.tar.gz
    ends_with 1 "$backup" restore damaged.tar.gz new
    says 'is damaged'
    absent new
    head -c 2000 backup.tar.gz >half.tar.gz
    ends_with 1 "$backup" restore half.tar.gz new
    absent new
    ends_with 1 "$backup" save worker other.tar.gz
    says 'is no state folder of a controller'
    is "$(find . -maxdepth 1 -name '.backup.*' -o -maxdepth 1 -name '.restore.*' | wc -l)" 0
}

run a_backup_of_a_controller_at_work_holds_all_that_was_acknowledged
run a_session_that_runs_is_found_again_after_a_restore
run a_session_younger_than_the_backup_is_ended_and_its_work_kept
run identities_come_back
run a_damaged_backup_is_refused_and_so_is_a_folder_with_something_in_it
finish
