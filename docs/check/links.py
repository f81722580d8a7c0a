#!/usr/bin/env python3
"""Checks that every relative link in the Markdown of this repository leads to a file, and every #anchor to a heading of it.

    docs/check/links.py

Links to other sites are not followed: nothing here needs a network.
"""

import re
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent.parent
LINK = re.compile(r"!?\[(?:[^\]\\]|\\.)*\]\(([^)\s]*)\)")


def prose(path):
    """The lines outside of fenced code, code spans taken out."""
    fence = None
    for number, line in enumerate(path.read_text().splitlines(), 1):
        mark = re.match(r"\s*(```+|~~~+)", line)
        if fence:
            if mark and mark.group(1).startswith(fence):
                fence = None
            continue
        if mark:
            fence = mark.group(1)
            continue
        yield number, re.sub(r"``.*?``|`[^`]*`", lambda found: "x" * len(found.group()), line)


def anchors(path):
    """As mdBook and GitHub name headings; the second of a name gets -1."""
    found, fence = {}, False
    for line in path.read_text().splitlines():
        if line.lstrip().startswith("```"):
            fence = not fence
        heading = re.fullmatch(r"#{1,6} +(.*?)(?: +#+)?", line)
        if heading and not fence:
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.group(1)).replace("`", "")
            name = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
            count = found.get(name, 0)
            found[name] = count + 1
            yield name if not count else f"{name}-{count}"


def main():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"], cwd=REPO, check=True, capture_output=True, text=True
    ).stdout.split()
    problems, links = [], 0
    for name in listed:
        path = REPO / name
        if not path.exists():
            continue
        for number, line in prose(path):
            for target in LINK.findall(line):
                if re.match(r"[a-z][a-z0-9+.-]*:", target) or (not target and name == "docs/SUMMARY.md"):
                    continue
                links += 1
                file, _, anchor = target.partition("#")
                there = (path.parent / file).resolve() if file else path
                if not there.exists():
                    problems.append(f"{name}:{number}: {target} is not there")
                elif anchor and anchor not in set(anchors(there)):
                    problems.append(f"{name}:{number}: {target}: no heading of that name")
    print("\n".join(problems) or f"{links} links in {len(listed)} pages lead somewhere")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
