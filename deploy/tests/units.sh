#!/bin/sh
# Checks the systemd units without starting them: deploy/tests/units.sh. Needs systemd-analyze (Debian: systemd).
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname -- "$0")/lib.sh"

command -v systemd-analyze >/dev/null || { echo "systemd-analyze is needed (Debian: systemd)"; exit 1; }

# The unit with a program that is there, or it would be said to be missing.
stand_in() { sed 's|/usr/bin/muster|/bin/true|' "$1" >"$T/$(basename "$1")"; }

# It also ends with 0 where it only warns, of a mistyped value for one: any word is a failure.
verified() {
    systemd-analyze verify --man=no "$@" >said 2>&1 || { cat said; fail "refused"; }
    [ ! -s said ] || { cat said; fail "warned of"; }
}

units_are_verified() {
    for unit in controller worker; do stand_in "$deploy/systemd/muster-$unit.service"; done
    verified "$T/muster-controller.service" "$T/muster-worker.service"
}

the_check_notices_a_mistyped_value() {
    stand_in "$deploy/systemd/muster-worker.service"
    sed -i 's/KillMode=process/KillMode=proces/' muster-worker.service
    if (verified "$T/muster-worker.service"); then fail "not noticed"; fi
}

examples_are_verified() {
    for example in "$deploy"/systemd/examples/*.conf; do
        unit=$(sed -n 's|^# To /etc/systemd/system/\(muster-[a-z]*.service\).d/.*|\1|p' "$example")
        stand_in "$deploy/systemd/$unit"
        mkdir -p "$unit.d"
        cp "$example" "$unit.d/"
        verified "$T/$unit"
        rm -r "$unit.d"
    done
}

the_persons_unit_is_verified() {
    stand_in "$deploy/systemd/user/muster-worker.service"
    mkdir run
    XDG_RUNTIME_DIR=$T/run systemd-analyze --user verify --man=no "$T/muster-worker.service" >said 2>&1 || { cat said; fail refused; }
    [ ! -s said ] || { cat said; fail "warned of"; }
}

# Exposure in tenths, 0 to 100: a limit, so that a unit only ever gets tighter.
exposure_stays_low() {
    for limit in controller:12 worker:23; do
        unit=muster-${limit%:*}.service
        stand_in "$deploy/systemd/$unit"
        systemd-analyze security --offline=true --no-pager --threshold="${limit#*:}" "$T/$unit" >said 2>&1 || { cat said; fail "$unit"; }
        tail -1 said
    done
}

# Each of these ended sessions, or claude, when it was tried.
the_worker_keeps_what_sessions_rest_on() {
    unit=$deploy/systemd/muster-worker.service
    for line in KillMode=process Delegate=yes SendSIGHUP=no OOMPolicy=continue; do
        grep -qx "$line" "$unit" || fail "no $line"
    done
    if grep -E '^(PrivateTmp|MemoryDenyWriteExecute|PrivateDevices|DynamicUser|ProtectControlGroups|RemoveIPC)=' "$unit"; then
        fail "ends sessions or claude"
    fi
}

run units_are_verified
run the_check_notices_a_mistyped_value
run examples_are_verified
run the_persons_unit_is_verified
run exposure_stays_low
run the_worker_keeps_what_sessions_rest_on
finish
