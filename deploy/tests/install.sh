#!/bin/sh
# Tests install.sh and archive.sh in folders of their own: deploy/tests/install.sh. Touches no service and no account.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname -- "$0")/lib.sh"

# A release of that version in $T/dist. The program only tells its version: what install.sh does with it is the same.
release() {
    mkdir -p "$T/build"
    # shellcheck disable=SC2016 # $1 is the program's
    printf '#!/bin/sh\n[ "$1" = --version ] || exit 9\necho muster %s\n' "$1" >"$T/build/muster"
    chmod 755 "$T/build/muster"
    archive=$("$deploy/archive.sh" "$T/build/muster" "$T/dist")
}

system() { "$deploy/install.sh" --system --root "$T/root" "$@"; }

installs_below_a_root() {
    release 1.0.0
    system --from "$archive"
    there root/usr/local/bin/muster root/usr/local/lib/sysusers.d/muster.conf root/etc/muster/controller.toml
    is "$(root/usr/local/bin/muster --version)" "muster 1.0.0"
    is "$(stat -c %a root/etc/muster/worker.env)" 600
    grep -q '^ExecStart=/usr/local/bin/muster worker ' root/usr/local/lib/systemd/system/muster-worker.service
    if grep -rq '/usr/bin/muster' root/usr/local/lib/systemd; then fail "a unit names a program that is not there"; fi
}

a_second_run_changes_nothing() {
    release 1.0.0
    system --from "$archive" >/dev/null
    state_of root >before
    system --from "$archive" >said
    state_of root >after
    cmp before after
    if grep -q '^install\|^write\|^note\|^remove' said; then cat said; fail "it did something"; fi
}

an_upgrade_replaces_the_program_and_keeps_settings() {
    release 1.0.0
    system --from "$archive"
    echo 'slots = 3' >root/etc/muster/worker.toml
    echo other >root/usr/local/bin/other
    release 1.1.0
    system --from "$archive"
    is "$(root/usr/local/bin/muster --version)" "muster 1.1.0"
    is "$(cat root/etc/muster/worker.toml)" "slots = 3"
    is "$(cat root/usr/local/bin/other)" other
    is "$(find root -name '*.new.*' | wc -l)" 0
}

what_a_new_version_has_no_more_is_removed() {
    release 1.0.0
    system --from "$archive"
    echo /usr/local/share/muster/examples/old.conf >>root/usr/local/share/muster/manifest
    touch root/usr/local/share/muster/examples/old.conf
    system --from "$archive"
    absent root/usr/local/share/muster/examples/old.conf
    if grep -q old.conf root/usr/local/share/muster/manifest; then fail "still listed"; fi
}

a_running_program_is_replaced_not_overwritten() {
    release 1.0.0
    system --from "$archive"
    exec 9<root/usr/local/bin/muster
    release 1.1.0
    system --from "$archive"
    grep -q 1.0.0 <&9 # who has the old one open keeps it
}

a_dry_run_does_nothing_and_says_what() {
    release 1.0.0
    mkdir root
    state_of root >before
    system --from "$archive" --dry-run >said
    says 'would install .*/usr/local/bin/muster'
    says 'would write .*/etc/muster/worker.toml'
    state_of root >after
    cmp before after
    system --from "$archive" >/dev/null
    state_of root >before
    system --uninstall --purge --dry-run >said
    says 'would remove .*/usr/local/bin/muster'
    says 'would remove .*/etc/muster'
    state_of root >after
    cmp before after
}

a_wrong_checksum_changes_nothing() {
    release 1.0.0
    mkdir root
    zeros=0000000000000000000000000000000000000000000000000000000000000000
    ends_with 1 system --from "$archive" --sha256 "$zeros"
    says 'is not what it should be'
    printf x >>"$archive"
    ends_with 1 system --from "$archive"
    says 'is not what it should be'
    is "$(find root | wc -l)" 1
}

