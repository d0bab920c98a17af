"""The order of an input's requests, so that rows come back in it."""

from __future__ import annotations

import csv
import gzip
import importlib
import io
import itertools
import json
import os
import re
from typing import IO, Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

from . import _options

#: What the program calls lines and rows that name themselves not.
_NUMBERED = re.compile(r"(?:line|row)-(\d+)")


class Order:
    """Tells where a request stands in the input, and its variant in the sweep.

    Args:
        places: Of each name, its place.
        varied: What the sweep varies, in the program's order, with what it calls each value.
        numbered: Whether requests that have no name are called after their number.
    """

    def __init__(
        self, places: Mapping[str, int], varied: Sequence[Tuple[str, Sequence[str]]] = (), numbered: bool = False
    ) -> None:
        self._places = places
        self._numbered = numbered
        variants = itertools.product(*([f"|{name}={label}" for label in labels] for name, labels in varied))
        # The first sample keeps the request's name.
        self._variants = {"".join(parts).replace("|sample=0", ""): rank for rank, parts in enumerate(variants)}

    def key(self, row: Mapping[str, Any]) -> Tuple[int, int, str]:
        """Returns what to sort by; whatever the input does not hold comes last, in the order of its recording."""
        name = row["custom_id"]
        end = len(name)
        while end >= 0:
            place = self._place(name[:end])
            if place is not None:
                return place, self._variants.get(name[end:], len(self._variants)), row["job_id"]
            end = name.rfind("|", 0, end)
        return 1 << 62, 0, row["job_id"]

    def _place(self, name: str) -> Optional[int]:
        place = self._places.get(name)
        numbered = _NUMBERED.fullmatch(name) if place is None and self._numbered else None
        return int(numbered[1]) if numbered else place


def of_rows(custom_ids: Iterable[str], options: Mapping[str, Any], models: Sequence[str]) -> Order:
    """Returns the order of rows."""
    return Order({name: place for place, name in enumerate(custom_ids)}, _varied(options, models))


def of_file(path: str, options: Mapping[str, Any], models: Sequence[str]) -> Order:
    """Returns the order of a file; where it cannot be read here, that of the lines' numbers alone."""
    places: Dict[str, int] = {}
    # A pipe was read already; what the program could read and Python cannot is zstd before Python 3.14.
    if os.path.isfile(path):
        try:
            places.update(_names(path, "prompt_column" in options))
        except (OSError, ValueError, ImportError, EOFError, csv.Error):
            pass
    return Order(places, _varied(options, models), numbered=True)


def _varied(options: Mapping[str, Any], models: Sequence[str]) -> List[Tuple[str, Sequence[str]]]:
    """Returns what is varied in the program's order: parameters, models, samples."""
    varied: List[Tuple[str, Sequence[str]]] = [*_options.swept(options.get("set"))]
    if len(models) > 1:
        varied.append(("model", models))
    repeat = options.get("repeat")
    if isinstance(repeat, int) and repeat > 1:
        varied.append(("sample", [str(sample) for sample in range(repeat)]))
    return varied


def _names(path: str, names_column: bool) -> Iterator[Tuple[str, int]]:
    """Yields the names that lines or rows of a table give themselves, each with its number."""
    plain = re.sub(r"\.(gz|zst|zstd)$", "", path).lower()
    with open(path, "rb") as raw:
        start = raw.read(4)
        raw.seek(0)
        file: IO[bytes] = raw
        if start[:2] == b"\x1f\x8b":
            file = gzip.open(raw)  # type: ignore[assignment]
        elif start == b"\x28\xb5\x2f\xfd":
            file = importlib.import_module("compression.zstd").open(raw)
        with file:
            # Tables keep the line ends within their cells; lines end with \n alone.
            text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline="\n")
            begin = text.read(256).lstrip()
            text.seek(0)
            if plain.endswith((".csv", ".tsv")) or (names_column and begin and not begin.startswith("{")):
                yield from _table(text, "\t" if plain.endswith(".tsv") else ",")
            else:
                yield from _lines(text)


def _lines(text: IO[str]) -> Iterator[Tuple[str, int]]:
    for number, line in enumerate(text, 1):
        try:
            request = json.loads(line) if '"custom_id"' in line else None
        except ValueError:
            continue
        if isinstance(request, dict) and isinstance(request.get("custom_id"), str):
            yield request["custom_id"], number


def _table(text: IO[str], delimiter: str) -> Iterator[Tuple[str, int]]:
    rows = csv.reader(text, delimiter=delimiter)
    heading = next(rows, [])
    if "custom_id" not in heading:
        return
    column = heading.index("custom_id")
    for number, row in enumerate(rows, 2):
        if column < len(row):
            yield row[column], number
