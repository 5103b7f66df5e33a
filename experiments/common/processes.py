"""Several processes and devices: which share of the work is whose, and where arrays lie."""

from typing import NamedTuple

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

WEEK = 7 * 24 * 3600


class Share(NamedTuple):
    """Which of several processes this is.

    Attributes:
        process: its number, from 0.
        processes: how many there are.
    """

    process: int
    processes: int


def join(
    distributed: bool, coordinator: str | None, process: int | None, processes: int | None
) -> Share:
    """The share of this process; before anything else is asked of JAX.

    Args:
        distributed: whether `jax.distributed` is to find the other processes; what is None in the
            other arguments it finds by itself under SLURM and Open MPI, in Kubernetes and on TPUs.
        coordinator: address of process 0, host:port.
        process: the number of this one.
        processes: how many there are.

    Raises:
        ValueError: if there is no such process.
    """
    if distributed:
        # One that is done waits for the others, however long they take.
        jax.distributed.initialize(coordinator, processes, process, shutdown_timeout_seconds=WEEK)
        return Share(jax.process_index(), jax.process_count())
    if (process is None) != (processes is None) or coordinator is not None:
        raise ValueError(
            f"expected --process and --processes together, or --distributed, got process {process} "
            f"of {processes}, coordinator {coordinator}"
        )
    share = Share(process or 0, 1 if processes is None else processes)
    if not 0 <= share.process < share.processes:
        raise ValueError(f"expected a process from 0 to {share.processes - 1}, counted from 0, got "
                         f"{share.process} of {share.processes}")  # fmt: skip
    return share


def over_devices(divides: int | None = None) -> NamedSharding:
    """The first axis of an array spread over the devices of this process.

    Args:
        divides: over the largest number of them that divides this; by default over all.
    """
    devices = jax.local_devices()
    count = len(devices)
    if divides is not None:
        count = next(each for each in range(count, 0, -1) if divides % each == 0)
    mesh = jax.make_mesh((count,), ("samples",), axis_types=(AxisType.Auto,),
                         devices=devices[:count])  # fmt: skip
    return NamedSharding(mesh, PartitionSpec("samples"))


def on_each(sharding: NamedSharding) -> NamedSharding:
    """The whole of an array on each of the devices."""
    return NamedSharding(sharding.mesh, PartitionSpec())
