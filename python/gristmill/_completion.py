"""One request through queue and worker, called as LiteLLM's ``completion`` is."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

from . import _options, _process, _rows
from ._results import row

#: Parameters of LiteLLM's that speak of an endpoint or of LiteLLM itself, and what stands for them here.
_ELSEWHERE = {
    "api_version": "set api_version in gristmill.yaml",
    "custom_llm_provider": "name the provider in gristmill.yaml",
    "deployment_id": "name the deployment in gristmill.yaml",
    "extra_headers": "headers are the worker's",
    "headers": "headers are the worker's",
    "model_list": "write model_list into gristmill.yaml",
    "fallbacks": "write several deployments into gristmill.yaml",
    "mock_response": "use gristmill={'simulate': True} or `gristmill simulate`",
    "drop_params": "leave out what the model does not take",
    "stream_options": "answers come whole",
}


class Completion(Dict[str, Any]):
    """An answer in OpenAI's form, with items and attributes, like LiteLLM's ``ModelResponse``.

    What Gristmill knows of it stands under ``gristmill``: ``cost_usd``, ``attempts``, ``latency_ms``, ``job_id`` …

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

    def model_dump(self) -> Dict[str, Any]:
        """Returns plain dictionaries."""
        plain: Dict[str, Any] = json.loads(json.dumps(self))
        return plain


def completion(
    model: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    timeout: Optional[float] = None,
    num_retries: Optional[int] = None,
    max_retries: Optional[int] = None,
    api_base: Optional[str] = None,
    base_url: Optional[str] = None,
    api_key: Optional[str] = None,
    gristmill: Optional[Mapping[str, Any]] = None,
    **parameters: Any,
) -> Completion:
    """Asks one question through queue and worker, and waits for the answer.

    Takes the parameters of LiteLLM's ``completion``; those that are not named here go into the request as they are. A
    stream and LiteLLM's own routing are refused: answers come whole, endpoints and keys are the worker's.

    Args:
        model: The model group, as ``gristmill.yaml`` or the endpoint names it.
        messages: The conversation.
        timeout: Seconds after which no call starts any more, and that a call of this machine may take.
        num_retries: Retries after the first call; ``max_retries`` is another name for it.
        api_base: The endpoint, where this machine makes the call; ``base_url`` is another name for it.
        api_key: The key for OpenAI or that endpoint, where this machine makes the call. It is handed to the program
            in its environment and stored nowhere.
        gristmill: Options of ``gristmill call``, such as ``{"db": "sweep.db"}`` or ``{"simulate": True}``.

    Raises:
        RequestError: The request failed: its class in ``gristmill.errors``, which is LiteLLM's and OpenAI's class as well
            where these packages are imported. What keeps it from being made raises the same where it has a class: a
            missing key is an ``AuthenticationError`` with ``exit_code`` 2.
        GristmillError: Anything else kept it from being made.

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
    return _answer(list(_process.lines(call.arguments, body=call.body, environment=call.environment)))


async def acompletion(
    model: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    timeout: Optional[float] = None,
    num_retries: Optional[int] = None,
    max_retries: Optional[int] = None,
    api_base: Optional[str] = None,
    base_url: Optional[str] = None,
    api_key: Optional[str] = None,
    gristmill: Optional[Mapping[str, Any]] = None,
    **parameters: Any,
) -> Completion:
    """Does what ``completion`` does without holding up the event loop. Cancelling the task cancels the call.

    Each waits in a process of its own: for thousands of requests use ``run`` or ``submit``.

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
    return _answer(await _process.collect(call.arguments, body=call.body, environment=call.environment))


class _Call(NamedTuple):
    arguments: List[str]
    body: bytes
    environment: Dict[str, str]


def _call(
    body: Dict[str, Any],
    parameters: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    timeout: Optional[float],
    num_retries: Optional[int],
    api_base: Optional[str],
    api_key: Optional[str],
) -> _Call:
    for name, value in parameters.items():
        if name == "stream" and value:
            raise TypeError("completion() takes no stream: answers come whole")
        if name in _ELSEWHERE and value is not None:
            raise TypeError(f"completion() takes no {name}: {_ELSEWHERE[name]}")
        if name == "extra_body":
            body.update(value or {})
        elif value is not None and name not in _ELSEWHERE and name != "stream":
            body[name] = value
    environment = {}
    if timeout is not None:
        environment["GRISTMILL_TIMEOUT"] = f"{timeout:g}"
    if api_key is not None:
        environment["OPENAI_API_KEY"] = api_key
    flags = _options.flags(
        {
            "timeout": None if timeout is None else f"{timeout:g}s",
            "num_retries": num_retries,
            "api_base": api_base,
            **options,
        }
    )
    text = json.dumps(body, ensure_ascii=False, default=_rows.plain)
    return _Call(["call", "--json", *flags, "-"], text.encode(), environment)


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
