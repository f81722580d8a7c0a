#!/bin/sh
# Checks the documentation: docs/check.sh [MUSTER SCRIPTED_CLAUDE]
#
# Generated pages are current, links lead somewhere, the tests that the security page names exist, the book builds without a
# warning. With the two programs also: every `muster` line that pages tell people to type is understood, and the quick start does
# what it says. mdBook is installed into .tools/ when it is not there. Needs python3.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
repo=$(dirname -- "$here")
cd "$repo"
mdbook=$repo/.tools/cargo/bin/mdbook
[ -x "$mdbook" ] || cargo install --locked --root .tools/cargo --no-default-features mdbook@0.5.4

docs/check/errors.py --check
docs/check/links.py
docs/check/security.py
said=$("$mdbook" build docs 2>&1) || { echo "$said"; exit 1; }
if echo "$said" | grep -E 'WARN|ERROR'; then exit 1; fi
# A page that no table of contents names is a page nobody finds.
for page in $(cd docs && find . -name '*.md' ! -name SUMMARY.md | sed 's|^\./||'); do
    grep -q "($page)" docs/SUMMARY.md || { echo "docs/$page is not in docs/SUMMARY.md"; exit 1; }
done
echo "the book builds, with every page"
if [ $# -eq 2 ]; then
    docs/check/commands.py "$1"
    docs/check/quick_start.sh "$1" "$2"
fi
