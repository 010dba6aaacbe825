"""A process of its own that trains: it speaks to nobody, and no locale stops it."""

import json
import os
import subprocess
import sys

from hybridlib.store.paths import PROJECT

CHILD = """
import json, os, socket, sys, time
from pathlib import Path

asked = []

def refuse(*where, **_):
    asked.append(str(where[-1]))
    raise OSError("no network")

socket.getaddrinfo = refuse
socket.socket.connect = lambda self, where: refuse(where)
sys.path.insert(0, "tests")

from tiny import tiny, training
from training_runs import run_rl
from hybridlib.evaluation import respond
from hybridlib.training import data, loading

decoded = data.decoded

def odd(*args):
    texts, finished = decoded(*args)
    return [f"{text} \\u00f1\\u2028" for text in texts], finished

data.decoded = odd
base, folder, config = Path(sys.argv[1]), Path(sys.argv[2]), tiny(steps=2)
run = run_rl(config, base, folder)
tokenizer, model = loading.load_tokenizer(base), loading.load_base(base)
curves = respond.curves(training(config), run, tokenizer, model)
time.sleep(1)  # what is sent is sent by a thread
print(json.dumps([len(curves), asked]))
"""


def test_it_trains_under_any_locale_and_tells_nobody(base, tmp_path):
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment = os.environ | plain | {"PYTHONPATH": str(PROJECT)}
    for name in ("CI", "DO_NOT_TRACK", "DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
        environment.pop(name, None)
    command = [sys.executable, "-W", "ignore", "-c", CHILD, base, tmp_path]
    done = subprocess.run(
        command, env=environment, cwd=PROJECT, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [2, []]


def test_who_asks_for_telemetry_gets_it():
    name = "HF_HUB_DISABLE_TELEMETRY"
    command = [sys.executable, "-c", f"import hybridlib, os; print(os.environ['{name}'])"]
    unset = {n: value for n, value in os.environ.items() if n != name}
    for given, told in (({}, "1"), ({name: "0"}, "0")):
        done = subprocess.run(command, env=unset | given, cwd=PROJECT, capture_output=True)
        assert done.stdout.decode().strip() == told
