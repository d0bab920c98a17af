"""What differs where RabbitMQ and Postgres are."""

import logging
import unittest

import gristmill
import support


class Fleet(support.OnServers):
    def test_workers_share_the_jobs_and_what_a_call_brings_along_is_refused(self):
        base_url = self.simulator()
        with self.assertLogs("gristmill", logging.WARNING) as logs:
            rows = gristmill.run(["a", "b"], support.MODEL, api_base=base_url)
        self.assertEqual([row["status"] for row in rows], ["succeeded", "succeeded"])
        self.assertEqual(sum("share the jobs" in line and "api_base" in line for line in logs.output), 1, logs.output)
        self.start("worker", "--model", support.MODEL, "--api-base", base_url)
        messages = [{"role": "user", "content": "hi"}]
        answer = gristmill.completion(f"openai/{support.MODEL}", messages, timeout=support.DEADLINE_S)
        self.assertEqual(answer.gristmill.model, support.MODEL)
        for own, what in (({"api_base": base_url}, "an endpoint was"), ({"api_key": "sk-canary"}, "a key was")):
            with self.assertRaises(gristmill.GristmillError) as caught:
                gristmill.completion(support.MODEL, messages, **own)
            self.assertIn(what, caught.exception.message)
            self.assertIn("the workers of this RabbitMQ make the call", caught.exception.message)

    def test_a_look_at_queues_that_are_not_there_is_no_lost_connection(self):
        with open("gristmill.yaml", "w") as file:
            file.write("model_list: [{model_name: other, litellm_params: {model: openai/m, api_base: http://127.0.0.1:9/v1}}]")
        told = support.run("check", "--json", "--model", "other")
        self.assertIn("9 queues not there yet", told.stdout)
        self.assertEqual(told.stderr, "")


if __name__ == "__main__":
    unittest.main()
