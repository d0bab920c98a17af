"""What becomes of the program when Python dies."""

import glob
import os
import signal
import subprocess
import sys
import tempfile
import unittest

import gristmill
import support

CALLS = {
    "run": "gristmill.run(rows, 'm', api_base=base, concurrency=4, progress=show, name='orphan')",
    "run with files": "gristmill.run(rows, 'm', api_base=base, concurrency=4, progress=show, output='out.jsonl')",
    "follow": "gristmill.submit(rows, 'm', name='b'); print('going', flush=True); list(gristmill.results('b', follow=True))",
    "completion": "print('going', flush=True); gristmill.completion('m', slow, api_base=base)",
}
CALLER = """
import gristmill, sys

base, rows = sys.argv[1], [f"canary-prompt {n}" for n in range(2_000)]
slow = [{"role": "user", "content": "simulate:stall:for=10s"}]

def show(view):
    if view["done"]:
        print("going", flush=True)

"""


def children(pid):
    """Returns the processes that a process has started."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


def programs(pid):
    """Returns those of them that are the program, of which there must be one."""
    found = [child for child in children(pid) if is_gristmill(child)]
    if not found:
        raise LookupError
    return found


def forks(pid):
    """Returns the others, of which there must be one beside the program."""
    started = programs(pid)
    found = [child for child in children(pid) if child not in started]
    if not found:
        raise LookupError
    return found


@unittest.skipUnless(sys.platform == "linux", "looks into /proc")
class Orphans(support.InFolder):
    def test_nothing_goes_on_and_no_prompt_is_left_when_python_is_killed(self):
        base_url = self.simulator("--latency", "100ms")
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        os.environ["TMPDIR"] = temporary.name
        for name, call in CALLS.items():
            with self.subTest(name):
                before = support.calls()
                arguments = [sys.executable, "-c", CALLER + call, base_url]
                with open("caller.log", "w") as log, subprocess.Popen(
                    arguments, stdout=subprocess.PIPE, stderr=log, encoding="utf-8"
                ) as caller:
                    self.assertEqual(caller.stdout.readline(), "going\n")
                    started = support.wait_for(lambda: programs(caller.pid), LookupError, "the program")
                    caller.send_signal(signal.SIGKILL)
                support.wait_for(lambda: self.assertFalse(any(map(alive, started))), AssertionError, "its end")
                self.assertLess(support.calls() - before, 1_000, name)
                self.assertEqual(glob.glob(os.path.join(temporary.name, "*")), [])
        # What was paid for is kept.
        status = gristmill.status("orphan")
        self.assertGreater(status["succeeded"], 0)

    def test_a_forked_child_does_not_keep_it_alive(self):
        base_url = self.simulator("--latency", "100ms")
        fork = "import os, threading, time; threading.Timer(1, lambda: os.fork() or time.sleep(60)).start(); "
        with open("caller.log", "w") as log, subprocess.Popen(
            [sys.executable, "-c", CALLER + fork + CALLS["run"], base_url], stdout=subprocess.PIPE, stderr=log
        ) as caller:
            forked = support.wait_for(lambda: forks(caller.pid), LookupError, "the program and the fork")
            started = programs(caller.pid)
            self.addCleanup(kill, forked)
            caller.send_signal(signal.SIGKILL)
            support.wait_for(lambda: self.assertFalse(any(map(alive, started))), AssertionError, "its end")
            self.assertLess(support.calls(), 1_000)
            kill(forked)


def kill(pids):
    for pid in pids:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


def is_gristmill(pid):
    try:
        with open(f"/proc/{pid}/comm") as file:
            return file.read() == "gristmill\n"
    except OSError:
        return False


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            # An orphan whose end nobody has taken note of has ended.
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


if __name__ == "__main__":
    unittest.main()
