"""One problem over the devices of several processes, run by `test_devices`: `file, port, process`.

Each draws the same gates, since each has the same key, and writes what its own devices hold.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import mlem_jax as mlem

file, port, process = sys.argv[1:]
if port != "none":
    jax.distributed.initialize(f"localhost:{port}", 2, int(process))


def drift(params, x, t):
    return params * jnp.sin(x + t)


ladder = mlem.Ladder((drift,) * 2, (jnp.float32(0.7), jnp.float32(1.0)), (1.0, 4.0))
steps = mlem.steps.euler_maruyama(mlem.grids.uniform_grid(0.0, 1.0, 6), lambda t: 0.3 + t)
logits = mlem.gates.to_logits(np.tile([1.0, 0.4], (6, 1)))
plan = mlem.draw_plan(mlem.draws.independent, logits, jax.random.key(3))
samples = np.arange(8, dtype=np.int32)
x = mlem.draw_starts(jax.random.key(0), samples, (3,))
problem = mlem.Problem(x, mlem.brownian_path(jax.random.key(1), steps, samples=samples))
mesh = jax.make_mesh((jax.device_count(),), ("samples",), axis_types=(AxisType.Auto,))
problem = mlem.shard_problem(problem, NamedSharding(mesh, PartitionSpec("samples")))
found = {"needed": np.asarray(plan.needed)}
for name, end in {
    "solve": mlem.solve(ladder, problem, steps, plan),
    "chunks": mlem.solve_chunks(ladder, problem, steps, plan, chunk=4),
    "groups": mlem.solve_groups(
        ladder, problem, steps, mlem.plans.draw_plans(mlem.draws.systematic, logits,
                                                      jax.random.key(4), 4)
    ),
}.items():  # fmt: skip
    for shard in end.addressable_shards:
        found[f"{name} {shard.index[0].start or 0}"] = np.asarray(shard.data)
np.savez(file, **found)
