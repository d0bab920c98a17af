"""One request through queue and worker."""

import asyncio
import contextlib
import copy
import gc
import json
import os
import pickle
import time
import types
import unittest
import warnings
from unittest import mock

import gristmill
import support
from gristmill import _completion


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

    def test_an_answer_has_what_callers_of_litellm_ask_it_for(self):
        answer = ask("Hello", gristmill={"simulate": True})
        for plain in (answer.json(), answer.to_dict(), answer.dict(), json.loads(answer.model_dump_json())):
            self.assertEqual(plain, answer.model_dump())
            self.assertIs(type(plain["choices"][0]), dict)
        self.assertNotIn("tool_calls", answer.model_dump(exclude_none=True)["choices"][0]["message"])
        hidden = answer._hidden_params
        self.assertEqual((hidden["model_id"], hidden["litellm_call_id"]), ("m", answer.gristmill.job_id))
        self.assertIn("response_cost", hidden)

    def request(self, **parameters):
        """Returns the request as the endpoint gets it."""
        call = _completion._call(
            {"model": "m", "messages": []}, parameters, {}, timeout=None, num_retries=None, api_base=None, api_key=None
        )
        return json.loads(call.body)

    def test_parameters_of_litellms_own_are_not_sent(self):
        ours = {"caching": True, "cache": {"no-cache": True}, "allowed_openai_params": ["x"], "verbose": True}
        ours.update(base_model="gpt-4o", ssl_verify=True, request_timeout=9, organization=None, extra_headers={})
        sent = self.request(**ours, temperature=0, seed=None, extra_body={"top_k": 3}, additional_drop_params=["n"], n=2)
        self.assertEqual(sent, {"model": "m", "messages": [], "temperature": 0, "top_k": 3})
        for refused, remedy in (
            ({"organization": "o"}, "gristmill.yaml"),
            ({"input_cost_per_token": 0}, "costs are the worker's"),
            ({"ssl_verify": False}, "certificates are always checked"),
            ({"extra_headers": {"a": "b"}}, "extra_headers under litellm_params"),
            ({"api_version": "1"}, "api_version under litellm_params"),
            ({"logit_bias": {"a": object()}}, "logit_bias: a object"),
            ({"temperature": float("nan")}, "temperature: holds NaN"),
        ):
            self.assertRaisesRegex((TypeError, ValueError), remedy, self.request, **refused)

    def test_an_answers_form_may_be_a_class(self):
        import pydantic

        class Inner(pydantic.BaseModel):
            text: str = "x"

        class Outer(pydantic.BaseModel):
            inner: Inner = pydantic.Field(description="the inner one")
            more: list[Inner]
            default: int = 3

        form = self.request(response_format=Outer)["response_format"]
        self.assertEqual((form["type"], form["json_schema"]["name"]), ("json_schema", "Outer"))
        schema = form["json_schema"]["schema"]
        self.assertEqual((schema["required"], schema["additionalProperties"]), (["inner", "more", "default"], False))
        self.assertEqual(schema["properties"]["more"]["items"], {"$ref": "#/$defs/Inner"})
        inner = schema["properties"]["inner"]
        self.assertEqual((inner["description"], inner["required"]), ("the inner one", ["text"]))
        self.assertEqual(self.request(response_format={"type": "json_object"})["response_format"], {"type": "json_object"})
        self.assertRaisesRegex(TypeError, "response_format is int", self.request, response_format=int)

    def test_a_time_limit_has_several_forms(self):
        httpx_timeout = types.SimpleNamespace(read=5.0, connect=1, write=None, pool=None)
        for given, seconds in ((3, "3"), ("2.5", "2.5"), (1_234_567.5, "1234567.5"), (httpx_timeout, "5"), (None, None)):
            self.assertEqual(_completion._seconds("timeout", given), seconds)
        for given in (0, -1, "soon", True, float("inf"), [1]):
            self.assertRaisesRegex(TypeError, "takes no timeout of", _completion._seconds, "timeout", given)

    def test_a_model_may_have_litellms_prefix(self):
        answer = gristmill.completion("openai/m", [{"role": "user", "content": "hi"}], api_base=self.simulator())
        self.assertEqual((answer.model, answer.gristmill.model), ("m", "m"))

    def test_a_key_of_the_call_is_the_only_one(self):
        with open("key", "w") as file:
            file.write("sk-other")
        files = {f"{name}_API_KEY_FILE": "key" for name in ("OPENAI", "GRISTMILL", "LITELLM")}
        with mock.patch.dict(os.environ, {"THE_KEY": "sk-canary-1"}):
            base_url = self.simulator("--require-key-env", "THE_KEY")
        with mock.patch.dict(os.environ, files):
            self.assertTrue(ask("hi", api_base=base_url, api_key="sk-canary-1").choices)
        with open(".env", "w") as file:
            file.write("OPENAI_API_KEY_FILE=key\n")
        self.assertTrue(ask("hi", api_base=base_url, api_key="sk-canary-1").choices)

    def test_an_endpoint_or_a_key_that_would_not_be_used_is_refused(self):
        with open("gristmill.yaml", "w") as file:
            file.write("model_list: [{model_name: m, litellm_params: {model: openai/m, api_base: http://127.0.0.1:9/v1}}]")
        for own, what in (
            ({"api_base": "http://127.0.0.1:8/v1"}, "an endpoint was given"),
            ({"api_key": "sk-canary-1"}, "a key was given"),
        ):
            with self.assertRaises(gristmill.GristmillError) as caught:
                ask("hi", **own)
            self.assertIn(what, caught.exception.message)
            self.assertIn("model_list of gristmill.yaml", caught.exception.message)
            self.assertEqual(caught.exception.exit_code, 2)

    def test_a_cancelled_call_is_taken_back_and_leaves_nothing(self):
        base_url = self.simulator("--latency", "120s")

        async def give_up():
            messages = [{"role": "user", "content": "hi"}]
            asking = asyncio.ensure_future(gristmill.acompletion(model="m", messages=messages, api_base=base_url))
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(asking), 2)
            asking.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await asking

        started = time.monotonic()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            asyncio.run(give_up())
            gc.collect()
        self.assertEqual([str(warning.message) for warning in warned], [])
        self.assertLess(time.monotonic() - started, 60)

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
        self.assertRaisesRegex(TypeError, "several deployments", ask, "hi", fallbacks=["other"])

    def test_a_stream_is_openais_chunks_and_ends_with_the_whole_answer(self):
        stream = ask("Hello", stream=True, stream_options={"include_usage": True}, gristmill={"simulate": True})
        chunks = list(stream)
        self.assertEqual({chunk.object for chunk in chunks}, {"chat.completion.chunk"})
        self.assertEqual(len({chunk.id for chunk in chunks}), 1)
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        *pieces, end, usage = chunks
        text = "".join(chunk.choices[0].delta.content for chunk in pieces)
        self.assertEqual(text, stream.completion.choices[0].message.content)
        self.assertGreater(len(pieces), 3)
        self.assertEqual((end.choices[0].finish_reason, end.choices[0].delta.content), ("stop", None))
        self.assertEqual((usage.choices, usage.usage), ([], stream.completion.usage))
        self.assertEqual(stream.completion.gristmill.attempts, 1)
        self.assertEqual(stream.completion.gristmill.tags, {})

    def test_a_stream_comes_while_the_answer_is_made_and_closing_it_takes_the_call_back(self):
        base_url = self.simulator()
        # It falls silent for ever behind its third token.
        with ask("simulate:stall:after=3", stream=True, api_base=base_url, num_retries=0) as stream:
            self.assertTrue(next(stream).choices[0].delta.content)
        self.assertIsNone(stream.completion)
        self.assertRaises(StopIteration, next, stream)

    def test_a_stream_that_is_begun_anew_says_so_at_its_end(self):
        stream = ask("simulate:cut:after=3,ok", stream=True, api_base=self.simulator())
        given = ""
        with self.assertRaises(gristmill.errors.MidStreamError) as caught:
            for chunk in stream:
                given += chunk.choices[0].delta.content or ""
        answer = caught.exception.completion
        self.assertEqual(answer.gristmill.attempts, 2)
        self.assertTrue(given and not answer.choices[0].message.content.startswith(given))

    def test_a_stream_that_fails_raises_the_stored_error(self):
        with self.assertRaises(gristmill.errors.BadRequestError) as caught:
            list(ask("simulate:400", stream=True, api_base=self.simulator()))
        self.assertEqual((caught.exception.exit_code, caught.exception.error["status"]), (3, 400))

    def test_pieces_that_were_lost_are_made_good_at_the_end(self):
        answer = {"id": "x", "choices": [{"index": 0, "finish_reason": "stop", "message": {"content": "one two three"}}]}
        whole = {"custom_id": "c", "response": {"status_code": 200, "body": answer}, "error": None}
        whole["gristmill"] = {"job_id": "j", "batch_id": "b", "run": 1, "status": "succeeded", "model": "m", "attempts": 2}
        for lines, parts in (
            ([{"text": "one "}, {"gap": True}, {"text": "three"}], ["one ", "two three"]),
            ([{"gap": True}, {"text": "three"}], ["one two three"]),
            ([{"reset": 2}, {"text": "one "}, {"text": "two three"}], ["one ", "two three"]),
            ([{"text": "one "}, {"reset": 2}, {"text": "one "}], ["one ", "two three"]),
            ([], ["one two three"]),
        ):
            chunks = list(_completion.Stream((line for line in [*lines, whole]), "m"))
            self.assertEqual([chunk.choices[0].delta.content for chunk in chunks], [*parts, None], lines)

    def test_a_function_is_called_at_the_end_of_a_stream(self):
        parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
        tools = [{"type": "function", "function": {"name": "get_weather", "parameters": parameters}}]
        stream = ask("What is the weather?", stream=True, tools=tools, tool_choice="required", gristmill={"simulate": True})
        *_, call, end = stream
        self.assertEqual(call.choices[0].delta.tool_calls[0].function.name, "get_weather")
        self.assertEqual((call.choices[0].delta.tool_calls[0].index, end.choices[0].finish_reason), (0, "tool_calls"))

    def test_a_stream_may_be_heard_without_holding_up_the_event_loop(self):
        base_url = self.simulator()
        messages = [{"role": "user", "content": "hi"}]

        async def hear():
            stream = await gristmill.acompletion(model="m", messages=messages, stream=True, api_base=base_url)
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            self.assertEqual(text, stream.completion.choices[0].message.content)
            silent = [{"role": "user", "content": "simulate:stall:after=3"}]
            async with await gristmill.acompletion(model="m", messages=silent, stream=True, api_base=base_url) as stream:
                first = await stream.__anext__()
            self.assertTrue(first.choices[0].delta.content)
            self.assertIsNone(stream.completion)

        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            asyncio.run(hear())
            gc.collect()
        self.assertEqual([str(warning.message) for warning in warned], [])

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
