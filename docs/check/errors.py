#!/usr/bin/env python3
"""Writes docs/errors.md from the comments of ErrorCode in proto/muster/v1/common.proto and the advice beside this script.

    docs/check/errors.py           writes the page
    docs/check/errors.py --check   fails when the page is not what it would write

The proto says what a code means; advice.txt says what to do about it. A code without advice, or advice for a code that is not
there, is an error: both are for one reader.
"""

import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPO = HERE.parent.parent
PROTO = REPO / "proto/muster/v1/common.proto"
PAGE = REPO / "docs/errors.md"

HEAD = """# Troubleshooting by error code

<!-- Written by docs/check/errors.py from proto/muster/v1/common.proto and docs/check/advice.txt. Change those. -->

A failed call has a code, for programs, and a text, for people. The command line prints `error: CODE: what happened`, then
`caused by:` and `hint:`; MCP tools answer `CODE: what happened. What to do next.` with the code in `_meta["muster/error"]`; gRPC
carries it in the trailer `muster-error-bin`. *Retry* says whether the same call may succeed later without a change.

"""


def codes(text):
    """(name, meaning, gRPC status, retry) of every code but the unspecified one, in order."""
    body = re.search(r"^enum ErrorCode \{\n(.*?)^\}", text, re.M | re.S)
    if not body:
        sys.exit(f"{PROTO}: no enum ErrorCode")
    comment = []
    for line in body.group(1).splitlines():
        line = line.strip()
        if line.startswith("//"):
            comment.append(line[2:].strip())
        elif field := re.fullmatch(r"ERROR_CODE_(\w+) = \d+;", line):
            name = field.group(1)
            if name != "UNSPECIFIED":
                yield (name.lower(), *parts(name, " ".join(comment)))
            comment = []
        elif line:
            sys.exit(f"{PROTO}: not understood: {line}")


def parts(name, comment):
    """The comment ends with `STATUS, retry rule.`, by the rules of that file."""
    found = re.fullmatch(r"(?P<what>.*[.]) (?P<status>[A-Z_]{4,}), (?P<retry>(?:no )?retry\b[^;]*)(?P<more>; .*)?[.]", comment)
    if not found:
        sys.exit(f"{PROTO}: the comment of {name} does not end with `STATUS, retry rule.`: {comment!r}")
    more = (found["more"] or "").lstrip("; ")
    what = found["what"] + (f" {more[0].upper()}{more[1:]}." if more else "")
    retry = {"retry": "yes", "no retry": "no"}.get(found["retry"])
    if retry is None:
        retry = re.sub(r"^no retry", "no,", re.sub(r"^retry", "yes,", found["retry"])).replace(", (", " (").replace(",,", ",")
    return what, found["status"], retry


def advice():
    found = {}
    for number, line in enumerate((HERE / "advice.txt").read_text().splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        name, separator, text = line.partition(": ")
        if not separator or name in found:
            sys.exit(f"advice.txt:{number}: not `code: advice`, or twice")
        found[name] = text
    return found


def page():
    what_to_do = advice()
    text = HEAD
    for name, what, status, retry in codes(PROTO.read_text()):
        if name not in what_to_do:
            sys.exit(f"advice.txt has no line for {name}")
        text += f"## {name}\n\n{what}\n\n{what_to_do.pop(name)}\n\ngRPC `{status}` · retry: {retry}\n\n"
    if what_to_do:
        sys.exit(f"advice.txt speaks of codes that are not there: {', '.join(what_to_do)}")
    return text.rstrip() + "\n"


def main():
    wanted = page()
    if sys.argv[1:] == ["--check"]:
        if not PAGE.exists() or PAGE.read_text() != wanted:
            sys.exit("docs/errors.md is not current: run docs/check/errors.py")
    elif not sys.argv[1:]:
        PAGE.write_text(wanted)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
