"""The HTTP front end on a stand-in engine, in this process."""

import socket
import threading
import time

import httpx

from handler.engine.runtime import EngineRuntime
from handler.errors import EngineDied, LoopFailed
from handler.metrics.cost import CostMeter
from handler.metrics.monitor import Monitor
from handler.serve.http.lifecycle import HttpFrontEnd
from handler.settings.environ import load_settings
from handler.startup.timings import StartupTimings
from handler.supervisor import Supervisor
from tests.support.conditions import wait_until
from tests.support.http_worker import free_port
from tests.support.stand_in_engine import StandInEngine, worker_on

PROMPT = {"prompt": "Hi"}
STREAM = PROMPT | {"stream": True}


class RunningFrontEnd:
    """The HTTP front end on a thread of its own, on a stand-in engine, and calls of it."""

    def __init__(self, max_jobs=2, **environ):
        environ = {"PORT": str(free_port()), "API_KEY": "one,two", "MAX_QUEUE": "1"} | environ
        self.settings = load_settings({name: value for name, value in environ.items() if value})
        self.url = f"http://127.0.0.1:{self.settings.http_port}"
        self.engine = StandInEngine()
        self.max_jobs = max_jobs
        self.failure = None
        self.supervisor = Supervisor()

    def __enter__(self):
        self._runtime = EngineRuntime(lambda: None)
        self.front_end = HttpFrontEnd(self.settings, supervisor=self.supervisor)
        self.front_end.__enter__()
        return self

    def open(self, request_timeout_seconds=None):
        """Start the engine, and serve."""
        self._runtime.__enter__()
        self._runtime.check_flags(self.engine)
        self._runtime.wait_until_up()
        self.monitor = Monitor(
            self._runtime, StartupTimings(time.time()), 2, CostMeter(0.001, 0.0)
        ).__enter__()
        worker = worker_on(
            self._runtime,
            max_jobs=self.max_jobs,
            front_end=self.front_end,
            request_timeout_seconds=request_timeout_seconds,
            monitor=self.monitor,
            log_content=self.settings.log_content,
        )
        self._thread = threading.Thread(target=self._serve, args=(worker,))
        self._thread.start()
        wait_until(lambda: self.ping() == 200)
        return self

    def _serve(self, worker):
        try:
            self.front_end.serve(worker, self.max_jobs, self.monitor)
        except (EngineDied, LoopFailed) as error:
            self.failure = error

    def terminate(self):
        """Do what SIGTERM does, whose handler only the main thread can install."""
        self.front_end._signalled(15, None)

    def __exit__(self, *_):
        if hasattr(self, "monitor"):
            if self._thread.is_alive():
                self.terminate()
            self._thread.join(60)
            self.monitor.__exit__()
            self._runtime.stop()
        self.front_end.__exit__()

    @property
    def admission(self):
        return self.front_end._app.service.admission

    @property
    def connections(self):
        return set(self.front_end._server._server.server_state.connections)

    def finish(self):
        """Wait for the end of serving."""
        self._thread.join(60)
        assert not self._thread.is_alive()

    def ping(self):
        return httpx.get(f"{self.url}/ping", timeout=60).status_code

    def call(self, method, path, key="one", **more):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.request(
            method, self.url + path, headers=headers | more.pop("headers", {}), timeout=60, **more
        )

    def complete(self, prompt="Hi", **more):
        return self.call("POST", "/v1/completions", json={"prompt": prompt, **more})


def message(answer):
    return answer.json()["error"]["message"]


def connected(http):
    opened = socket.create_connection(("127.0.0.1", http.settings.http_port))
    opened.settimeout(60)
    return opened


def raw(method, path, body=b"", length=None):
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer one\r\n"
    return (
        f"{head}Content-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body
    )
