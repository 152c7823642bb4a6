"""A process writes its log as the process that started it says, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from actors.runtime.process_logs import ProcessLogs
from cluster.logs.settings import LogFormat

ROOT = Path(__file__).parents[4]

# Pickled as Ray pickles classes and functions, and run by a process that has begun no log.
PROGRAM = """
import io
import sys
import ray.cloudpickle as pickle
from actors.runtime import process_logs
from cluster.logs.events import EventLog
from cluster.logs.settings import LogFormat

class Actor:
    def __init__(self, corpus):
        EventLog("actors.test").info("test.begun", "{corpus} begins", corpus=corpus)

def task(corpus):
    EventLog("cluster.test").warning("test.ran", "{corpus} ran", corpus=corpus)
    return corpus

process_logs.ProcessLogs("eu", LogFormat(sys.argv[1])).hand_on()
wrapped = pickle.dumps((process_logs.logging_class(Actor), process_logs.logging_function(task)))
process_logs.ProcessLogs().hand_on()
sys.stderr = io.StringIO()  # as in a replica of Serve
made, run = pickle.loads(wrapped)
assert made.__name__ == "Actor"
assert isinstance(made("tea"), Actor)
assert run("tea") == "tea"
assert process_logs.handed_on() == process_logs.ProcessLogs("eu", LogFormat(sys.argv[1]))

# What a module has by the same name must not come in its place.
from cluster.clock import SystemClock, system_rng
for wrapped in process_logs.logging_class(SystemClock), process_logs.logging_function(system_rng):
    process_logs.ProcessLogs("us").hand_on()
    pickle.loads(pickle.dumps(wrapped))()
    assert process_logs.handed_on().region == "eu", wrapped

import logging
logging.getLogger("somebody.else").info("not told")
logging.getLogger("somebody.else").warning("told")
"""


def run(format: LogFormat) -> list[str]:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, format],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return ended.stderr.splitlines()


def test_json() -> None:
    entries = [json.loads(line) for line in run(LogFormat.JSON)]
    assert [(e.get("event"), e["message"], e["level"]) for e in entries] == [
        ("test.begun", "tea begins", "INFO"),
        ("test.ran", "tea ran", "WARNING"),
        (None, "told", "WARNING"),
    ]
    assert {entry["region"] for entry in entries} == {"eu"}


def test_text() -> None:
    begun, ran, told = run(LogFormat.TEXT)
    assert begun.endswith("INFO tea begins [test.begun region=eu]")
    assert ran.endswith("WARNING tea ran [test.ran region=eu]")
    assert told.endswith("WARNING somebody.else: told")


def test_the_default_is_text() -> None:
    assert ProcessLogs().format is LogFormat.TEXT
