"""How values look in text, in regular expressions that Python and JSON Schema (ECMA-262) read alike, whole.

None of them takes longer than its text is long: no two parts of one can match the same characters.
"""

from __future__ import annotations

__all__ = ["BASE64", "DECIMAL", "DURATION", "INTEGER", "NUMBER"]

INTEGER = "-?(?:0|[1-9][0-9]*)"
NUMBER = f"{INTEGER}(?:[.][0-9]+)?(?:[eE][+-]?[0-9]+)?"
DECIMAL = "[+-]?(?:[0-9]+(?:[.][0-9]*)?|[.][0-9]+)(?:[eE][+-]?[0-9]+)?"
BASE64 = "(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"

_COUNT = "[0-9]+(?:[.][0-9]+)?"
DURATION = (
    "[+-]?P(?=.)(?!.*[.][0-9]+[DHMS].)"  # only the last of the units has a fraction
    f"(?:{_COUNT}D)?(?:T(?=.)(?:{_COUNT}H)?(?:{_COUNT}M)?(?:{_COUNT}S)?)?"
)
"""ISO 8601 without weeks, months and years, and with a sign."""
