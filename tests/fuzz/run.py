"""Reads damaged files of every kind, until it is stopped or one is neither documents nor a typed
error.

python -m tests.fuzz.run                              # prints the seed that it begins with
python -m tests.fuzz.run --kind .pdf --seed 4711      # the same files again
"""

from __future__ import annotations

import argparse
import traceback
from collections.abc import Sequence
from itertools import count, islice

from cluster.clock import system_rng
from tests.fuzz.damage import SAMPLES
from tests.fuzz.reading import read_damaged

_SEEDS_AT_ONCE = 50
_SEED_MAX = 2**32


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=[*SAMPLES], help="files of this kind alone")
    parser.add_argument("--seed", type=int, help="the first seed; else one is drawn")
    parser.add_argument("--batches", type=int, help="so many for each kind; else without an end")
    asked = parser.parse_args(arguments)
    first = system_rng().randrange(_SEED_MAX) if asked.seed is None else asked.seed
    for start in islice(count(first, _SEEDS_AT_ONCE), asked.batches):
        for kind in [asked.kind] if asked.kind else SAMPLES:
            # Told before, for the process may end with the file.
            print(f"{kind} from --seed {start}", end="", flush=True)
            try:
                found = read_damaged(kind, range(start, start + _SEEDS_AT_ONCE))
            except KeyboardInterrupt:
                return 130
            except Exception:
                traceback.print_exc()
                print(f"again: make fuzz KIND={kind} SEED={start}")
                return 1
            print(f": {sum(len(part.origins) for read in found for part in read.parts)} documents")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
