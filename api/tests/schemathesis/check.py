"""What the server answers is what its document says.

Starts a server on real history ($FATHOM_BIN), validates every answer it has strictly (a field that the document lacks is a fault too), reads the
live streams, and lets schemathesis send what the document allows and what it forbids: no 5xx, no status, type, header or field that the document
does not have.
"""

import copy
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.request

import jsonschema_rs

# The repository stays as it is.
sys.dont_write_bytecode = True
from world import PATIENCE_SECONDS, World, quote  # noqa: E402

# The same random choices in every run.
SEED = 4
CASES_PER_OPERATION = 30
# Below the rate limit, so that answers are not all 429.
REQUESTS_PER_SECOND = 190


class Document:
    """The OpenAPI document with its answers closed: a field that it does not have is a fault."""

    def __init__(self, document: dict) -> None:
        self.document = document
        self.operations = {
            operation["operationId"]: (method, path, operation)
            for path, item in document["paths"].items()
            for method, operation in item.items()
        }
        self.open = document["components"]["schemas"]
        self.closed = {name: self.close(schema) for name, schema in self.open.items()}
        self.validators: dict[str, jsonschema_rs.Draft202012Validator] = {}
        self.validated: dict[str, int] = {}
        self.faults: list[str] = []

    def close(self, schema):
        """A copy in which objects have no other properties than those that are named."""
        if isinstance(schema, list):
            return [self.close(part) for part in schema]
        if not isinstance(schema, dict):
            return schema
        if "allOf" in schema:
            parts = [self.resolve(part) for part in schema["allOf"]]
            merged = {"type": "object", "properties": {}, "required": []}
            for part in parts:
                merged["properties"] |= part.get("properties", {})
                merged["required"] += part.get("required", [])
            return self.close(merged)
        closed = {name: self.close(part) if name != "properties" else {one: self.close(own) for one, own in part.items()} for name, part in schema.items()}
        if "properties" in schema and "additionalProperties" not in schema:
            closed["additionalProperties"] = False
        return closed

    def resolve(self, schema: dict) -> dict:
        return copy.deepcopy(self.open[schema["$ref"].rsplit("/", 1)[1]]) if "$ref" in schema else schema

    def validator(self, schema: dict) -> jsonschema_rs.Draft202012Validator:
        key = json.dumps(schema)
        if key not in self.validators:
            root = self.close(schema) | {"components": {"schemas": self.closed}}
            self.validators[key] = jsonschema_rs.Draft202012Validator(root)
        return self.validators[key]

    def validate(self, operation: str, where: str, schema: dict, value: object) -> None:
        self.validated[operation] = self.validated.get(operation, 0) + 1
        for error in self.validator(schema).iter_errors(value):
            place = "/".join(str(part) for part in error.instance_path)
            self.faults.append(f"{operation} ({where}): at /{place}: {error.message[:400]}")

    def schema(self, operation: str, status: int, kind: str) -> dict | None:
        """What the document says of an answer; a fault if it says nothing."""
        response = self.operations[operation][2]["responses"].get(str(status))
        if response is None:
            self.faults.append(f"{operation}: the status {status} is not in the document")
            return None
        if "$ref" in response:
            response = self.document["components"]["responses"][response["$ref"].rsplit("/", 1)[1]]
        content = response.get("content", {})
        if not content and not kind:
            return None
        if kind not in content:
            self.faults.append(f"{operation}: an answer {status} has the type {kind}; the document has {', '.join(content) or 'none'}")
            return None
        return content[kind]["schema"]


