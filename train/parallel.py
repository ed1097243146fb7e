"""Everything that knows how many devices there are.

A step is an SPMD function over the axis `AXIS`. `jax.pmap` maps it over the devices: the state goes
in and comes out unmapped (one logical copy, never stacked), a batch is split along its first axis.
"""

import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from train.errors import UserError

AXIS = "batch"


def start() -> None:
    """Joins the other processes of a pod, if there are any. Call before anything else of JAX.

    Cloud TPU, Slurm, Kubernetes and Open MPI are recognised by JAX. Elsewhere set
    JAX_COORDINATOR_ADDRESS (host:port), JAX_NUM_PROCESSES and JAX_PROCESS_ID.

    Raises:
      UserError: a coordinator is named, but not how many processes there are, or JAX is told to
        use devices that are not there.
    """
    _join()
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # JAX asserts that there is a default
        raise UserError(
            f"JAX cannot use the devices that it is told to ({str(error) or 'none found'}): "
            f"JAX_PLATFORMS is {os.environ.get('JAX_PLATFORMS', '')!r}; unset it to take what "
            "there is, or install 'bottlenecks[cuda]' or 'bottlenecks[tpu]'"
        ) from error


def _join() -> None:
    # Read from the environment, because asking JAX for its devices would start the backend.
    if "JAX_COORDINATOR_ADDRESS" in os.environ:
        try:
            count, index = (int(os.environ[f"JAX_{n}"]) for n in ("NUM_PROCESSES", "PROCESS_ID"))
            if not 0 <= index < count:
                raise ValueError
        except (KeyError, ValueError):
            raise UserError(
                "JAX_COORDINATOR_ADDRESS is set: set JAX_NUM_PROCESSES to their number and "
                "JAX_PROCESS_ID to one from 0 up to below it too, or unset it to run alone"
            ) from None
        jax.distributed.initialize(num_processes=count, process_id=index)
        return
    try:
        jax.distributed.initialize()
    except ValueError as error:
        if "should be defined" not in str(error) and "must be defined" not in str(error):
            raise
        # No cluster was recognised: one process.


def device_count() -> int:
    """Devices of all processes together."""
    return jax.device_count()


def is_first_process() -> bool:
    """Whether this process is the one that writes metrics and pictures."""
    return jax.process_index() == 0


def check_batch_size(name: str, batch_size: int, *, parts: int = 1) -> None:
    """Refuses a global batch that cannot be shared out evenly.

    Raises:
      UserError: `batch_size` is not a positive multiple of the devices times `parts`.
    """
    unit = device_count() * parts
    if batch_size < 1 or batch_size % unit:
        found = f"{device_count()} devices" + (f" x {parts} parts" if parts > 1 else "")
        nearest = max(unit, batch_size // unit * unit)
        raise UserError(
            f"{name} is {batch_size}, which cannot be shared out over {found}; "
            f"it must be a multiple of {unit}, such as {nearest}"
        )


def mapped(function: Callable, *, donate: bool = False) -> Callable:
    """`function(state, batch)` mapped over the devices: state whole, batch split, results whole.

    With `donate`, the memory of the first argument is used again for the results, except on CPU:
    XLA copies parameters there before it overwrites them, which cost a VQ-VAE's step 5 to 10 %.
    """
    cpu = jax.default_backend() == "cpu"
    run = jax.pmap(
        function,
        axis_name=AXIS,
        in_axes=(None, 0),
        out_axes=None,
        donate_argnums=(0,) if donate and not cpu else (),
    )
    # Several virtual CPU devices in one process deadlock when steps with collectives are queued.
    wait = cpu and jax.local_device_count() > 1

    def call(state: Any, batch: Any) -> Any:
        results = run(state, batch)
        return jax.block_until_ready(results) if wait else results

    call.lower = run.lower
    return call


def shard(batch: Any, *, axis: int = 0) -> Any:
    """Puts this process's rows onto its devices: `[rows, ...] -> [devices, rows/devices, ...]`.

    `axis` is the axis of the rows; axes before it (several steps in one call) stay inside.
    """
    devices = jax.local_devices()
    sharding = NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec(AXIS))

    def one(x: np.ndarray) -> jax.Array:
        x = np.asarray(x)
        split = x.reshape(*x.shape[:axis], len(devices), -1, *x.shape[axis + 1 :])
        return jax.device_put(np.moveaxis(split, axis, 0), sharding)

    return jax.tree.map(one, batch)


def place(tree: Any) -> Any:
    """A whole copy on each of this process's devices, as a mapped step returns its state."""
    mesh = Mesh(np.array(jax.local_devices()), (AXIS,))
    sharding = NamedSharding(mesh, PartitionSpec())

    def one(x: jax.Array) -> jax.Array:
        whole = x if x.is_fully_addressable else x.addressable_data(0)
        return jax.device_put(whole, sharding)

    return jax.tree.map(one, tree)


def replicated() -> NamedSharding:
    """Sharding of a whole copy on every device of every process."""
    return NamedSharding(Mesh(np.array(jax.devices()), (AXIS,)), PartitionSpec())


def wait_for_all(name: str) -> None:
    """Returns when every process has come here; `name` says where."""
    if has_peers():
        multihost_utils.sync_global_devices(name)


def to_global(tree: Any) -> Any:
    """The form in which every process may hand the same tree to the checkpointer."""
    if jax.process_count() == 1:
        return tree
    return multihost_utils.host_local_array_to_global_array(
        tree, replicated().mesh, jax.tree.map(lambda _: PartitionSpec(), tree)
    )


def has_peers() -> bool:
    """Whether other processes train the same run."""
    return jax.process_count() > 1


def preempted(call: int) -> bool:
    """Whether all processes stop at this call, because one of them was sent SIGTERM.

    True once, at the same number on all processes; `call` goes up by one from call to call.
    """
    return multihost_utils.reached_preemption_sync_point(call)
