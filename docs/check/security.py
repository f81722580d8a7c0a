#!/usr/bin/env python3
"""Checks that every test that docs/security.md names exists, and that each row of a defence names one.

    docs/check/security.py

A test is `file::name`: a test function of Rust, a function run by a shell test, or a step of one.
"""

import re
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent.parent
PAGE = REPO / "docs/security.md"


def exists(file, name):
    path = REPO / file
    if not path.exists():
        return "no such file"
    text = path.read_text()
    if path.suffix == ".rs":
        found = re.search(rf"#\[(?:\w+::)*test(?:\([^\]]*\))?\]\s*(?:#\[[^\]]*\]\s*)*(?:async )?fn {re.escape(name)}\(", text)
        # A scenario of several, which one test plays side by side.
        called = rf"\b{re.escape(path.stem)}::{re.escape(name)}\("
        if not found and re.search(rf"pub async fn {re.escape(name)}\(", text):
            found = any(re.search(called, test.read_text()) for test in path.parent.parent.glob("*.rs"))
    elif " " in name:
        found = re.search(rf'^step "{re.escape(name)}"$', text, re.M)
    else:
        found = re.search(rf"^run {re.escape(name)}$", text, re.M)
    return "" if found else "no such test"


def main():
    problems, count, defence = [], 0, False
    for number, line in enumerate(PAGE.read_text().splitlines(), 1):
        if not line.startswith("|"):
            defence = False
        elif line == "| defence | test |":
            defence = True
        elif defence and not line.startswith("|---"):
            tests = re.findall(r"`([^`]+?\.(?:rs|sh))::([^`]+)`", line)
            if not tests:
                problems.append(f"docs/security.md:{number}: names no test")
            for file, name in tests:
                count += 1
                if why := exists(file, name):
                    problems.append(f"docs/security.md:{number}: {file}::{name}: {why}")
    if not count:
        problems.append("docs/security.md: no tests found at all")
    print("\n".join(problems) or f"{count} tests named in docs/security.md exist")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