def ask(world: World, document: Document, operation: str, path: dict | None = None, query: str = "", body: object = None, expected: int = 200) -> object:
    """Sends a request of an operation and validates the answer."""
    method, template, _ = document.operations[operation]
    address = template
    for name, value in (path or {}).items():
        address = address.replace("{" + name + "}", quote(str(value)))
    status, headers, answer = world.request(method.upper(), address + query, body)
    where = f"{method.upper()} {address}{query}"
    kind = headers.get("Content-Type", "").split(";")[0]
    if status != expected:
        document.faults.append(f"{operation}: {where} answers {status}, not {expected}: {answer}")
    schema = document.schema(operation, status, kind)
    if schema is not None:
        document.validate(operation, where, schema, answer)
    return answer


def read_everything(world: World, document: Document, jobs: list[str]) -> str:
    """Every GET on real history. Returns the id of a run."""
    runs = []
    for job in jobs:
        one = {"job": job}
        for operation in ["getJob", "getJobHealth", "getJobLineage", "getJobManifest", "listJobCheckpoints", "listJobGenerations", "listJobPhases"]:
            ask(world, document, operation, one)
        for query in ["", "?limit=2", "?after=0", "?severity=info"]:
            ask(world, document, "listJobEvents", one, query)
        for query in ["", "?limit=2", "?after=0", "?level=info", "?contains=a"]:
            ask(world, document, "listJobLogs", one, query)
        found = ask(world, document, "listJobRuns", one)["items"]
        runs += [run["id"] for run in found if run["kind"] == "pretrain"]
        for run in found:
            read_run(world, document, run["id"])
    for query in ["", "?limit=1", "?sort=name", "?filter=label.team%3Dcheck", "?state=succeeded"]:
        ask(world, document, "listJobs", query=query)
    for operation in ["listProjects", "listTokens", "getVersion", "getWhoami", "healthz", "readyz", "serverMetrics"]:
        ask(world, document, operation)
    ask(world, document, "compareRuns", query=f"?run={quote(runs[0])}&run={quote(runs[1])}")
    ask(world, document, "querySeries", body={"runs": runs[:2], "metrics": ["loss.main", "none"], "x": "tokens", "points": 7})
    return runs[0]


def read_run(world: World, document: Document, run: str) -> None:
    one = {"run": run}
    for operation in ["getRun", "listRunAttempts", "getRunData", "listRunLogs"]:
        ask(world, document, operation, one)
    for metric in ask(world, document, "listRunMetrics", one)["items"]:
        if metric["kind"] == "matrix":
            matrix = one | {"name": metric["name"]}
            for operation in ["getMatrix", "listMatrixSteps", "getMatrixRows"]:
                ask(world, document, operation, matrix)
        else:
            for axis in ["step", "tokens", "flops", "time"]:
                ask(world, document, "getSeries", one, f"?metric={quote(metric['name'])}&x={axis}&points=9")


def refuse(world: World, document: Document) -> None:
    """Problems are as the document has them."""
    ask(world, document, "getJob", {"job": "none"}, expected=404)
    ask(world, document, "listJobs", query="?cursor=none", expected=400)
    ask(world, document, "createJob", body={"kind": "DeepSeekV3Job"}, expected=422)
    ask(world, document, "validateJob", body={"kind": "DeepSeekV3Job"})
    ask(world, document, "deleteJob", {"job": "trained"}, expected=428)
    ask(world, document, "cancelJob", {"job": "trained"}, expected=409)


def follow(world: World, document: Document, operation: str, path: str, wanted: set[str]) -> None:
    """Reads a live stream until it has shown the wanted kinds of messages, and validates each."""
    schema = document.schema(operation, 200, "text/event-stream")
    missing = set(wanted)
    end = time.monotonic() + PATIENCE_SECONDS
    # A reader that was here before the server started gets what it missed.
    headers = world.headers() | {"Last-Event-ID": "0.00000000.0"}
    with urllib.request.urlopen(urllib.request.Request(world.base + path, headers=headers), timeout=PATIENCE_SECONDS) as stream:
        message: dict[str, str] = {}
        while missing and time.monotonic() < end:
            line = stream.readline().decode().rstrip("\n")
            name, colon, value = line.partition(": ")
            if colon and name:
                message[name] = value
            elif not line and "data" in message:
                event = message.get("event", "message")
                document.validate(operation, f"message {event}", schema, message)
                data = next(one for one in document.open["LiveMessage"]["oneOf"] if one["properties"]["event"]["enum"] == [event])
                document.validate(operation, f"data of {event}", data["properties"]["data"]["contentSchema"], json.loads(message["data"]))
                missing.discard(event)
                message = {}
    if missing:
        document.faults.append(f"{operation}: no message {', '.join(sorted(missing))} within {PATIENCE_SECONDS} s")


