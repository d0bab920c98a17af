"""What can go wrong: a command as a whole, or one request.

>>> try:
...     answer = gristmill.completion(model="gpt-4o-mini", messages=messages)
... except gristmill.errors.RateLimitError as error:
...     print(error.status_code, error.retry_after, error.request_id)

The classes are those of docs/error.schema.json, most of them named as LiteLLM and OpenAI's client name theirs. Where one of
these packages is imported, an error is an instance of its class as well: ``except litellm.RateLimitError`` and
``except openai.APITimeoutError`` catch ours. An error is its stored record, in whatever process and beside whatever packages
it is: it is pickled as the JSON of the record and made of it again.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar, Dict, Iterator, Mapping, Optional, Tuple, Type

from . import _answer, _foreign

#: The version of the records that are made here.
SCHEMA_VERSION = 1


class GristmillError(Exception):
    """The command could not do its work, or a request failed, which is a ``RequestError``.

    Args:
        message: What went wrong, in one line.
        hint: What to do about it, if that is known.
        exit_code: How the program ended: 1 usage or system; 2 key, model or server of a provider; 3 the request
            failed; 130 interrupted. ``None`` where it did not run.
        error: The stored error of the request that failed, as ``Results`` rows have it.

    Example:
        >>> try:
        ...     gristmill.run(["Hello"], model="gpt-4o-mini")
        ... except gristmill.GristmillError as error:
        ...     print(error.message, error.hint, error.exit_code)
    """

    def __init__(
        self,
        message: str,
        *,
        hint: Optional[str] = None,
        exit_code: Optional[int] = None,
        error: Optional[Mapping[str, Any]] = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code
        self.error = error

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message

    def __reduce__(self) -> Any:
        return _restore, (type(self), self.message, self.hint, self.exit_code, self.error)


def _restore(
    kind: Type[GristmillError],
    message: str,
    hint: Optional[str],
    exit_code: Optional[int],
    error: Optional[Mapping[str, Any]],
) -> GristmillError:
    return kind(message, hint=hint, exit_code=exit_code, error=error)


class RequestError(GristmillError):
    """A request that failed; also what a class of a later version becomes.

    Two are equal if their records are.

    Args:
        message: What went wrong.
        hint: What to do about it, if that is known.
        exit_code: As in ``GristmillError``.
        fields: The record's other fields, such as ``status=429``.

    Attributes:
        record: Everything that was stored, as docs/error.schema.json describes it; ``error`` is another name for it.
        error_class: The name of the class, in ``record`` ``class``.
        message: The provider's own message, or ours where no provider spoke.
        status_code: The HTTP status; without an answer the one that LiteLLM gives such an error, 408 for a ``Timeout``.
        code: The provider's code.
        type: The provider's type.
        param: The parameter at fault.
        llm_provider: The kind of provider, such as ``openai``.
        model: The model that was asked for at the provider.
        deployment: The deployment's name.
        request_id: The provider's id of the call.
        retry_after: Seconds that the provider asks to wait at least.
        headers: The answer's headers on rate limits and diagnostics.
        body: The provider's body: of JSON its ``error``, as OpenAI's client has it, else the text.
        response: ``status_code``, ``headers``, ``text`` and ``json()`` of the answer, if one came.
        causes: What lies below: mappings with ``kind`` and ``message``, outermost first.
        attempts: The earlier calls: mappings with ``attempt``, ``class``, ``status`` and ``message``.
        retryable: Whether the same call may succeed later.
        verdict: Why it ended although, or because, it is so.
        partial_output: The text that had come when a stream broke.
        underlying: The class of what broke it.

    Example:
        >>> for row in gristmill.run(prompts, model="gpt-4o-mini").failed:
        ...     error = row.exception()
        ...     print(row["custom_id"], repr(error), error.retry_after)
    """

    #: Classes of others that this one stands for.
    _others: ClassVar[Tuple[str, ...]] = ("litellm.APIError", "openai.APIError")
    #: Where another status says something else.
    _others_by_status: ClassVar[Mapping[int, Tuple[str, ...]]] = {}
    #: The status where no answer came.
    _status: ClassVar[Optional[int]] = 500

    # What LiteLLM's and OpenAI's errors have, and nothing is known of here.
    request = None
    litellm_debug_info = None
    max_retries = None

    def __new__(cls, *_: Any, **fields: Any) -> "RequestError":
        return _made(cls, fields.get("status"))

    def __init__(self, message: str, *, hint: Optional[str] = None, exit_code: Optional[int] = 3, **fields: Any) -> None:
        name = next(kind.__name__ for kind in type(self).__mro__ if kind in _CLASSES.values() or kind is RequestError)
        record = {"v": SCHEMA_VERSION, "class": name, "message": message, "retryable": False, **fields}
        self._take(_plain_json(record), hint, exit_code)

    def _take(self, record: Dict[str, Any], hint: Optional[str], exit_code: Optional[int]) -> None:
        """Sets everything from the record. No constructor of another package runs: their signatures differ."""
        message = record.get("message")
        self.message = message if isinstance(message, str) else "" if message is None else str(message)
        Exception.__init__(self, self.message)
        self.hint = hint
        self.exit_code = exit_code
        self.record = self.error = record
        name = record.get("class")
        self.error_class: str = name if isinstance(name, str) else type(self).__name__
        status = _answer.status(record)
        self.status_code: Optional[int] = self._status if status is None else status
        self.code: Optional[str] = record.get("code")
        self.type: Optional[str] = record.get("type")
        self.param: Optional[str] = record.get("param")
        self.llm_provider: Optional[str] = record.get("provider")
        self.model: Optional[str] = record.get("model")
        self.deployment: Optional[str] = record.get("deployment")
        self.request_id: Optional[str] = record.get("request_id")
        wait_ms = record.get("retry_after_ms")
        self.retry_after: Optional[float] = wait_ms / 1000 if isinstance(wait_ms, (int, float)) else None
        headers = record.get("headers")
        self.headers = _answer.Headers(headers if isinstance(headers, dict) else {})
        text = record.get("body")
        self.body = _answer.body(text)
        self.response: Optional[_answer.Response] = None
        if status is not None:
            self.response = _answer.Response(status, self.headers, text if isinstance(text, str) else "")
        self.causes = _answer.mappings(record.get("causes"))
        self.attempts = _answer.mappings(record.get("earlier"))
        self.num_retries = len(self.attempts)
        self.retryable: bool = bool(record.get("retryable"))
        self.verdict: Optional[str] = record.get("verdict")
        self.partial_output: Optional[str] = record.get("partial_output")
        self.underlying: Optional[str] = record.get("underlying")

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        # Who imports LiteLLM only to look at an error that he has caught finds it to be LiteLLM's, too.
        plain = _foreign.plain_of(type(self))
        return _foreign.mixed(plain, _others(plain, _answer.status(getattr(self, "record", {}))))

    def __str__(self) -> str:
        known = [
            f"status {self.status_code}" if self.response is not None else "",
            " ".join(map(str, filter(None, (self.llm_provider, self.model)))),
            f"request {self.request_id}" if self.request_id else "",
            f"retry after {self.retry_after:g} s" if self.retry_after is not None else "",
            f"after {len(self.attempts) + 1} calls" if self.attempts else "",
        ]
        told = "; ".join(filter(None, known))
        lines = [f"{self.message} ({told})" if told else self.message]
        lines.extend(f"caused by {cause.get('kind')}: {cause.get('message')}" for cause in self.causes)
        if self.hint:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        shown = ("status", "code", "provider", "model", "deployment", "request_id", "retry_after_ms")
        fields = [f"{name}={self.record[name]!r}" for name in shown if name in self.record]
        name = type(self).__name__
        if self.error_class != name:
            fields.append(f"error_class={self.error_class!r}")
        return f"{name}({', '.join([repr(self.message), *fields])})"

    def __eq__(self, other: object) -> bool:
        return self.record == other.record if isinstance(other, RequestError) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.error_class, self.message))

    def __reduce__(self) -> Any:
        plain = _foreign.plain_of(type(self))
        # A class of ours is found again by the record; one that somebody derived is named.
        kind = None if plain is _CLASSES.get(self.error_class, RequestError) else plain
        notes = getattr(self, "__notes__", None)
        state = {"__notes__": list(notes)} if notes else None
        return _from_json, (json.dumps(self.record), self.hint, self.exit_code, kind), state


class AuthenticationError(RequestError):
    """401: the key is missing or wrong."""

    _others = ("litellm.AuthenticationError", "openai.AuthenticationError")
    _status = 401


class PermissionDeniedError(RequestError):
    """403: the key may not do this."""

    _others = ("litellm.PermissionDeniedError", "openai.PermissionDeniedError")
    _status = 403


class NotFoundError(RequestError):
    """404: no such model or path."""

    _others = ("litellm.NotFoundError", "openai.NotFoundError")
    _status = 404


class BadRequestError(RequestError):
    """400 and its kin: the request is wrong."""

    _others = ("litellm.BadRequestError", "openai.BadRequestError")
    _status = 400


class UnprocessableEntityError(RequestError):
    """422: the request is understood and refused."""

    _others = ("litellm.UnprocessableEntityError", "openai.UnprocessableEntityError")
    _status = 422


class UnsupportedParamsError(BadRequestError):
    """A parameter that the provider does not take."""

    _others = ("litellm.UnsupportedParamsError", "openai.BadRequestError")


class ContextWindowExceededError(BadRequestError):
    """The prompt is longer than the model's window."""

    _others = ("litellm.ContextWindowExceededError", "openai.BadRequestError")


