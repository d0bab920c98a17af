"""One request through queue and worker."""

import asyncio
import copy
import os
import pickle
import unittest
from unittest import mock

import gristmill
import support


def ask(content, **parameters):
    return gristmill.completion(model="m", messages=[{"role": "user", "content": content}], **parameters)


class Completion(support.InFolder):
    def test_an_answer_has_items_and_attributes(self):
        answer = ask("Hello", temperature=0, gristmill={"simulate": True})
        self.assertEqual(answer.choices[0].message.content, answer["choices"][0]["message"]["content"])
        self.assertGreater(answer.usage.completion_tokens, 0)
        self.assertIsNone(answer.choices[0].message.tool_calls)
        self.assertEqual((answer.gristmill.attempts, answer.gristmill.status), (1, "succeeded"))
        self.assertRaises(AttributeError, lambda: answer.no_such_field)
        for other in (copy.deepcopy(answer), pickle.loads(pickle.dumps(answer)), answer.model_dump()):
            self.assertEqual(other, answer)

    def test_it_is_retried_by_the_queue(self):
        base_url = self.simulator()
        answer = ask("simulate:500,ok", base_url=base_url, max_retries=2, timeout=30)
        self.assertEqual(answer.gristmill.attempts, 2)

    def test_a_failed_request_raises_with_the_stored_error(self):
        with self.assertRaises(gristmill.GristmillError) as caught:
            ask("simulate:400", api_base=self.simulator())
        error = caught.exception
        self.assertEqual((error.exit_code, error.error["class"], error.error["status"]), (3, "BadRequestError", 400))
        self.assertEqual(pickle.loads(pickle.dumps(error)).error, error.error)

    def test_a_key_goes_to_the_endpoint_and_into_no_file(self):
        with mock.patch.dict(os.environ, {"THE_KEY": "sk-canary-1"}):
            base_url = self.simulator("--require-key-env", "THE_KEY")
        self.assertTrue(ask("hi", api_base=base_url, api_key="sk-canary-1").choices)
        for folder, _, files in os.walk("."):
            for name in files:
                with open(os.path.join(folder, name), "rb") as file:
                    self.assertNotIn(b"sk-canary-1", file.read(), name)

    def test_what_it_cannot_do_is_refused(self):
        self.assertRaisesRegex(TypeError, "answers come whole", ask, "hi", stream=True)
        self.assertRaisesRegex(TypeError, "several deployments", ask, "hi", fallbacks=["other"])

    def test_the_event_loop_goes_on_while_it_waits(self):
        messages = [{"role": "user", "content": "hi"}]

        async def several():
            options = {"simulate": True}
            return await asyncio.gather(
                *(gristmill.acompletion(model="m", messages=messages, gristmill=options) for _ in range(3))
            )

        for answer in asyncio.run(several()):
            self.assertTrue(answer.choices[0].message.content)


if __name__ == "__main__":
    unittest.main()
