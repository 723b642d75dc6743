"""An endpoint's own routes, of both types, and its workers' logs: see runpod_api.py.

A queue's `/health` and a load balancer's `/ping` show one state of the workers after the other;
what is documented of them has no counts for a worker that starts with its model.
"""

import json
import time
from urllib.parse import parse_qsl, urlsplit

ANSWER = "The capital of France is Paris."
MODEL = "org/served"
MODELS = {"object": "list", "data": [{"id": MODEL, "object": "model"}]}


class ApiProblem(Exception):
    """A request that is answered with an error."""

    def __init__(self, status, detail, errors=()):
        self.status, self.detail, self.errors = status, detail, errors


class EndpointRoutes:
    """What an endpoint answers; `self.api` says what it shows."""

    def queue(self, rest):
        if rest == "/run":
            return 200, {"id": "job-1", "status": "IN_QUEUE"}
        if rest == "/health":
            workers = self.api.look()
            workers["ready"] = workers["idle"] + workers["running"]
            jobs = ("completed", "failed", "inProgress", "inQueue", "retried")
            return 200, {"jobs": {n: self.api.jobs.get(n, 0) for n in jobs}, "workers": workers}
        if rest.startswith("/status/"):
            return 200, self.job()
        if rest.startswith("/cancel/"):
            self.api.cancelled.append(rest)
            return 200, {"id": "job-1", "status": "CANCELLED"}
        if rest == "/openai/v1/chat/completions":
            return self.chat()
        raise ApiProblem(404, "resource not found")

    def job(self):
        if self.api.job_error:
            return {"id": "job-1", "status": "FAILED", "error": self.api.job_error}
        if not self.is_up():
            return {"id": "job-1", "status": "IN_QUEUE"}
        return {"id": "job-1", "status": "COMPLETED", "output": [MODELS]}

    def balancer(self, rest):
        if rest == "/ping":
            return (200, {"status": "ok"}) if self.is_up() else (204, None)
        if rest == "/v1/models":
            return 200, MODELS
        if rest == "/v1/chat/completions":
            return self.chat()
        raise ApiProblem(404, "resource not found")

    def is_up(self):
        """Whether the last look has shown, or the one state shows, a worker that answers."""
        now = self.api.states[0]
        return len(self.api.states) == 1 and bool(now.get("idle") or now.get("running"))

    def chat(self):
        if self.api.answer:
            return self.api.answer()
        return 200, {"choices": [{"message": {"role": "assistant", "content": ANSWER}}]}

    def stream_logs(self, worker):
        if worker not in self.api.logs:
            raise ApiProblem(404, "resource not found")
        query = dict(parse_qsl(urlsplit(self.path).query))
        lines = self.api.logs[worker]
        last = self.headers.get("last-event-id")
        tail = int(query.get("tail", 100))
        shown = [each for each in lines if each[0] > last] if last else lines[len(lines) - tail :]
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for ts, line in shown:
            data = json.dumps({"ts": ts, "source": query.get("source", "container"), "line": line})
            self.wfile.write(f"id: {ts}\ndata: {data}\n\n".encode())
        self.wfile.flush()
        self.api.streams += 1
        while self.api.keep_open:
            time.sleep(0.01)
        self.close_connection = True
        return None, None
