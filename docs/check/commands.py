#!/usr/bin/env python3
"""Checks that every `muster` command in the shell blocks of the pages is understood by the program.

    docs/check/commands.py target/debug/muster

Each is run with --help behind it: what stands before is parsed, and nothing is done.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent.parent


def commands(path):
    shell = False
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if mark := re.match(r"\s*```(\w*)", line):
            shell = not shell and mark.group(1) in ("sh", "bash", "console", "shell")
        elif shell:
            # Up to a pipe, a redirection or the next command; also inside $( ) and behind sudo.
            for found in re.finditer(r"(?:^|\$\(|sudo (?:[\w-]+ )*-- |runuser -u muster -- )\s*(muster [^|<>;&)]*)", line.strip()):
                yield number, found.group(1)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    muster, count, problems = sys.argv[1], 0, []
    for path in [REPO / "README.md", *sorted((REPO / "docs").rglob("*.md"))]:
        for number, line in commands(path):
            words = shlex.split(line, comments=True)[1:]
            run = subprocess.run([muster, *words, "--help"], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"})
            count += 1
            if run.returncode or "Usage: muster" not in run.stdout:
                problems.append(f"{path.relative_to(REPO)}:{number}: {line}: {run.stderr.strip().splitlines()[:1]}")
    print("\n".join(problems) or f"{count} commands in the pages are understood")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