a_checksum_is_needed() {
    release 1.0.0
    sum=$(sha256sum "$archive" | cut -d' ' -f1)
    mv dist/SHA256SUMS kept
    ends_with 1 system --from "$archive"
    says 'there is no checksum'
    echo "$sum  another.tar.gz" >dist/SHA256SUMS
    ends_with 1 system --from "$archive"
    says 'has no line'
    absent root
    system --from "$archive" --sha256 "$(echo "$sum" | tr a-f A-F)"
    there root/usr/local/bin/muster
}

archives_that_lead_out_are_refused() {
    mkdir -p evil/muster-1
    printf '#!/bin/sh\n' >evil/muster-1/muster
    ln -s /etc evil/muster-1/systemd
    tar -C evil -czf link.tar.gz muster-1
    ends_with 1 system --from link.tar.gz --sha256 "$(sha256sum link.tar.gz | cut -d' ' -f1)"
    says 'no file'
    rm evil/muster-1/systemd
    touch outside
    tar -C evil/muster-1 -czPf out.tar.gz ../muster-1/muster ../../outside
    ends_with 1 system --from out.tar.gz --sha256 "$(sha256sum out.tar.gz | cut -d' ' -f1)"
    says 'lead out'
    absent root
}

a_program_that_does_not_run_here_is_not_installed() {
    release 1.0.0
    system --from "$archive"
    mkdir other
    tar -xzf "$archive" -C other
    printf '#!/bin/sh\necho wrong machine >&2\nexit 1\n' >"$(echo other/muster-*)/muster"
    tar -C other -czf broken.tar.gz "$(cd other && echo muster-*)"
    ends_with 1 system --from broken.tar.gz --sha256 "$(sha256sum broken.tar.gz | cut -d' ' -f1)"
    says 'wrong machine'
    is "$(root/usr/local/bin/muster --version)" "muster 1.0.0"
}

half_a_script_does_nothing() {
    release 1.0.0
    mkdir root
    bytes=$(wc -c <"$deploy/install.sh")
    for part in 1 2 3 4 5 6 7 8 9; do
        head -c $((bytes * part / 10)) "$deploy/install.sh" >half.sh
        sh half.sh --system --root "$T/root" --from "$archive" >/dev/null 2>&1 || :
    done
    head -c $((bytes - 10)) "$deploy/install.sh" >half.sh
    sh half.sh --system --root "$T/root" --from "$archive" >/dev/null 2>&1 || :
    is "$(find root | wc -l)" 1
}

