"""The checks of scripts/check-litellm: asks a LiteLLM proxy through the program and prints what came, as a table."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

PROGRAM, WORK, PROXY, PROXY_PID = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
KEY = "sk-check-litellm-7d0a9b2e"
WRONG = "sk-planted-4c1f7d0a9b2e"
TEXT = "The mill grinds corn."

# Model group here: model here, path below the proxy's address, key.
DEPLOYMENTS = {
    "chat": ("openai/chat", "/v1", KEY),
    "chat-proxied": ("litellm_proxy/chat", "", KEY),
    "vectors": ("openai/vectors", "/v1", KEY),
    "vectors-proxied": ("litellm_proxy/vectors", "", KEY),
    "claude": ("anthropic/claude", "", KEY),
    "claude-as-chat": ("litellm_proxy/claude", "", KEY),
    "broken": ("openai/broken", "/v1", KEY),
    "broken-messages": ("anthropic/broken", "", KEY),
    "too-long": ("openai/too-long", "/v1", KEY),
    "too-long-messages": ("anthropic/too-long", "", KEY),
    "busy": ("openai/busy", "/v1", KEY),
    "busy-messages": ("anthropic/busy", "", KEY),
    "unknown": ("openai/nothing", "/v1", KEY),
    "unknown-messages": ("anthropic/nothing", "", KEY),
    "wrong-key": ("openai/chat", "/v1", WRONG),
    "wrong-key-messages": ("anthropic/claude", "", WRONG),
}


def wait_for_proxy():
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{PROXY}/health/liveliness", timeout=5).read()
            return
        except OSError:
            os.kill(PROXY_PID, 0)  # Raises where the proxy has ended.
            time.sleep(0.2)
    sys.exit("the proxy did not start")


def run(*arguments, seconds=60):
    """Runs the program without our environment; ends it as Ctrl-C does, where it has not ended by then."""
    env = {"PATH": os.environ["PATH"]}
    child = subprocess.Popen(
        [PROGRAM, *arguments], cwd=WORK, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        out, err = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        child.send_signal(2)
        out, err = child.communicate(timeout=60)
    said.append(out + err)
    return child.returncode, out, err


def ask(group, body, url="/v1/chat/completions", seconds=60):
    """Runs one request to its end; returns its line, if there is one, and what was said."""
    name = f"{group}-{len(said)}"
    line = {"custom_id": "1", "method": "POST", "url": url, "body": body}
    (WORK / f"{name}.in.jsonl").write_text(json.dumps(line) + "\n")
    flags = ["--model", group, "--name", name, "--combined", "--num-retries", "0", "--progress", "plain"]
    _, _, err = run("run", f"{name}.in.jsonl", "-o", f"{name}.out.jsonl", *flags, seconds=seconds)
    out = WORK / f"{name}.out.jsonl"
    text = out.read_text() if out.exists() else ""
    said.append(text)
    return (json.loads(text) if text else None), err


def text_of(line):
    return line["response"]["body"]["choices"][0]["message"]["content"]


def answers(group, stream):
    body = {"messages": [{"role": "user", "content": "What does the mill do?"}], "stream": stream}
    line, _ = ask(group, body)
    body = line["response"]["body"]
    choice = body["choices"][0]
    fits = text_of(line) == TEXT and choice["finish_reason"] == "stop" and body["object"] == "chat.completion"
    return fits, f"{line['response']['status_code']} {choice['finish_reason']}: {text_of(line)}"


def streams_down(group):
    code, out, _ = run("call", "--stream", "--model", group, "What does the mill do?")
    return code == 0 and out.strip() == TEXT, out.strip()


def embeds(group):
    line, _ = ask(group, {"input": ["corn", "rye"]}, "/v1/embeddings")
    data = line["response"]["body"]["data"]
    vectors = [item["embedding"] for item in data]
    return bool(vectors) and all(vector == [0.25, -0.5, 0.75] for vector in vectors), f"200 {len(vectors)} × {vectors[0]}"


def fails(group, wanted):
    line, _ = ask(group, {"messages": [{"role": "user", "content": "Hi"}]})
    error = line["gristmill"]["error"]
    return error["class"] == wanted, f"{error.get('status')} {error['class']}: {error['message'].splitlines()[0]}"


def waits(group):
    """A rate limit fails no job: it waits, and goes on when it is run again."""
    line, err = ask(group, {"messages": [{"role": "user", "content": "Hi"}]}, seconds=8)
    code, out, _ = run("status", "@last", "--json")
    is_open = code in (0, 3) and json.loads(out).get("failed", 0) == 0
    return line is None and is_open, "no row yet, the job waits" if line is None else f"a row: {line['gristmill']}"


def pauses(group, wanted):
    line, err = ask(group, {"messages": [{"role": "user", "content": "Hi"}]})
    told = [line for line in err.splitlines() if line.startswith("error: deployment")]
    return line is None and bool(told) and wanted in told[0], told[0] if told else err.strip().splitlines()[-1]


def checks(group, state, wanted):
    _, out, _ = run("check", "--model", group, "--json")
    finding = json.loads(out)["checks"][-1]
    return finding["state"] == state and wanted in finding["detail"], f"{finding['state']}: {finding['detail']}"


def keeps_secrets():
    text = "\n".join(said)
    return KEY not in text and WRONG not in text and PROXY not in text, f"{len(text)} bytes looked through"


CHECKS = [
    *[(f"chat, {group}", answers, group, False) for group in ("chat", "chat-proxied", "claude", "claude-as-chat")],
    *[(f"upstream stream, {group}", answers, group, True) for group in ("chat", "chat-proxied", "claude", "claude-as-chat")],
    *[(f"call --stream, {group}", streams_down, group) for group in ("chat", "chat-proxied", "claude", "claude-as-chat")],
    *[(f"embeddings, {group}", embeds, group) for group in ("vectors", "vectors-proxied")],
    *[(f"error 500, {group}", fails, group, "InternalServerError") for group in ("broken", "broken-messages")],
    *[(f"error 400, {group}", fails, group, "ContextWindowExceededError") for group in ("too-long", "too-long-messages")],
    *[(f"rate limit, {group}", waits, group) for group in ("busy", "busy-messages")],
    *[(f"unknown model, {group}", pauses, group, "check the model name `nothing`") for group in ("unknown", "unknown-messages")],
    *[(f"wrong key, {group}", pauses, group, "to a valid key") for group in ("wrong-key", "wrong-key-messages")],
    *[(f"check, {group}", checks, group, "ok", "is there") for group in ("chat", "chat-proxied", "claude")],
    *[(f"check, {group}", checks, group, "fault", "to a valid key") for group in ("wrong-key", "wrong-key-messages")],
    ("keys and address in no output", keeps_secrets),
]


def main():
    wait_for_proxy()
    entries = [
        {"model_name": group, "litellm_params": {"model": model, "api_base": PROXY + path, "api_key": key}}
        for group, (model, path, key) in DEPLOYMENTS.items()
    ]
    (WORK / "gristmill.yaml").write_text(json.dumps({"model_list": entries}))
    failed = 0
    for name, check, *arguments in CHECKS:
        try:
            fits, what = check(*arguments)
        except (KeyError, TypeError, IndexError, ValueError) as error:
            fits, what = False, f"{type(error).__name__}: {error}; {said[-2:]}"
        failed += not fits
        print(f"{'ok' if fits else 'FAILED':6}  {name:34}  {what[:140]}", flush=True)
    print(f"{len(CHECKS) - failed} of {len(CHECKS)} as they should be")
    sys.exit(failed != 0)


said = []
main()
