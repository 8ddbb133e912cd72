"""What MLflow and Trackio need for the work of `fathom bench history`: one JSON line per figure.

MLflow is asked over REST, its server on its default SQLite; batches have 1,000 metrics, its limit. Trackio has no server in local use:
its storage is called as its client calls it, rows of a step in batches. A matrix is one scalar per element in both, as neither has matrices.
"""

import argparse
import json
import multiprocessing
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

SCALARS, MATRICES, ROWS, COLUMNS, WRITERS = 300, 4, 58, 256, 8
# Steps of the series that is read; Fathom's is longer, these would not end.
READ_POINTS = 100_000


def show(program, bench, **figures):
    print(json.dumps({"bench": bench, "program": f"{program} {version(program)}", **figures}), flush=True)


def quantile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))]


def scalars(step, many):
    return {f"series.{index:03}": 8.0 / (1 + step / 500) ** 0.5 + 0.05 * random.random() for index in range(many)}


def matrices():
    return {f"matrix.{index}.{cell}": float(random.randrange(4096)) for index in range(MATRICES) for cell in range(ROWS * COLUMNS)}


class Mlflow:
    name, steps_per_request = "mlflow", 3

    def __init__(self, address):
        import requests

        self.session, self.address = requests.Session(), address

    def call(self, method, path, **arguments):
        answer = self.session.request(method, f"{self.address}{path}", timeout=600, **arguments)
        answer.raise_for_status()
        return answer.json()

    def run(self, name):
        answer = self.call("POST", "/api/2.0/mlflow/runs/create", json={"experiment_id": "0", "run_name": name})
        return answer["run"]["info"]["run_id"]

    def write(self, run, rows):
        now = int(time.time() * 1000)
        metrics = [{"key": key, "value": value, "timestamp": now, "step": step} for step, row in rows for key, value in row.items()]
        for start in range(0, len(metrics), 1000):
            body = {"run_id": run, "metrics": metrics[start : start + 1000]}
            self.call("POST", "/api/2.0/mlflow/runs/log-batch", json=body)

    def read(self, run, key, points):
        query = {"run_ids": run, "metric_key": key, "max_results": points}
        return len(self.call("GET", "/ajax-api/2.0/mlflow/metrics/get-history-bulk-interval", params=query)["metrics"])


class Trackio:
    name, steps_per_request = "trackio", 100

    def __init__(self, _address):
        from trackio.sqlite_storage import SQLiteStorage

        self.storage = SQLiteStorage

    def run(self, name):
        return name

    def write(self, run, rows):
        steps, metrics = zip(*rows)
        self.storage.bulk_log("bench", run, list(metrics), list(steps))

    def read(self, run, _key, points):
        return len(self.storage.get_logs("bench", run, max_points=points))


def writer(kind, address, index, seconds, results):
    tracker = kind(address)
    run, step, times = tracker.run(f"writer-{index}"), 0, []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        rows = [(step + at, scalars(step + at, SCALARS)) for at in range(tracker.steps_per_request)]
        step += len(rows)
        began = time.monotonic()
        tracker.write(run, rows)
        times.append(time.monotonic() - began)
    results.put((step * SCALARS, times))


def measure(kind, address, seconds, size):
    results, before = multiprocessing.Queue(), size()
    started = time.monotonic()
    writers = [multiprocessing.Process(target=writer, args=(kind, address, index, seconds, results)) for index in range(WRITERS)]
    for process in writers:
        process.start()
    answers = [results.get() for _ in writers]
    elapsed = time.monotonic() - started
    for process in writers:
        process.join()
    points, times = sum(points for points, _ in answers), [one for _, times in answers for one in times]
    show(kind.name, "ingest", writers=WRITERS, points=points, points_per_second=round(points / elapsed),
         ack_p50_ms=1e3 * quantile(times, 0.5), ack_p99_ms=1e3 * quantile(times, 0.99), bytes_per_point=(size() - before) / points)

    tracker, times = kind(address), []
    run = tracker.run("step")
    for step in range(1, 4):
        row = scalars(step, SCALARS) | matrices()
        began = time.monotonic()
        tracker.write(run, [(step, row)])
        times.append(time.monotonic() - began)
    show(kind.name, "step", scalars=SCALARS, matrices=MATRICES, rows=ROWS, columns=COLUMNS, ack_p50_ms=1e3 * statistics.median(times))

    run = tracker.run("long")
    for start in range(0, READ_POINTS, 1000):
        tracker.write(run, [(step, scalars(step, 1)) for step in range(start, start + 1000)])
    times, found = [], 0
    for turn in range(5):
        began = time.monotonic()
        # Another number of points each time: what was read before is kept by Trackio.
        found = tracker.read(run, "series.000", 1000 - turn)
        times.append(time.monotonic() - began)
    show(kind.name, "read", points=READ_POINTS, answer_points=found, p50_ms=1e3 * statistics.median(times))


def folder_size(folder):
    return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())


def mlflow(seconds):
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        program = Path(sys.executable).with_name("mlflow")
        arguments = ["server", "--host", "127.0.0.1", "--port", str(port), "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
        with open(f"{folder}/log", "w") as log:
            environment = os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}"}
            server = subprocess.Popen([program, *arguments], cwd=folder, stdout=log, stderr=log, env=environment, start_new_session=True)
        try:
            address, end = f"http://127.0.0.1:{port}", time.monotonic() + 120
            while True:
                try:
                    Mlflow(address).call("GET", "/api/2.0/mlflow/experiments/get?experiment_id=0")
                    break
                except Exception:
                    if time.monotonic() > end:
                        raise SystemExit(f"mlflow does not answer: {Path(folder, 'log').read_text()[-2000:]}")
                    time.sleep(0.5)
            measure(Mlflow, address, seconds, lambda: folder_size(folder))
        finally:
            os.killpg(server.pid, 15)
            server.wait()


def trackio(seconds):
    # TRACKIO_DIR is read at import, which happens in functions only.
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRACKIO_DIR"] = folder
        measure(Trackio, None, seconds, lambda: folder_size(folder))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=10)
    seconds = parser.parse_args().seconds
    mlflow(seconds)
    trackio(seconds)
