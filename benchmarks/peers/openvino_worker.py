"""OpenVINO's part of the comparison: serves calls of a graph.

    python openvino_worker.py GRAPH ARITHMETIC THREADS

Prints "ready" and answers each line of stdin: a number of tokens with the seconds of one call, a
file of feeds with "done" after it has written the outputs next to it. The session has the options
that `profile --runtime openvino` has.
"""

from __future__ import annotations

import sys
import time

import numpy as np
from feeds import outputs_path, random_ids, read_feeds

from edgedistil.runtime.runner import OpenVinoSession


def main(graph: str, arithmetic: str, threads: str) -> None:
    session = OpenVinoSession(graph, arithmetic, int(threads))
    # As for the others: with one thread, other work does not stretch processor time.
    clock = time.process_time if int(threads) == 1 else time.perf_counter
    print("ready", flush=True)
    rng = np.random.default_rng(1)
    for line in map(str.strip, sys.stdin):
        if line.isdigit():
            ids = random_ids(rng, int(line))
            feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
            start = clock()
            session.run(None, feeds)
            print(clock() - start, flush=True)
        else:
            # Copies: the session reuses its output buffers.
            outputs = [session.run(None, batch)[0].copy() for batch in read_feeds(line)]
            np.savez(outputs_path(line), *outputs)
            print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
