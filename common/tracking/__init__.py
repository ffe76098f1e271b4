"""Sends the course of a run to programs that show it; see docs/day-to-day.md.

Each program is one module, which imports the program's library when a run names it. None of them
can stop a run.
"""

from common.tracking.trackers import Trackers, check

__all__ = ["Trackers", "check"]