class ContentPolicyViolationError(BadRequestError):
    """The provider's safety system refused."""

    _others = ("litellm.ContentPolicyViolationError", "openai.BadRequestError")
    provider_specific_fields = None


class RequestTooLargeError(RequestError):
    """413, or a request that no limit can ever fit."""

    # LiteLLM reads 413 as 400; OpenAI's client has no class for it.
    _others = ("litellm.BadRequestError", "openai.APIStatusError")
    _status = 413


class RateLimitError(RequestError):
    """429: too many requests or tokens for now."""

    _others = ("litellm.RateLimitError", "openai.RateLimitError")
    _status = 429
    category = "vendor_rate_limit"

    @property
    def rate_limit_type(self) -> Optional[str]:
        """What was limited, by LiteLLM's names, where OpenAI's type tells it: ``requests`` or ``tokens``."""
        return self.type if self.type in ("requests", "tokens") else None

    @property
    def detail(self) -> str:
        """The message, by LiteLLM's name."""
        return self.message


class InsufficientQuotaError(RequestError):
    """The account has no money or quota left."""

    _others = ("litellm.RateLimitError", "openai.RateLimitError")
    _others_by_status = {402: ("litellm.PaymentRequiredError", "openai.APIStatusError")}
    _status = 429
    category = "vendor_rate_limit"
    rate_limit_type = "budget"

    @property
    def detail(self) -> str:
        """The message, by LiteLLM's name."""
        return self.message


