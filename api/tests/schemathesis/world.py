"""A real server for the checks: a trained job, one that was paused while it trained, and one that nobody runs."""

import json
import os
import pathlib
import random
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

MANIFEST = """
apiVersion: fathom.dev/v1alpha1
kind: DeepSeekV3Job
metadata: {{name: {name}, labels: {{team: check}}}}
spec:
  seed: 7
  model: {{preset: unit, architecture: {{vocab_size: 384}}}}
  worker: {{threads: 1}}
  phases:
    - name: tokenizer
      tokenizer: {{vocabSize: 384, input: &text [{{paths: ["{folder}/text/*.txt"]}}]}}
    - name: corpus
      corpus: {{sequenceLength: 32, validationFraction: 0.1, input: *text}}
    - name: pretrain
      pretrain:
        tokens: {tokens}
        batch: {{sequences: 4, microBatch: 2}}
        learningRate: {{peak: {peak}}}
        checkpoint: {{every: 1280, keep: 2}}
        validation: {{every: 10%, rows: 8}}
"""

# Nothing takes this long unless it hangs.
PATIENCE_SECONDS = 120


class World:
    """A directory with its server."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.program = pathlib.Path(os.environ["FATHOM_BIN"]).resolve()
        outside = {"FATHOM_DIR", "FATHOM_SERVER", "FATHOM_TOKEN", "FATHOM_SEED", "DATABASE_URL"}
        self.environment = {name: value for name, value in os.environ.items() if name not in outside} | {"FATHOM_NO_UI": "true"}
        self.server: subprocess.Popen[str] | None = None
        words = "expert token latent router gradient loss balance weight gate head layer scale".split()
        source = random.Random(0)
        (folder / "text").mkdir()
        for document in range(60):
            lines = [" ".join(source.choice(words) for _ in range(8)) + "." for _ in range(12)]
            (folder / "text" / f"{document}.txt").write_text(f"Document {document}\n" + "\n".join(lines) + "\n")

    def manifest(self, name: str, tokens: int, peak: float) -> str:
        return MANIFEST.format(name=name, tokens=tokens, peak=peak, folder=self.folder)

    def train(self, name: str, tokens: int, peak: float) -> None:
        """Trains a job to its end, without the server."""
        file = self.folder / f"{name}.yaml"
        file.write_text(self.manifest(name, tokens, peak))
        command = [self.program, "run", file.name, "--quiet"]
        subprocess.run(command, cwd=self.folder, env=self.environment, check=True, stdout=subprocess.DEVNULL, timeout=PATIENCE_SECONDS)

    def serve(self) -> None:
        command = [self.program, "ui", "--no-open", "--port", "0", "-o", "json"]
        self.server = subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, text=True)
        assert self.server.stdout is not None
        self.base, _, self.secret = json.loads(self.server.stdout.readline())["url"].partition("/?secret=")

    def request(self, method: str, path: str, body: object = None, kind: str = "application/json"):
        """Status, headers and body of an answer."""
        data = None if body is None else body.encode() if isinstance(body, str) else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, self.headers() | {"Content-Type": kind}, method=method)
        try:
            answer = urllib.request.urlopen(request, timeout=60)
        except urllib.error.HTTPError as error:
            answer = error
        text = answer.read()
        return answer.status, answer.headers, json.loads(text) if "json" in answer.headers.get("Content-Type", "") else text.decode()

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secret}"}

    def get(self, path: str):
        status, _, body = self.request("GET", f"/api/v1{path}")
        if status != 200:
            raise SystemExit(f"GET {path}: {status} {body}")
        return body

    def post(self, path: str, body: object, kind: str = "application/json", method: str = "POST"):
        status, _, answer = self.request(method, f"/api/v1{path}", body, kind)
        if not 200 <= status < 300:
            raise SystemExit(f"{method} {path}: {status} {answer}")
        return answer

    def wait(self, path: str, what: str, holds) -> object:
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            status, _, body = self.request("GET", f"/api/v1{path}")
            if status == 200 and holds(body):
                return body
            if time.monotonic() > end:
                raise SystemExit(f"waited in vain for {what}: {path} answers {status} {body}")
            time.sleep(0.1)

    def close(self) -> None:
        if self.server is not None:
            self.server.terminate()
            try:
                self.server.wait(30)
            except subprocess.TimeoutExpired:
                self.server.kill()


def quote(name: str) -> str:
    return urllib.parse.quote(name, safe="")
