"""The example that enqueues by the published schema, against RabbitMQ and Postgres."""

import os
import subprocess
import sys
import unittest

import pika
import support


class Pika(support.OnServers):
    def test_a_request_of_any_amqp_client_gets_its_row(self):
        worker = self.start("worker", "--model", support.MODEL, "--api-base", self.simulator(), "--verbose")
        self.addCleanup(support.end, worker)
        self.wait_for_exchange()
        script = os.path.join(support.REPOSITORY, "examples", "enqueue_pika.py")
        asked = [sys.executable, script, support.MODEL]
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
