#!/bin/sh
# Holds alert rules and dashboards against what a real run shows.
#   check.sh                  the rules and every expression parse, and the rules' own tests pass
#   check.sh URL [URL ...]    that, and each metric they name is shown by one of these /metrics pages, or by an
#                             exporter of Prometheus itself; needs curl. A role that has done little shows less:
#                             run some sessions first.
# Needs promtool (Debian: prometheus) and python3.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
promtool check rules "$here/alerts.yml"
(cd "$here" && promtool test rules alerts.test.yml)
python3 - "$here" "$work" <<'PY'
import glob, json, re, sys
here, work = sys.argv[1:]
expressions = []
for path in sorted(glob.glob(here + "/dashboard-*.json")):
    for panel in json.load(open(path))["panels"]:
        expressions += [target["expr"].replace("$__rate_interval", "5m") for target in panel["targets"]]
with open(work + "/panels.yml", "w") as rules:
    rules.write("groups:\n  - name: panels\n    rules:\n")
    for number, expression in enumerate(expressions):
        rules.write(f"      - record: panel:{number}\n        expr: {json.dumps(expression)}\n")
for line in open(here + "/alerts.yml"):
    if line.strip().startswith("expr: "):
        expressions.append(json.loads(line.strip()[len("expr: "):]))
used = set()
for expression in expressions:
    used |= set(re.findall(r"\b(?:muster|cicd|gen_ai|rpc|mcp|process)_[a-z_]+\b", re.sub(r"\{[^}]*\}|by \([^)]*\)", "", expression)))
open(work + "/used", "w").write("".join(name + "\n" for name in sorted(used)))
PY
promtool check rules "$work/panels.yml"
documented=$here/../../docs/metrics.md
if [ -f "$documented" ]; then
    while read -r name; do
        base=$(printf '%s' "$name" | sed 's/_\(bucket\|count\|sum\)$//')
        grep -q -e "\`$name\`" -e "\`$base\`" "$documented" || { echo "$name is in no table of docs/metrics.md" >&2; exit 1; }
    done <"$work/used"
fi
[ $# -gt 0 ] || { echo "expressions parse and name documented metrics; give /metrics addresses to hold them against a run"; exit 0; }
for url; do curl -fsS "$url" >>"$work/page"; echo >>"$work/page"; done
grep -v '^#' "$work/page" | sed 's/[{ ].*//' | sort -u | grep . >"$work/shown"
echo "$(wc -l <"$work/shown") series names shown"
missing=$(grep -vxF -f "$work/shown" "$work/used" || true)
[ -z "$missing" ] || { echo "not shown by this run:" >&2; echo "$missing" >&2; exit 1; }
echo "each of the $(wc -l <"$work/used") metrics used is shown"
