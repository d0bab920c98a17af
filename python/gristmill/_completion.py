"""One request through queue and worker, called as LiteLLM's ``completion`` is."""

from __future__ import annotations

import json
import time
import uuid
from typing import (
    Any,
    AsyncGenerator,
    AsyncIterator,
    Dict,
    Generator,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
)

from . import _options, _process, _rows, _schema
from ._results import row
from .errors import SCHEMA_VERSION, GristmillError, from_record

#: Parameters of LiteLLM's that speak of an endpoint or of LiteLLM itself, and what stands for them here.
_ELSEWHERE = {
    "api_type": "name the provider in gristmill.yaml",
    "api_version": "write api_version under litellm_params in gristmill.yaml",
    "aws_region_name": "write it into gristmill.yaml",
    "context_window_fallback_dict": "write several deployments into gristmill.yaml",
    "custom_llm_provider": "name the provider in gristmill.yaml",
    "deployment_id": "name the deployment in gristmill.yaml",
    "drop_params": "leave out what the model does not take",
    "extra_headers": "write extra_headers under litellm_params in gristmill.yaml",
    "extra_query": "an endpoint's address is the worker's",
    "fallbacks": "write several deployments into gristmill.yaml",
    "headers": "write extra_headers under litellm_params in gristmill.yaml",
    "input_cost_per_token": "costs are the worker's",
    "mock_response": "use gristmill={'simulate': True} or `gristmill simulate`",
    "model_list": "write model_list into gristmill.yaml",
    "organization": "write extra_headers under litellm_params in gristmill.yaml",
    "output_cost_per_token": "costs are the worker's",
}
#: Parameters of LiteLLM's that steer only what there is none of here; they are left out, whatever they say.
_IGNORED = frozenset(
    {
        "allowed_openai_params",  # every parameter goes into the request
        "base_model",  # costs are the worker's
        "cache",
        "caching",
        "litellm_call_id",
        "logger_fn",
        "ttl",
        "verbose",
    }
)
#: A key of the call stands for all that the environment may hold, wherever the call goes.
_KEYS = ("OPENAI_API_KEY", "GRISTMILL_API_KEY", "LITELLM_API_KEY")


class Completion(Dict[str, Any]):
    """An answer in OpenAI's form, with items and attributes, like LiteLLM's ``ModelResponse``.

    What Gristmill knows of it stands under ``gristmill``: ``cost_usd``, ``attempts``, ``latency_ms``, ``job_id`` …, and some
    of it also where LiteLLM has it, in ``_hidden_params``.

    Example:
        >>> answer.choices[0].message.content == answer["choices"][0]["message"]["content"]
        True
        >>> answer.usage.total_tokens, answer.gristmill.attempts
    """

    def __init__(self, *values: Any, **named: Any) -> None:
        super().__init__(*values, **named)
        for key, value in self.items():
            self[key] = _attributes(value)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the answer has no {name!r}; it has {', '.join(map(str, self))}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    @property
    def _hidden_params(self) -> Dict[str, Any]:
        """What LiteLLM keeps there: ``response_cost``, ``model_id``, ``custom_llm_provider`` and more."""
        ours = self.get("gristmill") or {}
        return {
            "response_cost": ours.get("cost_usd"),
            "custom_llm_provider": ours.get("provider"),
            "model_id": ours.get("deployment"),
            "cache_hit": ours.get("cached"),
            "litellm_call_id": ours.get("job_id"),
            "additional_headers": {},
        }

    def model_dump(self, *, exclude_none: bool = False, **_: Any) -> Dict[str, Any]:
        """Returns plain dictionaries; ``to_dict()`` and ``json()`` are other names for it, as with LiteLLM."""
        plain: Dict[str, Any] = json.loads(json.dumps(self))
        return _without_none(plain) if exclude_none else plain

    to_dict = model_dump
    dict = model_dump
    json = model_dump

    def model_dump_json(self, *, indent: Optional[int] = None, exclude_none: bool = False, **_: Any) -> str:
        """Returns JSON text; ``to_json()`` is another name for it."""
        separators = (",", ":") if indent is None else None
        value = self.model_dump(exclude_none=exclude_none)
        return json.dumps(value, ensure_ascii=False, indent=indent, separators=separators)

    to_json = model_dump_json


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


