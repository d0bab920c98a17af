"""What can go wrong with a command as a whole. A request that failed is no exception: its row has an ``error``."""

from __future__ import annotations

from typing import Any, Mapping, Optional, Type


class GristmillError(Exception):
    """The command could not do its work, or the one request of a ``completion`` failed.

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
