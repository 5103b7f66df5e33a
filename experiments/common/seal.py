"""Write the sums into plans, errors and logs that are older than sums and known to be good.

No number in them is touched: python -m experiments.common.seal experiments/earth64/plans/*.json
"""

import dataclasses
import json
from pathlib import Path

import tyro

from experiments.common import runs, sums
from mlem_jax.arrays import digest


@dataclasses.dataclass(frozen=True)
class Settings:
    """Write the sums into files that are known to be good."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """Plans, .json beside their .npz; errors of candidates, .json; logs, .jsonl."""


def main(settings: Settings) -> None:
    """One file after the other."""
    for file in settings.files:
        seal(file)
        print(f"wrote the sums of {file}")


def seal(file: Path) -> None:
    """The sums of what is in a file now."""
    text, log = file.read_text(), file.suffix == ".jsonl"
    told = [json.loads(line) for line in text.splitlines()] if log else [json.loads(text)]
    plan = file.with_suffix(".npz")
    for values in told:
        values.pop(sums.SUM, None)
        if not log and plan.exists():
            values[sums.PLAN] = digest(plan)
    lines = [sums.dumps(values, None if log else 1) + "\n" for values in told]
    runs.write_whole(file, "".join(lines))


if __name__ == "__main__":
    main(tyro.cli(Settings))
