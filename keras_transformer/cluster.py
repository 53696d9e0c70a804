"""The processes that train together, as the environment names them."""

from __future__ import annotations

import os
from dataclasses import dataclass

# Keras's own names, which `keras.distribution.initialize` reads.
ADDRESSES = "KERAS_DISTRIBUTION_JOB_ADDRESSES"
PROCESSES = "KERAS_DISTRIBUTION_NUM_PROCESSES"
PROCESS = "KERAS_DISTRIBUTION_PROCESS_ID"


@dataclass(frozen=True)
class Cluster:
    """The processes that train together, as the environment names them.

    Attributes:
        address: HOST:PORT of the first process, where the others find it.
        processes: how many there are.
        index: the number of this one, from 0.
    """

    address: str = ""
    processes: int = 1
    index: int = 0

    @classmethod
    def from_environment(cls) -> Cluster:
        """Read the three variables of Keras; without any, this process is the only one.

        Raises:
            ValueError: one of them is missing or makes no sense.
        """
        names = (ADDRESSES, PROCESSES, PROCESS)
        values = {name: os.environ.get(name, "").strip() for name in names}
        if not any(values.values()):
            return cls()
        missing = [name for name, value in values.items() if not value]
        if missing:
            raise ValueError(
                f"{' and '.join(missing)} must be set where the others are. Set all three on each "
                "process: HOST:PORT of process 0, the number of processes, and that of this one, "
                f"from 0. Received: {_shown(values)}"
            )
        addresses = values[ADDRESSES].split(",")
        numbers = values[PROCESSES].isdecimal() and values[PROCESS].isdecimal()
        processes, index = (int(values[n]) if numbers else -1 for n in (PROCESSES, PROCESS))
        if not 0 <= index < processes:
            raise ValueError(
                f"{PROCESS} must be an integer from 0 to below {PROCESSES}. Give each process a "
                f"number of its own. Received: {_shown(values)}"
            )
        parts = [address.strip().rpartition(":") for address in addresses]
        named = all(host and port.isdecimal() for host, _, port in parts)
        if not named or len(addresses) not in (1, processes):
            raise ValueError(
                f"{ADDRESSES} must be HOST:PORT of process 0, or of each process, separated by "
                f"commas. Received: {_shown(values)}"
            )
        return cls(addresses[0].strip(), processes, index)


def _shown(values: dict[str, str]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())
