"""What the worker overrides and reads in uvicorn: see the table of its `uvicorn_patches`.

.venv/bin/python -m pytest tests/contract/test_uvicorn.py
"""

import asyncio
import inspect
from importlib.metadata import version

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from handler.serve.http.uvicorn_patches import MAX_HEAD_BYTES, LimitedProtocol

OVERRIDDEN = {
    "connection_made": ["self", "transport"],
    "data_received": ["self", "data"],
    "on_header": ["self", "name", "value"],
    "on_message_begin": ["self"],
    "on_headers_complete": ["self"],
    "pause_writing": ["self"],
    "resume_writing": ["self"],
    "connection_lost": ["self", "exc"],
}
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Transport(asyncio.Transport):
    """A connection of nobody."""

    closed = False

    def close(self):
        self.closed = True

    def is_closing(self):
        return self.closed

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass

    def write(self, data):
        pass


async def never_answers(scope, receive, send):
    await asyncio.Event().wait()


async def connected(protocol_class):
    """Return a protocol with a connection, and that connection."""
    config = uvicorn.Config(never_answers, http=protocol_class, lifespan="off", log_config=None)
    protocol = protocol_class(config=config, server_state=ServerState(), app_state={})
    transport = Transport()
    protocol.connection_made(transport)
    return protocol, transport


def test_the_version_is_the_one_of_the_table():
    assert version("uvicorn").startswith("0.54.")


def test_no_other_method_is_overridden():
    """But for the worker's own, which have names of their own."""
    methods = {name for name, _ in inspect.getmembers(LimitedProtocol, inspect.isfunction)}
    own = methods & vars(LimitedProtocol).keys()
    assert {name for name in own if hasattr(HttpToolsProtocol, name)} == OVERRIDDEN.keys()


@pytest.mark.parametrize("method", OVERRIDDEN)
def test_an_overridden_method_has_its_parameters(method):
    parameters = inspect.signature(getattr(HttpToolsProtocol, method)).parameters
    assert list(parameters) == OVERRIDDEN[method]


def test_uvicorn_takes_a_protocol_class():
    config = uvicorn.Config(never_answers, http=LimitedProtocol, lifespan="off", log_config=None)
    config.load()
    assert config.http_protocol_class is LimitedProtocol


def test_a_protocol_has_what_the_limits_read():
    """Its loop, its connection, all connections, and the request that came last."""

    async def run():
        protocol, transport = await connected(HttpToolsProtocol)
        assert protocol.loop is asyncio.get_running_loop()
        assert protocol.transport is transport
        assert protocol.connections == {protocol}
        protocol.data_received(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n")
        cycle = protocol.cycle
        assert isinstance(cycle, RequestResponseCycle)
        assert (cycle.disconnected, cycle.response_complete) == (False, False)
        assert not cycle.message_event.is_set()  # for which the app waits
        protocol.connection_lost(None)
        assert cycle.disconnected
        assert cycle.message_event.is_set()

    asyncio.run(run())


def test_a_server_has_a_flag_that_ends_it():
    server = uvicorn.Server(uvicorn.Config(never_answers, log_config=None))
    assert server.should_exit is False


# ---- why the protocol is replaced


def test_uvicorn_has_no_limit_for_heads_connections_or_stalled_clients():
    """Its one limit of a head is for h11, and its limit of connections answers 503."""
    parameters = inspect.signature(uvicorn.Config).parameters
    limits = {name for name in parameters if name.startswith(("limit_", "timeout_", "h11_"))}
    assert limits == {
        "h11_max_incomplete_event_size",
        "limit_concurrency",
        "limit_max_requests",
        "limit_max_requests_jitter",
        "timeout_graceful_shutdown",
        "timeout_keep_alive",
        "timeout_notify",
        "timeout_worker_healthcheck",
    }


@pytest.mark.parametrize(
    ("protocol_class", "is_closed"),
    [(HttpToolsProtocol, False), (LimitedProtocol, True)],
    ids=["uvicorn", "the worker"],
)
def test_only_the_worker_closes_a_connection_with_too_long_a_head(protocol_class, is_closed):
    async def run():
        protocol, transport = await connected(protocol_class)
        protocol.data_received(b"GET / HTTP/1.1\r\nX: " + b"x" * MAX_HEAD_BYTES)
        assert transport.closed == is_closed
        protocol.connection_lost(None)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("protocol_class", "disconnected"),
    [(HttpToolsProtocol, [False, True]), (LimitedProtocol, [True, True])],
    ids=["uvicorn", "the worker"],
)
def test_only_the_worker_tells_each_pipelined_request_of_a_disconnect(protocol_class, disconnected):
    async def run():
        protocol, _ = await connected(protocol_class)
        cycles = []
        for _ in range(2):
            protocol.data_received(GET)
            cycles.append(protocol.cycle)
        protocol.connection_lost(None)
        assert [cycle.disconnected for cycle in cycles] == disconnected

    asyncio.run(run())
