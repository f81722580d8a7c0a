#!/usr/bin/env python3
"""Lints and renders the chart, and holds what comes out against Kubernetes' own schemas.

    deploy/tests/helm.py                 the checks; run by static.sh
    deploy/tests/helm.py --join-command  the shell line by which a worker of the chart joins; run by containers.sh

Needs the packages of lint.txt.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import helm_python
import yaml

CHART = Path(__file__).resolve().parent.parent / "helm/muster"
VERSIONS = ["1.25", "1.31", "1.37"]
CASES = {
    "as it comes": {},
    "workers": {"worker": {"replicas": 3, "claudeSecret": "claude", "labels": {"gpu": "yes", "os": "linux"}, "env": {"HTTPS_PROXY": "http://proxy"}}},
    "everything": {
        "controller": {"names": ["farm.example"], "storageClass": "fast", "env": {"MUSTER_KEEP_ARCHIVED": "7"}},
        "worker": {"replicas": 1, "storageClass": "fast"},
        "networkPolicy": {"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]},
    },
    "no policy": {"networkPolicy": {"enabled": False}},
}
REFUSED = [
    {"worker": {"replicas": -1}},
    {"worker": {"slots": 0}},
    {"worker": {"replica": 3}},
    {"controller": {"env": {"A": 1}}},
    {"worker": {"labels": {"a": "b,c"}}},
]


def render(values):
    with helm_python.Chart.load(str(CHART)) as chart:
        rendered = chart.render(values, name="farm", namespace="agents")
    manifests = rendered if isinstance(rendered, dict) else {"all": rendered}
    return [document for name, text in manifests.items() if not name.endswith(".txt") for document in yaml.safe_load_all(text) if document]


def find(documents, kind, ending):
    return next(d for d in documents if d["kind"] == kind and d["metadata"]["name"].endswith(ending))


def join_command():
    worker = find(render(CASES["workers"]), "StatefulSet", "-worker")
    return worker["spec"]["template"]["spec"]["initContainers"][0]["command"][2]


def check(values, label):
    report = helm_python.lint(str(CHART), values, strict=True)
    # The icon is for catalogues; this chart is in none.
    serious = [m for m in report["messages"] if m["severity"] > 1]
    if serious or report["errors"]:
        sys.exit(f"{label}: {serious or report['errors']}")
    documents = render(values)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rendered.yaml"
        path.write_text(yaml.safe_dump_all(documents))
        for version in VERSIONS:
            run = subprocess.run(["kubernetes-validate", "--strict", "-k", version, str(path)], capture_output=True, text=True)
            if run.returncode:
                sys.exit(f"{label}, Kubernetes {version}: {run.stdout}{run.stderr}")
    for document in documents:
        if document["kind"] == "StatefulSet":
            pod = document["spec"]["template"]["spec"]
            for container in pod["containers"] + pod.get("initContainers", []):
                bounds = container["securityContext"]
                assert bounds["allowPrivilegeEscalation"] is False and bounds["capabilities"]["drop"] == ["ALL"], label
            assert pod["securityContext"]["runAsNonRoot"] and pod["automountServiceAccountToken"] is False, label
            # A service finds its pods, and only those of its component.
            labels = document["spec"]["template"]["metadata"]["labels"]
            service = find(documents, "Service", document["metadata"]["name"])
            assert service["spec"]["selector"].items() <= labels.items(), label
    return len(documents)


def main():
    if sys.argv[1:] == ["--join-command"]:
        print(join_command())
        return
    counts = [check(values, label) for label, values in CASES.items()]
    assert counts[0] == counts[1] == counts[2] == counts[3] + 2, counts
    everything = render(CASES["everything"])
    names = {e["name"]: e.get("value") for e in find(everything, "StatefulSet", "-controller")["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert names["MUSTER_REMOTE_NAME"] == "farm-muster-controller.agents.svc,farm-muster-controller,farm.example", names
    for values in REFUSED:
        report = helm_python.lint(str(CHART), values, strict=True)
        if not report["errors"] and not any(m["severity"] > 2 for m in report["messages"]):
            sys.exit(f"taken, and must not be: {values}")
    print(f"{len(CASES)} renderings are valid for Kubernetes {', '.join(VERSIONS)}; {len(REFUSED)} bad values are refused")


if __name__ == "__main__":
    main()
