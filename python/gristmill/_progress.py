"""Bars for people who wait: HTML in a notebook, one line that is written over on a terminal, nothing elsewhere."""

from __future__ import annotations

import contextlib
import html
import shutil
import sys
from typing import Any, Callable, Iterator, Mapping, Optional, Union

#: ``None`` shows a bar where somebody sees it, ``True`` also where nobody may, ``False`` never; a function gets each view.
Style = Union[None, bool, Callable[[Mapping[str, Any]], None]]

_CELLS = 24


@contextlib.contextmanager
def shown(style: Style) -> Iterator[Optional[Callable[[Mapping[str, Any]], None]]]:
    """Opens what progress is shown with, and clears it away at the end."""
    bar: Union[_Notebook, _Terminal, None] = None
    if callable(style):
        yield style
        return
    if style is not None and not isinstance(style, bool):
        raise TypeError(f"progress is {style!r}; give True, False or a function")
    if style is not False and _in_notebook():
        bar = _Notebook()
    elif style or (style is None and sys.stderr is not None and sys.stderr.isatty()):
        bar = _Terminal()
    try:
        yield bar.show if bar else None
    finally:
        if bar:
            bar.close()


def describe(view: Mapping[str, Any]) -> str:
    """Says in one line how far a batch is."""
    parts = [f"{view['done']:,}/{view['total']:,} done"]
    if view.get("failed"):
        parts.append(f"{view['failed']:,} failed")
    if view.get("rate_per_s"):
        parts.append(f"{view['rate_per_s']:.1f}/s")
    if view.get("eta_s") is not None and view["done"] < view["total"]:
        parts.append(f"{_duration(round(view['eta_s']))} to go")
    note = view.get("waiting_for") or view.get("top_error")
    if note:
        parts.append(str(note).splitlines()[0])
    return ", ".join(parts)


def _duration(seconds: int) -> str:
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{seconds:02}s" if minutes else f"{seconds}s"


class _Terminal:
    def __init__(self) -> None:
        self._width = 0

    def show(self, view: Mapping[str, Any]) -> None:
        filled = round(_CELLS * view["done"] / max(view["total"], 1))
        text = "━" * filled + "─" * (_CELLS - filled) + " " + describe(view)
        # One column stays free: a full line would wrap.
        text = text[: shutil.get_terminal_size().columns - 1]
        self._write("\r" + text.ljust(self._width))
        self._width = len(text)

    def close(self) -> None:
        if self._width:
            self._write("\r" + " " * self._width + "\r")

    def _write(self, text: str) -> None:
        # A terminal that is gone, or that knows ASCII alone, must not end a run.
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)
            sys.stderr.flush()


class _Notebook:
    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, view: Mapping[str, Any]) -> None:
        from IPython.display import HTML, display

        bar = HTML(
            f'<progress value="{view["done"]}" max="{max(view["total"], 1)}" style="width: 20em"></progress> '
            f"{html.escape(describe(view))}"
        )
        if self._handle is None:
            self._handle = display(bar, display_id=True)
        else:
            self._handle.update(bar)

    def close(self) -> None:
        """The last view stays in the notebook."""


def _in_notebook() -> bool:
    # Whoever runs in a notebook has imported it.
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None
