"""Runs inputs in processes of their own, with limits of time and memory; can be stopped and go on.

python -m scripts.fuzz --count 3000 --out fuzz.jsonl [--seed 0] [--jobs 1] [--only KIND:INDEX]
"""

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

from scripts.fuzz.inputs import make_base
from scripts.fuzz.trial import plan, serving, try_input
from scripts.fuzz.workers import outcomes


def main() -> int:
    """Run what is not in the log yet; the exit code is 1 when an input has a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("fuzz.jsonl"))
    parser.add_argument("--only", metavar="KIND:INDEX", help="print what this one gives")
    arguments = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "COLUMNS": "100"}
    with tempfile.TemporaryDirectory(prefix="drift-fuzz-base-") as folder:
        base = Path(folder)
        make_base(base)
        if arguments.only:
            kind, _, index = arguments.only.partition(":")
            with serving() as address:
                outcome = try_input(kind, int(index), arguments.seed, base, address)
            print(json.dumps(outcome.record(), indent=1))
            return bool(outcome.fault)
        done = _known(arguments.out)
        waiting = [each for each in plan(arguments.count) if each not in done]
        with arguments.out.open("a") as log:
            for outcome in outcomes(waiting, arguments.seed, base, arguments.jobs):
                log.write(json.dumps(outcome.record()) + "\n")
                log.flush()
                if outcome.fault:
                    print(
                        f"{outcome.kind}:{outcome.index}: {outcome.fault}: {outcome.line}",
                        flush=True,
                    )
    return _summary(arguments.out)


def _known(file: Path) -> set[tuple[str, int]]:
    if not file.exists():
        return set()
    records = [json.loads(line) for line in file.read_text().splitlines()]
    return {(record["kind"], record["index"]) for record in records}


def _summary(file: Path) -> int:
    records = [json.loads(line) for line in file.read_text().splitlines()]
    faults = [record for record in records if record["fault"]]
    for kind, number in sorted(Counter(record["kind"] for record in records).items()):
        wrong = sum(record["kind"] == kind for record in faults)
        print(f"{kind:12}{number:6} inputs{wrong:6} faults")
    print(f"slowest {max(record['seconds'] for record in records):.1f} s")
    print(f"largest {max(record['megabytes'] for record in records):.0f} MB")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
