"""Classes of ours that are LiteLLM's and OpenAI's as well, so that ``except litellm.RateLimitError`` catches ours.

Neither package is imported here, which takes seconds: whoever names a class of theirs has imported it. What is imported when
an error is made decides of what else it is an instance, and nothing of theirs gets into a pickle.
"""

from __future__ import annotations

import sys
import types
from typing import Dict, List, Optional, Sequence, Tuple, Type

_mixed: Dict[Tuple[type, ...], type] = {}


def mixed(plain: Type[BaseException], names: Sequence[str]) -> Type[BaseException]:
    """Returns a subclass of ``plain`` and of those classes, such as ``litellm.Timeout``, that are there; else ``plain``."""
    found = [kind for kind in map(_find, names) if kind is not None]
    bases: List[type] = []
    for kind in found:
        # LiteLLM's classes are OpenAI's already; a base is named once, and before what it derives from.
        if not any(issubclass(other, kind) for other in (plain, *bases)):
            bases.append(kind)
    if not bases:
        return plain
    key = (plain, *bases)
    if key not in _mixed:
        try:
            _mixed[key] = _mix(plain, bases)
        except TypeError:
            # A version whose classes do not go together: the error matters more than its other names.
            _mixed[key] = plain
    return _mixed[key]


def plain_of(kind: Type[BaseException]) -> Type[BaseException]:
    """Returns the class that a mixed one was made of."""
    plain: Type[BaseException] = kind.__dict__.get("_plain", kind)
    return plain


def _find(name: str) -> Optional[Type[BaseException]]:
    package, _, attribute = name.partition(".")
    # LiteLLM names some of its classes in a module alone.
    for module in (package, f"{package}.exceptions"):
        try:
            kind = getattr(sys.modules.get(module), attribute, None)
        except Exception:
            # A package that is imported when it is first used, and cannot be.
            return None
        if isinstance(kind, type) and issubclass(kind, Exception):
            return kind
    return None


def _mix(plain: type, bases: Sequence[type]) -> type:
    names = {"__module__": plain.__module__, "__qualname__": plain.__qualname__, "__doc__": plain.__doc__, "_plain": plain}
    return types.new_class(plain.__name__, (plain, *bases), {}, lambda namespace: namespace.update(names))
