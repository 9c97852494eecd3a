"""A request's JSON, read in pieces.

Python's reader holds all other threads up until it returns, seconds for 10 MB of brackets. Here it is given one row of a tensor, one file
or the parameters at a time, and no more of them than the model and the settings allow.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from json.decoder import JSONDecodeError, scanstring  # type: ignore[attr-defined]
from typing import Any

from nplrp.serve.problems import Problem

#: Characters of one number of a tensor with what is around it, of anything that isn't long, of all parameters, and of what is read at once.
_NUMBER, _SHORT, _PARAMETERS, _PIECE = 64, 10_000, 1 << 18, 1 << 18

_SPACE = re.compile(r"[ \t\n\r]*")


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON; numbers are finite")


_scan = json.JSONDecoder(parse_constant=_refuse).scan_once  # type: ignore[attr-defined]


class _Long(Exception):
    """A value is longer than the piece that was looked at, or is none."""


def read_request(data: bytes, shape: Sequence[int], most: int, from_base64: Callable[[str, int], Any]) -> tuple[list[Any], dict[str, Any]]:
    """Read ``{"instances": [...], "parameters": {...}}``: strict JSON, without NaN or Infinity, each key once.

    Parameters
    ----------
    data : bytes
        UTF-8.
    shape : sequence of int
        The model's input; tensors are nested lists of it. Whether they are is told only where they are longer.
    most : int
        Instances.
    from_base64 : callable
        Makes what stands for ``{"b64": text}``, of the text and the instance's place.

    Raises
    ------
    Problem
        bad_json, bad_instances or bad_parameter.
    """
    try:
        return _Reader(data.decode("utf-8"), shape, most, from_base64).request()
    except _Long:
        raise Problem("bad_json", "the body can't be read as JSON: it breaks off, or a text or number is too long") from None
    except (ValueError, RecursionError) as error:  # also bytes that aren't UTF-8, and whole numbers of thousands of digits
        reason = {UnicodeDecodeError: "not UTF-8", RecursionError: "nested too deep"}.get(type(error), str(error))
        raise Problem("bad_json", f"the body can't be read as JSON: {reason[:200]}") from None


class _Reader:
    """A place in a text, and what is read from there."""

    def __init__(self, text: str, shape: Sequence[int], most: int, from_base64: Callable[[str, int], Any]) -> None:
        self._text, self._place = text, 0
        self._shape, self._most, self._from_base64 = tuple(shape), most, from_base64

    def request(self) -> tuple[list[Any], dict[str, Any]]:
        if self._next() != "{":
            self._short()
            raise Problem("bad_json", 'the body is no JSON object; expected {"instances": [...], "parameters": {...}}')
        found: dict[str, Any] = {}
        for key in self._members():
            if key not in ("instances", "parameters"):
                raise Problem("bad_json", f"the body has an unknown key {key[:80]!a}; expected instances and parameters")
            if key in found:
                raise Problem("bad_json", f"the body has the key {key} twice")
            found[key] = self._instances() if key == "instances" else self._parameters()
        self._next()
        if self._place < len(self._text):
            raise JSONDecodeError("Extra data", self._text, self._place)
        if "instances" not in found:
            raise Problem("bad_instances", 'instances are missing; expected [{"b64": "..."}] or a list of tensors')
        return found["instances"], found.get("parameters", {})

    def _instances(self) -> list[Any]:
        if self._next() != "[":
            self._short()
            raise Problem("bad_instances", 'instances are no list; expected [{"b64": "..."}] or a list of tensors')
        instances: list[Any] = []
        for _ in self._items():
            if len(instances) == self._most:
                raise Problem("bad_instances", f"there are more than {self._most} instances; expected 1 to {self._most}")
            i = len(instances)
            instances.append(self._file(i) if self._next() == "{" else self._nested(self._shape, i))
        return instances

    def _parameters(self) -> dict[str, Any]:
        try:
            value = self._value(_PARAMETERS)
        except _Long:
            if len(self._text) - self._place <= _PARAMETERS:
                raise
            raise Problem("bad_parameter", f"parameters are longer than {_PARAMETERS} letters, or no JSON") from None
        if not isinstance(value, dict):
            raise Problem("bad_parameter", "parameters are no JSON object")
        return value

    def _file(self, i: int) -> Any:
        wrong = f'instance {i}: expected {{"b64": "..."}} with a JPEG or PNG in base64, or a tensor as nested lists'
        found = None
        for key in self._members():
            if key != "b64" or found is not None or self._next() != '"':
                raise Problem("bad_instances", wrong)
            found = self._from_base64(self._string(), i)
        if found is None:
            raise Problem("bad_instances", wrong)
        return found

    def _nested(self, shape: tuple[int, ...], i: int) -> Any:
        """Return a tensor as nested lists: a whole one, a row or a number, whatever is short enough for Python's reader."""
        length = min(max(_NUMBER * math.prod(shape), _SHORT), _PIECE)
        if len(shape) <= 2 or self._next() != "[":
            try:
                return self._value(length)
            except _Long:
                if not shape or self._next() != "[" or len(self._text) - self._place <= length:
                    raise
        values: list[Any] = []
        for _ in self._items():
            if len(values) == shape[0]:
                expected = " x ".join(map(str, self._shape))
                raise Problem("bad_instances", f"instance {i}: a list has more than {shape[0]} entries; the model takes {expected}")
            values.append(self._nested(shape[1:], i))
        return values

    def _members(self) -> Iterator[str]:
        """Yield an object's keys; the caller reads each value."""
        self._place += 1
        if self._take("}"):
            return
        while True:
            self._next()
            key = self._string()
            if not self._take(":"):
                raise JSONDecodeError("Expecting ':' delimiter", self._text, self._place)
            yield key
            if self._take("}"):
                return
            self._comma()

    def _items(self) -> Iterator[None]:
        """Yield for each entry of a list; the caller reads it."""
        self._place += 1
        if self._take("]"):
            return
        while True:
            yield
            if self._take("]"):
                return
            self._comma()

    def _comma(self) -> None:
        if not self._take(","):
            raise JSONDecodeError("Expecting ',' delimiter", self._text, self._place)

    def _string(self) -> str:
        if self._text[self._place : self._place + 1] != '"':
            raise JSONDecodeError("Expecting a text in double quotes", self._text, self._place)
        value, self._place = scanstring(self._text, self._place + 1, True)
        return value

    def _short(self) -> Any:
        return self._value(_SHORT)

    def _value(self, length: int) -> Any:
        """Return the next value, if it ends within so many characters."""
        self._next()
        piece = self._text[self._place : self._place + length]
        cut = self._place + length < len(self._text)
        try:
            value, end = _scan(piece, 0)
        except (StopIteration, JSONDecodeError) as error:
            if cut:
                raise _Long from None
            place = error.value if isinstance(error, StopIteration) else error.pos
            message = "Expecting value" if isinstance(error, StopIteration) else error.msg
            raise JSONDecodeError(message, self._text, self._place + place) from None
        if cut and end == length:  # a number may go on
            raise _Long
        self._place += end
        return value

    def _next(self) -> str:
        """Go to the next character that is no space, and return it."""
        self._place = _SPACE.match(self._text, self._place).end()  # type: ignore[union-attr]
        return self._text[self._place : self._place + 1]

    def _take(self, character: str) -> bool:
        if self._next() != character:
            return False
        self._place += 1
        return True
