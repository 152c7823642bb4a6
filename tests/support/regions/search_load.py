"""Asks a region's endpoint by text and by vector, all the time, until its standard input ends.

python search_load.py URL DIMENSION        prints one JSON document: what came of each request
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time

import httpx

CLIENTS_EACH = 2
TIMEOUT_S = 30.0
_PAUSE_S = 0.05


def ask(
    url: str, kind: str, dimension: int, seed: int, ends: threading.Event
) -> list[list[object]]:
    """For each request its kind, when it began, how long it took, and what was wrong with it."""
    rng, asked = random.Random(seed), []
    with httpx.Client(base_url=url, timeout=TIMEOUT_S) as client:
        while not ends.wait(_PAUSE_S):
            body: dict[str, object] = {"top_k": 3}
            if kind == "text":
                body["query"] = f"note {rng.randrange(1000)}"
            else:
                body["vector"] = [rng.gauss(0, 1) for _ in range(dimension)]
            began_s = time.time()  # noqa: TID251
            try:
                reply = client.post("/v1/search", json=body)
                whole = reply.status_code == 200 and reply.json()["coverage"] == 1.0
                wrong = "" if whole else f"{reply.status_code} {reply.text[:300]}"
            except httpx.TransportError as error:
                wrong = repr(error)
            asked.append([kind, began_s, time.time() - began_s, wrong])  # noqa: TID251
    return asked


def main() -> None:
    url, dimension = sys.argv[1], int(sys.argv[2])
    ends = threading.Event()
    outcomes: list[list[object]] = []

    def run(kind: str, seed: int) -> None:
        outcomes.extend(ask(url, kind, dimension, seed, ends))

    kinds = ["text", "vector"] * CLIENTS_EACH
    threads = [threading.Thread(target=run, args=(k, n)) for n, k in enumerate(kinds)]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    ends.set()
    for thread in threads:
        thread.join()
    json.dump(outcomes, sys.stdout)


if __name__ == "__main__":
    main()
