"""What the tests share: a folder of their own, a simulator, a worker."""

import contextlib
import os
import subprocess
import sysconfig
import tempfile
import time
import unittest

PROGRAM = os.path.join(sysconfig.get_path("scripts"), "gristmill")
REPOSITORY = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
DEADLINE_S = 60


class InFolder(unittest.TestCase):
    """A test in an empty folder, with an environment that names no provider, no database and no setting."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="gristmill-test-")
        self.addCleanup(folder.cleanup)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(folder.name)
        environment = dict(os.environ)
        self.addCleanup(os.environ.update, environment)
        self.addCleanup(os.environ.clear)
        for name in environment:
            if name.startswith(("GRISTMILL_", "OPENAI_", "LITELLM_")) or name in ("DATABASE_URL", "AMQP_URL"):
                del os.environ[name]

    def simulator(self, *flags):
        """Starts a simulator until the test ends; returns its base URL. It logs its calls to calls.jsonl."""
        process = self.start("simulate", "--listen", "127.0.0.1:0", "--log", os.path.abspath("calls.jsonl"), *flags)
        return process.stdout.readline().split()[-1]

    def start(self, *arguments):
        """Starts the program until the test ends."""
        with open("stderr.log", "a") as log:
            process = subprocess.Popen([PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=log, encoding="utf-8")
        self.addCleanup(end, process)
        return process


def end(process):
    """Ends a program and waits for it."""
    process.terminate()
    process.wait(DEADLINE_S)
    process.stdout.close()



def wait_for(condition, error, what):
    """Polls until a condition raises its error no more."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(error):
            return condition()
        time.sleep(0.05)
    raise AssertionError(f"{what} did not come about within {DEADLINE_S} s")