def completion(
    model: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    timeout: Any = None,
    num_retries: Optional[int] = None,
    max_retries: Optional[int] = None,
    api_base: Optional[str] = None,
    base_url: Optional[str] = None,
    api_key: Optional[str] = None,
    stream: Optional[bool] = None,
    stream_options: Optional[Mapping[str, Any]] = None,
    gristmill: Optional[Mapping[str, Any]] = None,
    **parameters: Any,
) -> Any:
    """Asks one question through queue and worker, and waits for the answer.

    Takes the parameters of LiteLLM's ``completion``; those that are not named here go into the request as they are.
    LiteLLM's own routing is refused: endpoints and keys are the worker's. ``caching``, ``cache``, ``verbose``,
    ``base_model`` and ``allowed_openai_params`` have no effect.

    Args:
        model: The model group, as ``gristmill.yaml`` or the endpoint names it; ``openai/…`` is understood.
        messages: The conversation.
        timeout: Seconds after which no call starts any more, and that a call of this machine may take; a number, a text,
            or an ``httpx.Timeout``, of which ``read`` counts. ``request_timeout`` is another name for it.
        num_retries: Retries after the first call; ``max_retries`` is another name for it.
        api_base: The endpoint, where this machine makes the call; ``base_url`` is another name for it. Refused beside
            RabbitMQ and beside a ``model_list`` in gristmill.yaml, which have endpoints of their own.
        api_key: The key for that endpoint, or for OpenAI; refused where ``api_base`` is. It is handed to the program in
            its environment and stored nowhere.
        stream: Whether to return a ``Stream`` of OpenAI's chunks, as the answer comes, instead of a ``Completion``.
        stream_options: Of the stream: ``{"include_usage": True}`` adds a chunk that tells the tokens.
        gristmill: Options of ``gristmill call``, such as ``{"db": "sweep.db"}`` or ``{"simulate": True}``.
        parameters: Of the request, such as ``temperature``. ``response_format`` may be a class of pydantic.

    Raises:
        RequestError: The request failed: its class in ``gristmill.errors``, which is LiteLLM's and OpenAI's class as well
            where these packages are imported. What keeps it from being made raises the same where it has a class: a
            missing key is an ``AuthenticationError`` with ``exit_code`` 2.
        GristmillError: Anything else kept it from being made.
        TypeError: A parameter that cannot be taken.

    Example:
        >>> answer = gristmill.completion(
        ...     model="gpt-4o-mini", messages=[{"role": "user", "content": "What is a grist mill?"}], temperature=0
        ... )
        >>> print(answer.choices[0].message.content, answer.usage.total_tokens)
    """
    call = _call(
        {"model": model, "messages": list(messages)},
        parameters,
        gristmill or {},
        timeout=timeout,
        num_retries=num_retries if num_retries is not None else max_retries,
        api_base=api_base or base_url,
        api_key=api_key,
    )
    if stream:
        return Stream(_chunks(call), model, stream_options)
    with _process.spooled(call.body) as stdin:
        return _answer(list(_process.lines(call.arguments, stdin=stdin, environment=call.environment)))


async def acompletion(
    model: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    timeout: Any = None,
    num_retries: Optional[int] = None,
    max_retries: Optional[int] = None,
    api_base: Optional[str] = None,
    base_url: Optional[str] = None,
    api_key: Optional[str] = None,
    stream: Optional[bool] = None,
    stream_options: Optional[Mapping[str, Any]] = None,
    gristmill: Optional[Mapping[str, Any]] = None,
    **parameters: Any,
) -> Any:
    """Does what ``completion`` does without holding up the event loop.

    Cancelling the task cancels the call and waits, ten seconds at most, until it is taken back. Each call waits in a
    process of its own: for thousands of requests use ``run`` or ``submit``.

    Example:
        >>> answer = await gristmill.acompletion(model="gpt-4o-mini", messages=[{"role": "user", "content": "Hi"}])
    """
    call = _call(
        {"model": model, "messages": list(messages)},
        parameters,
        gristmill or {},
        timeout=timeout,
        num_retries=num_retries if num_retries is not None else max_retries,
        api_base=api_base or base_url,
        api_key=api_key,
    )
    if stream:
        lines = _process.stream(_streamed(call), body=call.body, environment=call.environment)
        return AsyncStream(lines, model, stream_options)
    return _answer(await _process.collect(call.arguments, body=call.body, environment=call.environment))


