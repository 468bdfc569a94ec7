"""A NaN that no test can take for a number that is close enough."""

from __future__ import annotations

from typing import Any, Never


class NotANumber(float):
    """A float's NaN, but asking which side of it a number lies on raises ValueError, as it does for a Decimal's NaN.

    `not abs(answer - wanted) > 1e-6` holds for a plain NaN. What is computed with it by operators stays one of these.
    """

    def __new__(cls, *_: float) -> NotANumber:  # copying hands over what it is
        return super().__new__(cls, "nan")

    def _stays(self, *_: Any) -> NotANumber:
        return self

    def _refuses(self, _: Any) -> Never:
        raise ValueError("an answer is nan where the test compares sizes")

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _stays
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __neg__ = __pos__ = __abs__ = _stays
    __lt__ = __le__ = __gt__ = __ge__ = _refuses
