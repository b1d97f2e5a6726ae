"""Times calls of an artefact in a fresh process without any other session; prints them as JSON.

    python steady_calls.py GRAPH THREADS CALLS LENGTHS [CONFIG ENTRIES as JSON]

LENGTHS are numbers of tokens with commas between. The answer has the wall-clock seconds of each
call, by length, and the processor time of one call on average, of all threads.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import onnxruntime as ort
from feeds import random_ids

# Calls of each length before those that count.
WARM_UP = 20


def main(graph: str, threads: str, calls: str, lengths: str, entries: str = "{}") -> None:
    options = ort.SessionOptions()
    options.intra_op_num_threads = int(threads)
    options.log_severity_level = 3
    for key, value in json.loads(entries).items():
        options.add_session_config_entry(key, value)
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    answer = {}
    for length in map(int, lengths.split(",")):
        ids = random_ids(np.random.default_rng(length), length)
        feeds = {node.name: np.ones_like(ids) for node in session.get_inputs()}
        feeds["input_ids"] = ids
        for _ in range(WARM_UP):
            session.run(None, feeds)
        seconds = []
        cpu_start = time.process_time()
        for _ in range(int(calls)):
            start = time.perf_counter()
            session.run(None, feeds)
            seconds.append(time.perf_counter() - start)
        cpu_s = (time.process_time() - cpu_start) / int(calls)
        answer[length] = {"seconds": seconds, "cpu_s": cpu_s}
    print(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
