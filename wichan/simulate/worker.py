"""The program of a worker process (``python -m wichan.simulate.worker FD``); started by `wichan.simulate.workers`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

from wichan.errors import WichanError


def serve(pipe: Connection) -> None:
    """Compute and write the shards that come through ``pipe``; end when it closes.

    SIGTERM ends the process at once, except between the last block of a shard and its report: a shard that has its name
    but was not reported would be made again.
    """
    from wichan.simulate.engine import compute_blocks
    from wichan.simulate.recipe import recipe_from_dict
    from wichan.simulate.sources import KINDS

    setup = pipe.recv()
    recipe = recipe_from_dict(setup["recipe"])
    sampler = KINDS[recipe.kind](recipe)

    def reported(blocks: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for block in blocks:
            yield block
            pipe.send(("block", len(next(iter(block.values())))))
        signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))

    stopped: list[bool] = []
    while not stopped:
        job = pipe.recv()
        shard = job.write(reported(compute_blocks(sampler, setup["seed"], job.plan)))
        pipe.send(("shard", shard))
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def main(descriptor: int) -> int:
    """Serve, and report an error of wichan as one message instead of a traceback."""
    pipe = Connection(descriptor)
    try:
        serve(pipe)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return 0  # the parent is gone or has no more work
    except WichanError as error:
        pipe.send(("error", (type(error).__name__, str(error))))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
