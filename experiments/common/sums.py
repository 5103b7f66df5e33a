"""JSON that shows whether it is as it was written: its last entry, `sum`, is of all the others.

The sum is of the values, in their order, and not of their layout: a file may be indented anew, but
no digit of it changed. What was written before there were sums is refused until
`python -m experiments.common.seal` has written them.
"""

import hashlib
import json
from typing import Any

SUM = "sum"
PLAN = "plan_sha256"
"""In the .json of a plan: the checksum of the .npz beside it, so that the two belong together."""


def sum_of(values: dict[str, Any]) -> str:
    """16 digits of the SHA-256 of values as JSON."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def dumps(values: dict[str, Any], indent: int | None = None) -> str:
    """Values as JSON, and their sum."""
    again = json.loads(json.dumps(values))  # As they will be read: tuples are lists.
    return json.dumps({**again, SUM: sum_of(again)}, indent=indent)


def loads(text: str | bytes, where: str) -> dict[str, Any]:
    """What `dumps` was given.

    Args:
        text: what it made of it.
        where: it was read, for the error.

    Raises:
        ValueError: if it is damaged, or has no sum.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ValueError(f"expected JSON with a sum in {where}, it is damaged or another kind of "
                         f"file ({error})") from error  # fmt: skip
    if not isinstance(values, dict) or SUM not in values:
        raise ValueError(
            f"expected JSON with a {SUM} in {where}, found none: it is damaged, or older than "
            f"sums; if you know it to be good, python -m experiments.common.seal FILE writes it"
        )
    if values.pop(SUM) != sum_of(values):
        raise ValueError(f"expected {where} as it was written, its {SUM} differs: it is damaged, "
                         "or was changed by hand; take it away, and it is made again")  # fmt: skip
    return values