def fuzz(world: World, names: dict[str, dict[str, list]]) -> int:
    """Runs schemathesis; its report goes to our output."""
    here = pathlib.Path(__file__).parent
    program = pathlib.Path(sys.executable).with_name("schemathesis")
    command = [
        program, "--config-file", here / "schemathesis.toml", "run", f"{world.base}/openapi.json",
        "--header", f"Authorization: Bearer {world.secret}",
        "--seed", str(SEED), "--max-examples", str(CASES_PER_OPERATION), "--rate-limit", f"{REQUESTS_PER_SECOND}/s",
        "--continue-on-failure", "--warnings", "off", "--no-color",
    ]  # fmt: skip
    environment = world.environment | {"FATHOM_NAMES": json.dumps(names), "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(here), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=world.folder, env=environment).returncode


def main() -> int:
    started = time.monotonic()

    def took() -> str:
        return f"{time.monotonic() - started:.0f} s"

    with tempfile.TemporaryDirectory() as folder:
        world = World(pathlib.Path(folder))
        try:
            world.train("trained", 12_800, 1e-3)
            world.train("other", 6_400, 2e-3)
            world.serve()
            document = Document(world.request("GET", "/openapi.json")[2])
            for job in ["trained", "other"]:
                world.wait(f"/jobs/{job}", "history", lambda job: job["state"] == "succeeded" and job["phases"][-1]["step"])
            world.post("/jobs", world.manifest("spare", 10_000_000, 1e-3), "application/yaml")
            spare = world.wait("/jobs/spare/runs", "training", lambda runs: [run for run in runs["items"] if run["lastStep"]])["items"][-1]["id"]
            follow(world, document, "streamEvents", "/api/v1/events", {"metrics", "event", "gap"})
            follow(world, document, "streamRunEvents", f"/api/v1/runs/{quote(spare)}/events", {"metrics"})
            world.post("/jobs/spare:pause", None)
            world.wait("/jobs/spare", "a pause", lambda job: job["state"] == "paused")
            run = read_everything(world, document, ["trained", "other", "spare"])
            refuse(world, document)
            unread = [name for name, (method, _, _) in document.operations.items() if method == "get" and name not in document.validated]
            document.faults += [f"{name}: no answer of it was validated" for name in unread]
            for fault in document.faults[:50]:
                print(f"fault: {fault}")
            print(f"{sum(document.validated.values())} answers and messages validated, {len(document.faults)} faults, after {took()}", flush=True)
            failed = fuzz(world, names(run, spare))
            print(f"schemathesis ended with {failed} after {took()}")
        finally:
            world.close()
    return 1 if document.faults or failed else 0


def names(run: str, spare: str) -> dict[str, dict[str, list]]:
    """What exists, for the hooks. Reads are about the trained job; what changes something is about the spare one."""
    reads = {"job": ["trained", "spare"], "run": [run], "name": ["moe.load"], "metric": [["loss.main"]]}
    writes = {"job": ["spare"], "run": [spare]}
    writing = ["deleteJob", "reportJobStatus", "cancelJob", "pauseJob", "resumeJob", "reportRunCheckpoints", "ingestLogs", "ingestMetrics"]
    return {"*": reads, "compareRuns": {"run": [[run, spare]]}} | dict.fromkeys(writing, writes)


if __name__ == "__main__":
    sys.exit(main())
