"""What the tests share: a folder of their own, a simulator, a worker."""

import contextlib
import os
import secrets
import subprocess
import sysconfig
import tempfile
import time
import unittest

PROGRAM = os.path.join(sysconfig.get_path("scripts"), "gristmill")
REPOSITORY = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
DEADLINE_S = 60
#: The model whose queues are removed behind a test.
MODEL = "org/model-4.1"


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


class OnServers(InFolder):
    """A test with a database and queues of its own on Postgres and RabbitMQ, for MODEL."""

    def setUp(self):
        import psycopg

        servers = os.environ["GRISTMILL_TEST_DATABASE_URL"], os.environ["GRISTMILL_TEST_AMQP_URL"]
        super().setUp()
        self.name = f"gristmill_python_{secrets.token_hex(4)}"
        self.admin_url, self.amqp_url = servers
        self.sql(f"CREATE DATABASE {self.name}")
        self.addCleanup(self.sql, f"DROP DATABASE {self.name} WITH (FORCE)")
        self.addCleanup(self.remove_queues)
        path = psycopg.conninfo.conninfo_to_dict(self.admin_url)["dbname"]
        head, found, tail = self.admin_url.rpartition(f"/{path}")
        self.assertTrue(found)
        os.environ.update(DATABASE_URL=f"{head}/{self.name}{tail}", AMQP_URL=self.amqp_url, GRISTMILL_PREFIX=self.name)
        subprocess.run([PROGRAM, "migrate", "--quiet"], check=True, timeout=DEADLINE_S)

    def sql(self, text):
        import psycopg

        with psycopg.connect(self.admin_url, autocommit=True) as database:
            database.execute(text)

    def remove_queues(self):
        import pika

        with pika.BlockingConnection(pika.URLParameters(self.amqp_url)) as connection:
            channel = connection.channel()
            lanes = [("high", 0), *((priority, lane) for priority in ("standard", "bulk") for lane in range(4))]
            queues = [f"work.org%2Fmodel-4%2E1.{priority}.{lane}" for priority, lane in lanes]
            for queue in (*queues, "dead", "unrouted", "future"):
                channel.queue_delete(f"{self.name}.{queue}")
            for exchange in ("submit", "tokens", "dead", "unrouted", "future"):
                channel.exchange_delete(f"{self.name}.{exchange}")


def run(*arguments):
    """Runs the program to its end."""
    return subprocess.run([PROGRAM, *arguments], capture_output=True, encoding="utf-8", timeout=DEADLINE_S)


def end(process):
    """Ends a program and waits for it."""
    process.terminate()
    process.wait(DEADLINE_S)
    process.stdout.close()


def calls():
    """Counts the calls that the simulator has written down, which it does a moment after their end."""
    with open("calls.jsonl") as log:
        return log.read().count("\n")


def wait_for(condition, error, what):
    """Polls until a condition raises its error no more."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(error):
            return condition()
        time.sleep(0.05)
    raise AssertionError(f"{what} did not come about within {DEADLINE_S} s")
