"""A POST that is under way after a freeze."""

import asyncio

import aiohttp
import pytest

from handler.serve.queue import connections
from handler.serve.queue.connections import _Connection


class Transport:
    """Stands for a socket's: how fast a real one empties its buffer cannot be planned."""

    def __init__(self, unsent_bytes):
        self._unsent_bytes = unsent_bytes
        self.looks = 0

    def write(self, data):
        pass

    def get_write_buffer_size(self):
        self.looks += 1
        return self._unsent_bytes.pop(0) if len(self._unsent_bytes) > 1 else self._unsent_bytes[0]


@pytest.mark.parametrize(
    ("unsent_bytes", "looks"), [([0], 2), ([9], 2), ([9, 7, 7, 0, 0, 0], 6)], ids=str
)
def test_a_post_without_an_answer_fails_when_nothing_more_is_sent(unsent_bytes, looks, monkeypatch):
    """A large body may still be on its way, and would be sent twice."""
    monkeypatch.setattr(connections, "WAKE_GRACE_SECONDS", 0.001)

    async def run():
        connection, transport = _Connection(), Transport(unsent_bytes)
        connection.connection_made(transport)
        response = connection.send(b"POST")
        connection.fail_unless_it_sends()
        with pytest.raises(aiohttp.ServerDisconnectedError, match="no answer after a freeze"):
            await response
        assert transport.looks == looks

    asyncio.run(run())
