"""The steps of steps.json, and what each has to give. Shared by the Python clients."""

import json
import pathlib

STEPS = json.loads((pathlib.Path(__file__).parent / "steps.json").read_text())


def filled(value, kept):
    """`value` with each "$name" replaced by what was kept under it."""
    if isinstance(value, str) and value.startswith("$"):
        return kept[value[1:]]
    if isinstance(value, dict):
        return {key: filled(inner, kept) for key, inner in value.items()}
    return value


def at(value, path):
    for name in path.split("."):
        value = value[name]
    return value


def check(step, structured, failed, text, kept):
    """Raises when the result of a step is not what it should be."""
    where = f"{step['tool']} {json.dumps(step['arguments'])[:80]}"
    if "error" in step:
        assert failed, f"{where}: it did not fail"
        assert structured is None, f"{where}: an error has structured content"
        assert step["error"] in text, f"{where}: {text}"
        return
    assert not failed, f"{where}: {text}"
    assert structured is not None, f"{where}: no structured content"
    for path, expected in step.get("expect", {}).items():
        assert at(structured, path) == expected, f"{where}: {path} of {json.dumps(structured)[:2000]}"
    for name, path in step.get("keep", {}).items():
        kept[name] = at(structured, path)


async def run(list_tools, call_tool):
    """Runs every step with the two verbs of a client."""
    names = sorted(await list_tools())
    used = sorted({step["tool"] for step in STEPS})
    assert names == used, f"the tools are {names}, the steps use {used}"
    kept = {}
    for step in STEPS:
        check(step, *await call_tool(step["tool"], filled(step["arguments"], kept)), kept)
