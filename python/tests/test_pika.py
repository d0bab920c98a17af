"""The example that enqueues by the published schema, against RabbitMQ and Postgres."""

import os
import secrets
import subprocess
import sys
import unittest

import pika
import psycopg
import support

MODEL = "org/model-4.1"


class Pika(support.InFolder):
    def setUp(self):
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
        subprocess.run([support.PROGRAM, "migrate", "--quiet"], check=True, timeout=support.DEADLINE_S)

    def sql(self, text):
        with psycopg.connect(self.admin_url, autocommit=True) as database:
            database.execute(text)

    def remove_queues(self):
        with pika.BlockingConnection(pika.URLParameters(self.amqp_url)) as connection:
            channel = connection.channel()
            lanes = [("high", 0), *((priority, lane) for priority in ("standard", "bulk") for lane in range(4))]
            queues = [f"work.org%2Fmodel-4%2E1.{priority}.{lane}" for priority, lane in lanes]
            for queue in (*queues, "dead", "unrouted", "future"):
                channel.queue_delete(f"{self.name}.{queue}")
            for exchange in ("submit", "dead", "unrouted", "future"):
                channel.exchange_delete(f"{self.name}.{exchange}")

    def test_a_request_of_any_amqp_client_gets_its_row(self):
        worker = self.start("worker", "--model", MODEL, "--api-base", self.simulator(), "--verbose")
        self.addCleanup(support.end, worker)
        self.wait_for_exchange()
        script = os.path.join(support.REPOSITORY, "examples", "enqueue_pika.py")
        asked = [sys.executable, script, MODEL]
        for prompt, said in (("What is a mill?", "succeeded: "), ("simulate:400", "failed: ")):
            done = subprocess.run([*asked, prompt], capture_output=True, encoding="utf-8", timeout=support.DEADLINE_S)
            self.assertTrue(done.stdout.startswith(said), (done.stdout, done.stderr))

    def wait_for_exchange(self):
        def declared():
            with pika.BlockingConnection(pika.URLParameters(self.amqp_url)) as connection:
                connection.channel().exchange_declare(f"{self.name}.submit", passive=True)
            return True

        support.wait_for(declared, pika.exceptions.ChannelClosedByBroker, "the worker's exchange")


if __name__ == "__main__":
    unittest.main()
