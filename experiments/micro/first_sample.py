"""From `import` to the first sample, in this process: seconds of each part, as JSON.

Asked by `experiments.micro.floor`, in processes of their own.
"""

import json
import sys
import time
from pathlib import Path


def main(ladder: Path, plan: Path) -> dict[str, float]:
    """Import, load, solve twice; what has passed after each."""
    begun = time.perf_counter()
    seconds: dict[str, float] = {}

    def passed(part: str) -> None:
        seconds[part] = time.perf_counter() - begun - sum(seconds.values())

    # Here, since what importing takes is part of what is measured.
    import jax

    import mlem_jax

    passed("import mlem_jax")
    from experiments.common.kept_plans import read_plan
    from experiments.ladders.shipped import load
    from experiments.micro.floor import setting_of

    passed("import flax, orbax, experiments")
    setting = setting_of(load(ladder), read_plan(plan), images=1, seed=0)
    jax.block_until_ready(setting.problem.x)
    passed("load the levels, draw a start")
    for part in ("first sample", "second sample"):
        jax.block_until_ready(mlem_jax.solve(*setting))
        passed(part)
    return seconds


if __name__ == "__main__":
    print(json.dumps(main(*map(Path, sys.argv[1:]))))
