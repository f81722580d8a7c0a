#!/bin/sh
# Checks what can be checked without running it: deploy/tests/static.sh. Shell scripts, container files, manifests, roles.
#
# The linters are installed into .tools/deploy/lint from their pinned versions; needs python3 with venv, nothing else.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname -- "$0")/lib.sh"

lint=$repo/.tools/deploy/lint
if ! cmp -s "$here/lint.txt" "$lint/lint.txt"; then
    rm -rf -- "$lint"
    python3 -m venv "$lint" && "$lint/bin/pip" install --quiet --disable-pip-version-check -r "$here/lint.txt" &&
        cp "$here/lint.txt" "$lint/" || exit 1
fi
PATH=$lint/bin:$PATH
export PATH

scripts_are_clean() {
    git -C "$repo" ls-files --cached --others --exclude-standard -- deploy docs | while read -r file; do
        if [ -f "$repo/$file" ] && head -1 "$repo/$file" | grep -q '^#!/bin/sh'; then echo "$repo/$file"; fi
    done >scripts
    [ "$(wc -l <scripts)" -ge 12 ] || fail "too few scripts found"
    xargs shellcheck -s sh -x -S info "$here/lib.sh" <scripts
}

containers_are_clean() { hadolint --failure-threshold info "$deploy/containers/Containerfile"; }

compose_has_the_shape_compose_takes() {
    check-jsonschema --builtin-schema vendor.compose-spec "$deploy/containers/compose.yaml"
    sed 's/restart:/restrat:/' "$deploy/containers/compose.yaml" >wrong.yaml
    ends_with 1 check-jsonschema --builtin-schema vendor.compose-spec wrong.yaml
}

the_chart_renders_what_kubernetes_takes() { "$here/helm.py"; }

the_role_is_clean() {
    cp -R "$deploy/ansible" role
    cd role
    ANSIBLE_HOME=$T/home ansible-lint --offline --profile production
    ANSIBLE_HOME=$T/home ansible-playbook --syntax-check -i localhost, example.yml
    # It does look: a task without a name is refused.
    printf -- '- ansible.builtin.command: ls\n' >>roles/muster/tasks/main.yml
    ends_with 2 env ANSIBLE_HOME="$T/home" ansible-lint --offline --profile production
}

run scripts_are_clean
run containers_are_clean
run compose_has_the_shape_compose_takes
run the_chart_renders_what_kubernetes_takes
run the_role_is_clean
finish
