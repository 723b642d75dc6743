"""The process of `tests.support.queue_worker`, its platform, and a proxy between them."""

import contextlib
import re
import socket
import sys
import threading
import time
from contextlib import contextmanager

from runpod_local import running_platform, running_worker
from tests.support.conditions import wait_until
from tests.support.environment import clean_environment
from tests.support.processes import frozen

PROMPT = {"prompt": "hello"}


class QueueWorker:
    """A worker and its platform; `lines` are those of its log since the last call."""

    def __init__(self, platform, process, log):
        self.platform, self.process, self._log = platform, process, log
        self._read = 0

    def lines(self, *patterns):
        text = self._log.read_text()
        new, self._read = text[self._read :], len(text)
        return [line for line in new.splitlines() if re.search("|".join(patterns), line)]

    def wait_for_lines(self, *patterns):
        """Return the first such lines; those before are read, too."""
        found = []
        wait_until(lambda: found.extend(self.lines(*patterns)) or found)
        return found

    def run(self, job_input=PROMPT):
        return self.platform.wait(self.platform.submit(job_input), 300)

    def poll(self):
        """End the open poll, so that the next one meets the planned faults."""
        self.platform.release_polls()


@contextmanager
def queue_worker(folder, proxy=None, **environment):
    """Run `tests.support.queue_worker`, which reaches its platform through the proxy."""
    log = folder / "worker.log"
    command = [sys.executable, "-m", "tests.support.queue_worker"]
    with (
        running_platform(ping_interval_seconds=1) as platform,
        log.open("wb") as file,
        proxied(platform, proxy) as platform,
        running_worker(
            platform, command, clean_environment(HOME=str(folder), **environment), log=file
        ) as process,
    ):
        yield QueueWorker(platform, process, log)


@contextmanager
def proxied(platform, proxy):
    if proxy is None:
        yield platform
        return
    port = int(platform.base_url.split(":")[2].split("/")[0])
    with proxy.running(port) as proxy_port:
        platform.base_url = platform.base_url.replace(f":{port}/", f":{proxy_port}/")
        yield platform


class Proxy:
    """A TCP proxy that can leave its connections half-open: silent, and gone for the server."""

    def __init__(self):
        self._connections, self._half_open = [], []

    @contextmanager
    def running(self, server_port):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            accepting = threading.Thread(
                target=self._accept, args=(listener, server_port), daemon=True
            )
            accepting.start()
            try:
                yield listener.getsockname()[1]
            finally:
                with contextlib.suppress(OSError):
                    listener.shutdown(socket.SHUT_RDWR)
                accepting.join()
                for pair in self._connections + self._half_open:
                    pair.close()

    def leave_half_open(self):
        """Close the server's side of all connections; the client's stays open without an answer."""
        left, self._connections = self._connections, []
        for pair in left:
            pair.silent = True
            with contextlib.suppress(OSError):  # closed already
                pair.server.shutdown(socket.SHUT_RDWR)
        self._half_open += left
        return left

    def _accept(self, listener, server_port):
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                pair = _Pair(client, socket.create_connection(("127.0.0.1", server_port)))
                self._connections.append(pair)
                pair.start()


class _Pair:
    def __init__(self, client, server):
        self.client, self.server, self.silent = client, server, False

    def start(self):
        ends = ((self.client, self.server), (self.server, self.client))
        self._pumps = [threading.Thread(target=self.pump, args=each, daemon=True) for each in ends]
        for pump in self._pumps:
            pump.start()

    def close(self):
        for each in (self.client, self.server):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for pump in self._pumps:
            pump.join()
        self.client.close()
        self.server.close()

    def pump(self, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not self.silent:
                    sink.sendall(data)
            if not self.silent:
                sink.shutdown(socket.SHUT_WR)


def freeze(process, seconds, look=lambda: None):
    """Stop a process and its children, as FlashBoot does, and continue them.

    Returns what `look` returns at the end of the freeze.
    """
    family = [process, *process.children(recursive=True)]
    with frozen(family):
        time.sleep(seconds)
        return look()