class ConflictError(RequestError):
    """409."""

    _others = ("openai.ConflictError",)
    _status = 409


class Timeout(RequestError):
    """No answer in time: connect, first byte, idle or total."""

    _others = ("litellm.Timeout", "openai.APITimeoutError")
    _status = 408


class InternalServerError(RequestError):
    """500."""

    _others = ("litellm.InternalServerError", "openai.InternalServerError")


class BadGatewayError(RequestError):
    """502."""

    _others = ("litellm.BadGatewayError", "openai.InternalServerError")
    _status = 502


class ServiceUnavailableError(RequestError):
    """503."""

    _others = ("litellm.ServiceUnavailableError", "openai.InternalServerError")
    _status = 503


class OverloadedError(RequestError):
    """529."""

    _others = ("litellm.InternalServerError", "openai.InternalServerError")
    _status = 529


class APIConnectionError(RequestError):
    """No connection, or it broke before the answer was whole."""

    _others = ("litellm.APIConnectionError", "openai.APIConnectionError")


class APIResponseValidationError(RequestError):
    """An answer with status 200 that cannot be read."""

    _others = ("litellm.APIResponseValidationError", "openai.APIResponseValidationError")


class JSONSchemaValidationError(APIResponseValidationError):
    """The answer does not fit the schema that was asked for."""

    _others = ("litellm.JSONSchemaValidationError", "openai.APIResponseValidationError")
    schema = None

    @property
    def raw_response(self) -> Optional[str]:
        """The answer, by LiteLLM's name."""
        return self.record.get("partial_output") or self.record.get("body")