class _Pieces:
    """Makes OpenAI's chunks of what ``call --stream --json`` tells."""

    def __init__(self, model: str, options: Optional[Mapping[str, Any]]) -> None:
        #: The whole answer, once it is there.
        self.completion: Optional[Completion] = None
        self._head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model.split("/", 1)[1] if model.startswith("openai/") else model,
        }
        self._with_usage = bool((options or {}).get("include_usage"))
        self._given = ""
        #: Whether what comes no longer fits behind what was given.
        self._is_void = False
        self._has_begun = False

    def _take(self, line: Mapping[str, Any]) -> List[Completion]:
        if "reset" in line or "gap" in line:
            # What was lost of a call that nothing was given of is no loss.
            self._is_void = bool(self._given) or "gap" in line
            return []
        if "text" in line:
            if self._is_void:
                return []
            self._given += line["text"]
            return [self._chunk({"content": line["text"]})]
        if "reasoning" in line:
            return [] if self._is_void else [self._chunk({"reasoning_content": line["reasoning"]})]
        self.completion = _answer([line])
        return self._last(self.completion)

    def _last(self, answer: Completion) -> List[Completion]:
        chunks = []
        for choice in answer.get("choices") or ():
            message = choice.get("message") or {}
            text, index = message.get("content") or "", choice.get("index") or 0
            given = self._given if index == 0 else ""
            if not text.startswith(given):
                raise _begun_anew(answer)
            if text[len(given) :]:
                chunks.append(self._chunk({"content": text[len(given) :]}, index=index))
            if message.get("tool_calls"):
                calls = [{"index": at, **call} for at, call in enumerate(message["tool_calls"])]
                chunks.append(self._chunk({"tool_calls": calls}, index=index))
            chunks.append(self._chunk({}, index=index, finish_reason=choice.get("finish_reason") or "stop"))
        if self._with_usage:
            chunks.append(Completion({**self._head, "choices": [], "usage": answer.get("usage")}))
        return chunks

    def _chunk(self, delta: Dict[str, Any], index: int = 0, finish_reason: Optional[str] = None) -> Completion:
        role = {} if self._has_begun else {"role": "assistant"}
        self._has_begun = True
        delta = {"content": None, "tool_calls": None, **role, **delta}
        choice = {"index": index, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        return Completion({**self._head, "choices": [choice]})


class Stream(_Pieces):
    """An answer as it comes: chunks in OpenAI's form, with items and attributes.

    The call begins with the first chunk that is asked for. ``close()``, or leaving a ``with`` block, takes back a call that
    has not ended. Behind the last chunk, ``completion`` is the whole answer. Where an attempt broke off and the queue began
    anew, and the new answer does not go on as the old one began, ``MidStreamError`` is raised at its end, whose
    ``completion`` is the whole answer.
    """

    def __init__(
        self, lines: Generator[Dict[str, Any], None, None], model: str, options: Optional[Mapping[str, Any]] = None
    ) -> None:
        super().__init__(model, options)
        self._lines = lines
        self._iterator = self._all()

    def _all(self) -> Iterator[Completion]:
        for line in self._lines:
            yield from self._take(line)

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Completion:
        return next(self._iterator)

    def close(self) -> None:
        """Ends the stream; a call that has not ended is taken back."""
        self._lines.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncStream(_Pieces):
    """A ``Stream`` for ``async for``; ``aclose()``, or leaving an ``async with`` block, takes back a call."""

    def __init__(
        self, lines: AsyncGenerator[Dict[str, Any], None], model: str, options: Optional[Mapping[str, Any]] = None
    ) -> None:
        super().__init__(model, options)
        self._lines = lines
        self._iterator = self._all()

    async def _all(self) -> AsyncIterator[Completion]:
        async for line in self._lines:
            for chunk in self._take(line):
                yield chunk

    def __aiter__(self) -> AsyncStream:
        return self

    async def __anext__(self) -> Completion:
        return await self._iterator.__anext__()

    async def aclose(self) -> None:
        """Ends the stream; a call that has not ended is taken back."""
        await self._lines.aclose()

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _begun_anew(answer: Completion) -> GristmillError:
    message = (
        "the answer was begun anew after a part of it had been given, and does not go on as that part began; "
        "the whole answer is this error's `completion`"
    )
    record = {"v": SCHEMA_VERSION, "class": "MidStreamError", "message": message, "retryable": False}
    error = from_record(record)
    error.completion = answer  # type: ignore[attr-defined]
    return error


class _Call(NamedTuple):
    arguments: List[str]
    body: bytes
    environment: Dict[str, Optional[str]]


def _call(
    body: Dict[str, Any],
    parameters: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    timeout: Any,
    num_retries: Optional[int],
    api_base: Optional[str],
    api_key: Optional[str],
) -> _Call:
    _options.refuse("completion", options)
    body.update(_body(parameters))
    for name in parameters.get("additional_drop_params") or ():
        body.pop(name, None)
    environment: Dict[str, Optional[str]] = {}
    seconds = _seconds("timeout", timeout) or _seconds("request_timeout", parameters.get("request_timeout"))
    if seconds is not None:
        environment["GRISTMILL_TIMEOUT"] = seconds
    if api_key is not None:
        for name in _KEYS:
            environment.update({name: api_key, f"{name}_FILE": None})
    flags = _options.flags(
        {
            "litellm_names": True,
            "own_key": api_key is not None,
            "timeout": seconds and f"{seconds}s",
            "num_retries": num_retries,
            "api_base": None if api_base is None else str(api_base),
            **options,
        }
    )
    return _Call(["call", "--json", *flags, "-"], _encoded(body), environment)


def _streamed(call: _Call) -> List[str]:
    return [call.arguments[0], "--stream", *call.arguments[1:]]


def _chunks(call: _Call) -> Generator[Dict[str, Any], None, None]:
    with _process.spooled(call.body) as stdin:
        yield from _process.lines(_streamed(call), stdin=stdin, environment=call.environment)


def _body(parameters: Mapping[str, Any]) -> Dict[str, Any]:
    """Returns what goes into the request."""
    body: Dict[str, Any] = {}
    for name, value in parameters.items():
        if name in _ELSEWHERE:
            # What is empty asks for nothing; a price of 0 asks for something.
            if value or (name.endswith("_cost_per_token") and value is not None):
                raise TypeError(f"completion() takes no {name}: {_ELSEWHERE[name]}")
        elif name == "ssl_verify":
            if value not in (None, True):
                raise TypeError("completion() takes no ssl_verify: certificates are always checked")
        elif name == "extra_body":
            body.update(value or {})
        elif name == "response_format":
            body[name] = _schema.response_format(value)
        elif name not in _IGNORED and name not in ("request_timeout", "additional_drop_params"):
            body[name] = value
    return {name: value for name, value in body.items() if value is not None}


def _encoded(body: Mapping[str, Any]) -> bytes:
    try:
        return _rows.encode(body)
    except (TypeError, ValueError):
        for name, value in body.items():
            try:
                _rows.encode(value)
            except (TypeError, ValueError) as error:
                raise _options.type_of(error)(f"completion(): {name}: {_rows.reason(error)}") from None
        raise


def _seconds(name: str, timeout: Any) -> Optional[str]:
    """Writes a time limit as seconds; of an ``httpx.Timeout`` it is the one for reading, as with LiteLLM."""
    if hasattr(timeout, "read") and hasattr(timeout, "connect"):
        timeout = timeout.read
    if timeout is None:
        return None
    try:
        seconds = float("nan" if isinstance(timeout, bool) else timeout)
    except (TypeError, ValueError):
        seconds = float("nan")
    if not 0 < seconds < float("inf"):
        raise TypeError(f"completion() takes no {name} of {timeout!r}: give seconds")
    return f"{seconds:.6f}".rstrip("0").rstrip(".")


def _answer(lines: Sequence[Mapping[str, Any]]) -> Completion:
    result = row(lines[0])
    error = result.exception()
    if error is not None:
        raise error
    answer = Completion(result["response"])
    for choice in answer.get("choices") or ():
        # OpenAI's own clients have these where the answer leaves them out.
        for name in ("content", "tool_calls", "function_call"):
            choice.message.setdefault(name, None)
    answer.gristmill = Completion({key: result[key] for key in result if key not in ("response", "output_text", "error")})
    return answer


def _attributes(value: Any) -> Any:
    if isinstance(value, dict):
        return Completion(value)
    if isinstance(value, list):
        return [_attributes(item) for item in value]
    return value