ended_in_the_middle_it_is_finished_by_the_next_run() {
    release 1.0.0
    system --from "$archive"
    release 1.1.0
    mkdir path
    # mv fails at the third file, as on a full disk.
    # shellcheck disable=SC2016 # for the script
    printf '#!/bin/sh\nn=$(cat %s/n); echo $((n + 1)) >%s/n\n[ "$n" -lt 1 ] || exit 1\nexec /bin/mv "$@"\n' "$T" "$T" >path/mv
    chmod 755 path/mv
    echo 0 >n
    sed -i 's/TasksMax=infinity/TasksMax=9999/' root/usr/local/lib/systemd/system/*.service
    if PATH=$T/path:$PATH system --from "$archive" >said 2>&1; then fail "it did not notice"; fi
    is "$(root/usr/local/bin/muster --version)" "muster 1.1.0"
    system --from "$archive" >said
    grep -q TasksMax=infinity root/usr/local/lib/systemd/system/muster-worker.service
}

uninstall_leaves_settings_and_data_and_purge_nothing() {
    release 1.0.0
    mkdir -p root/usr/local/bin root/var/lib/muster
    touch root/usr/local/bin/other root/var/lib/muster/work
    system --from "$archive"
    system --uninstall
    absent root/usr/local/bin/muster root/usr/local/lib/systemd/system/muster-worker.service root/usr/local/share/muster
    there root/etc/muster/worker.toml root/var/lib/muster/work root/usr/local/bin/other
    ends_with 0 system --uninstall
    says 'nothing is installed'
    system --uninstall --purge
    absent root/etc/muster root/var/lib/muster
    there root/usr/local/bin/other
}

a_person_installs_below_their_home() {
    release 1.0.0
    export HOME="$T/home" XDG_CONFIG_HOME='' XDG_DATA_HOME='' XDG_STATE_HOME=''
    mkdir -p "$HOME/.local/state/muster"
    "$deploy/install.sh" --user --from "$archive"
    unit=$HOME/.config/systemd/user/muster-worker.service
    there "$HOME/.local/bin/muster" "$unit" "$HOME/.config/muster/worker.toml"
    grep -q "^ExecStart=$HOME/.local/bin/muster worker" "$unit"
    if grep -q '^state-dir' "$HOME/.config/muster/worker.toml"; then fail "a person has no /var/lib/muster"; fi
    "$deploy/install.sh" --user --uninstall --purge
    is "$(find "$HOME" -type f | wc -l)" 0
    absent "$HOME/.local/state/muster"
    export HOME="$T/a home"
    ends_with 1 "$deploy/install.sh" --user --from "$archive"
    says 'a path holds a space'
}

comes_by_http_with_its_checksum() {
    command -v python3 >/dev/null || { echo "no python3 to serve from"; exit 77; }
    release 1.0.0
    sum=$(sha256sum "$archive" | cut -d' ' -f1)
    (cd dist && exec python3 -u -m http.server --bind 127.0.0.1 0 >../served 2>/dev/null) &
    server=$!
    trap 'kill $server' EXIT
    tries=0
    until port=$(sed -n 's/.* port \([0-9]*\) .*/\1/p' served 2>/dev/null) && [ -n "$port" ]; do
        tries=$((tries + 1))
        [ $tries -lt 600 ] || fail "the server does not start"
        sleep 0.1
    done
    url=http://127.0.0.1:$port/${archive##*/}
    ends_with 1 system --from "$url"
    says 'over plain http the checksum must be given'
    ends_with 1 system --from "$url.gone" --sha256 "$sum"
    says 'cannot be got'
    absent root
    MUSTER_INSTALL_FROM=$url MUSTER_INSTALL_SHA256=$sum system
    is "$(root/usr/local/bin/muster --version)" "muster 1.0.0"
}

the_same_input_gives_the_same_archive() {
    release 1.0.0
    cp "$archive" first.tar.gz
    touch -d '2 days' build/muster
    release 1.0.0
    cmp first.tar.gz "$archive"
    is "$(wc -l <dist/SHA256SUMS)" 1
}

wrong_command_lines_end_with_2() {
    for line in --nothing --from '--from x --sha256 12' "--from x --sha256 $(printf %064d 0)g" '--from x --root here' \
        '--from x --purge' '--from x --enable gateway' '--user --from x --enable controller' '--uninstall --enable worker' '--uninstall --join -' '--from x --join absent' \
        "--from x --join - --root $T/root" ''; do
        # shellcheck disable=SC2086 # words
        ends_with 2 "$deploy/install.sh" $line
    done
    ends_with 1 "$deploy/install.sh" --system --root "$T/root" --from ftp://a/b
    ends_with 0 "$deploy/install.sh" --help
    says 'END THE SESSIONS'
}

run installs_below_a_root
run a_second_run_changes_nothing
run an_upgrade_replaces_the_program_and_keeps_settings
run what_a_new_version_has_no_more_is_removed
run a_running_program_is_replaced_not_overwritten
run a_dry_run_does_nothing_and_says_what
run a_wrong_checksum_changes_nothing
run a_checksum_is_needed
run archives_that_lead_out_are_refused
run a_program_that_does_not_run_here_is_not_installed
run half_a_script_does_nothing
run ended_in_the_middle_it_is_finished_by_the_next_run
run uninstall_leaves_settings_and_data_and_purge_nothing
run a_person_installs_below_their_home
run comes_by_http_with_its_checksum
run the_same_input_gives_the_same_archive
run wrong_command_lines_end_with_2
finish