class LengthFinishReasonError(RequestError):
    """Structured output was cut by the length limit."""

    _others = ("openai.LengthFinishReasonError",)
    _status = 200

    @property
    def completion(self) -> Any:
        """The answer, by OpenAI's name, as far as it was kept."""
        return self.body


class MidStreamError(RequestError):
    """A stream that broke after output began."""

    _others = ("litellm.MidStreamFallbackError", "openai.APIError")
    _status = 503
    is_pre_first_chunk = False
    emitted_disqualifying_content = False

    @property
    def generated_content(self) -> str:
        """The text that had come, by LiteLLM's name."""
        return self.partial_output or ""

    @property
    def original_exception(self) -> Optional[RequestError]:
        """What broke it, by LiteLLM's name."""
        return from_record({**self.record, "class": self.underlying}) if self.underlying else None


class BudgetExceededError(RequestError):
    """A budget would be exceeded."""

    _others = ("litellm.BudgetExceededError",)
    _status = 422
    category = "litellm_rate_limit"
    rate_limit_type = "budget"
    current_cost = None
    max_budget = None
    entity_type = None
    entity_id = None


class CancelledError(RequestError):
    """Somebody cancelled it."""

    _others = ("openai.OpenAIError",)
    _status = 499


class DeadlineExceededError(Timeout):
    """Its deadline passed before a call could start."""


class WorkerCrashedError(RequestError):
    """Workers died holding the job, too many times."""

    _others = ("openai.OpenAIError",)


class InvalidMessageError(RequestError):
    """The message could not be read."""

    _others = ("openai.OpenAIError",)
    _status = 400


class UnknownModelGroupError(NotFoundError):
    """No worker serves the model group."""


class StoreRejectedError(RequestError):
    """The store refused to keep the row."""

    _others = ("openai.OpenAIError",)


class APIError(RequestError):
    """Any other answer of a provider."""


def _subclasses(kind: Type[RequestError]) -> Iterator[Type[RequestError]]:
    for sub in kind.__subclasses__():
        yield sub
        yield from _subclasses(sub)


#: Every class of docs/error.schema.json, by its name. Whatever is derived later is not among them.
_CLASSES: Dict[str, Type[RequestError]] = {kind.__name__: kind for kind in _subclasses(RequestError)}


def from_record(
    record: Mapping[str, Any], *, hint: Optional[str] = None, exit_code: Optional[int] = 3
) -> RequestError:
    """Makes the exception of a stored error, as rows, files and tables hold it; nothing in it is lost.

    Args:
        record: A mapping as docs/error.schema.json describes it. Of a class of a later version it makes a
            ``RequestError``; fields of a later version are kept in its ``record``.
        hint: What to do about it.
        exit_code: As in ``GristmillError``.

    Raises:
        TypeError: The record holds what JSON cannot hold.

    Example:
        >>> raise gristmill.errors.from_record(row["error"])
    """
    return _rebuilt(_plain_json(record), hint, exit_code, None)


def _from_json(
    record: str, hint: Optional[str], exit_code: Optional[int], kind: Optional[Type[RequestError]]
) -> RequestError:
    """Unpickles. Its name and arguments stand in the pickles of every version."""
    return _rebuilt(json.loads(record), hint, exit_code, kind)


def _rebuilt(
    record: Dict[str, Any], hint: Optional[str], exit_code: Optional[int], kind: Optional[Type[RequestError]]
) -> RequestError:
    name = record.get("class")
    known = _CLASSES.get(name, RequestError) if isinstance(name, str) else RequestError
    error = _made(kind or known, _answer.status(record))
    error._take(record, hint, exit_code)
    return error


def _made(kind: Type[RequestError], status: Any) -> RequestError:
    plain: Any = _foreign.plain_of(kind)
    made: Any = Exception.__new__(_foreign.mixed(plain, _others(plain, status)))
    error: RequestError = made
    return error


def _others(plain: Any, status: Any) -> Tuple[str, ...]:
    names: Tuple[str, ...] = plain._others_by_status.get(status, plain._others)
    return names


def _plain_json(record: Mapping[str, Any]) -> Dict[str, Any]:
    """Copies a record, so that it holds what JSON holds and is nobody else's."""
    plain: Dict[str, Any] = json.loads(json.dumps(dict(record)))
    return plain
