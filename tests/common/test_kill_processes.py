"""The random trials of several processes: keyed, in turn on every setup, and counted in a table."""

import importlib
from collections import Counter

from scripts import kill_processes
from scripts.kill_processes import FAULTS, PLACES, SETUPS, trial


def test_every_fault_meets_every_setup_and_trials_repeat():
    trials = [trial(number, seed=0) for number in range(len(FAULTS) * len(SETUPS))]
    met = Counter((each.fault, each.backend, each.size) for each in trials)
    assert set(met.values()) == {1}
    assert len(met) == 40
    assert trials == [trial(number, seed=0) for number in range(40)]
    assert trials != [trial(number, seed=1) for number in range(40)]
    assert all(each.victim < each.size for each in trials)


def test_the_functions_where_faults_happen_are_there():
    for module, name, calls in PLACES.values():
        owner = importlib.import_module(module.replace("BACKEND", "drift_torch"))
        for part in name.split("."):
            owner = getattr(owner, part)
        assert callable(owner)
        assert calls > 0


def test_the_table_counts_what_was_lost():
    records = [
        {"fault": "hangs", "seconds": 12.3, "over_first": True, "lost": ""},
        {"fault": "hangs", "seconds": 40.2, "lost": "a file is gone"},
        {"fault": "never starts", "seconds": 9.0, "lost": ""},
    ]
    assert kill_processes.table(records).splitlines()[2:] == [
        "| hangs | 2 | 1 | 40 s | 1 |",
        "| never starts | 1 | 0 | 9 s | 0 |",
    ]
