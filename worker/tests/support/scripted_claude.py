#!/usr/bin/env python3
"""Stands for claude: the same protocol, the turns scripted by the words of each message.

say TEXT        a result with TEXT          fail N      a result with is_error and api_error_status N
permission CMD  asks, says how it went      question    asks, says the answers
plan            asks, says the verdict      tool        runs `sleep 600` in a session of its own until interrupted
exit N          leaves without a result     silent      says nothing more
linger          result, idle, and does not leave at the end of stdin (SIGTERM is ignored)
noise N         N bytes of lines before the result
"""
import json, os, signal, subprocess, sys, time, uuid

if "--version" in sys.argv:
    print("9.9.9 (scripted)")
    sys.exit(0)

option = {a.split("=", 1)[0]: a.split("=", 1)[1] for a in sys.argv[1:] if "=" in a}
session = option.get("--session-id") or option.get("--resume")
with open(os.path.join(os.environ["HOME"], "argv.log"), "a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\n")
cost = 0.0
turns = 0
last_error = False


def emit(**event):
    event["session_id"] = session
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def state(name):
    emit(type="system", subtype="session_state_changed", state=name)


def read():
    line = sys.stdin.readline()
    if not line:
        return None
    return json.loads(line)


def result(text, error=False, status=None, subtype="success"):
    global cost, turns, last_error
    cost += 0.25
    turns += 1
    last_error = error
    emit(type="result", subtype=subtype, is_error=error, api_error_status=status, result=text, total_cost_usd=cost,
         modelUsage={"m": {"inputTokens": 10 * turns, "outputTokens": 5 * turns}})


def ask(request):
    """Asks and waits; None when interrupted."""
    request_id = str(uuid.uuid4())
    state("requires_action")
    emit(type="control_request", request_id=request_id, request=request)
    while True:
        line = read()
        if line is None:
            return {"behavior": "deny", "message": "stream closed"}
        if line["type"] == "control_response" and line["response"]["request_id"] == request_id:
            state("running")
            emit(**line)
            return line["response"].get("response")
        if line["type"] == "control_request":
            emit(type="control_cancel_request", request_id=request_id)
            emit(type="control_response", response={"subtype": "success", "request_id": line["request_id"]})
            return None


def interrupted():
    result(None, True, subtype="error_during_execution")


def turn(text):
    word, _, rest = text.partition(" ")
    if word == "permission":
        emit(type="assistant", message={"content": [{"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": rest}}]})
        got = ask({"subtype": "can_use_tool", "tool_name": "Bash", "input": {"command": rest}, "tool_use_id": "t1",
                   "permission_suggestions": [{"type": "addRules", "destination": "localSettings"}]})
        emit(type="user", message={"content": [{"type": "tool_result", "tool_use_id": "t1"}]})
        return interrupted() if got is None else result(json.dumps(got))
    if word == "question":
        got = ask({"subtype": "can_use_tool", "tool_name": "AskUserQuestion", "input": {"questions": [
            {"question": "Which DB?", "header": "DB", "options": [{"label": "P"}, {"label": "S"}], "multiSelect": False}]}})
        return interrupted() if got is None else result(json.dumps(got.get("updatedInput", got).get("answers", got)))
    if word == "plan":
        got = ask({"subtype": "can_use_tool", "tool_name": "ExitPlanMode", "input": {"plan": "# P"}})
        return interrupted() if got is None else result(got.get("message") or got["behavior"])
    if word == "tool":
        emit(type="assistant", message={"content": [{"type": "tool_use", "id": "t2", "name": "Bash", "input": {"command": "sleep"}}]})
        tool = subprocess.Popen(["sleep", "600"], start_new_session=True)
        open("tool.pid", "w").write(str(tool.pid))
        os.rename("tool.pid", "tool")
        line = read()
        if line is None or line["type"] != "control_request":
            sys.exit(0)
        emit(type="control_response", response={"subtype": "success", "request_id": line["request_id"]})
        if rest != "stubborn":
            tool.kill()
            tool.wait()
        return interrupted()
    if word == "fail":
        return result("API Error: %s" % rest, True, int(rest))
    if word == "exit":
        sys.stderr.write("going down\n")
        sys.exit(int(rest))
    if word == "silent":
        time.sleep(600)
    if word == "linger":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        result("lingering")
        state("idle")
        while True:
            time.sleep(600)
    if word == "noise":
        left = int(rest)
        while left > 0:
            sys.stdout.write('{"type":"noise","x":"%s"}\n' % ("y" * 1000))
            left -= 1025
        rest = "noisy"
    if word == "write":
        open(rest, "w").write("written\n")
    result(rest)


while True:
    line = read()
    if line is None:
        break
    if line["type"] == "control_request":
        emit(type="control_response", response={"subtype": "success", "request_id": line["request_id"]})
        continue
    if line["type"] != "user":
        continue
    state("running")
    emit(type="system", subtype="init", claude_code_version="9.9.9", permissionMode=option.get("--permission-mode", "bypassPermissions"))
    emit(type="user", message=line["message"], uuid=line["uuid"], isReplay=True)
    turn(line["message"]["content"])
    state("idle")
sys.exit(1 if last_error else 0)
