"""A poll that is cancelled while its answer arrives, from a server in this process."""

import asyncio

import aiohttp
import pytest

from handler.serve.queue import job_take
from handler.serve.queue.job_take import JobTake
from handler.serve.queue.job_text import JobDecoder
from handler.serve.queue.long_poll import LongPoll

BODY = b'[{"id": "a", "input": {}}]'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(
    BODY
)
ANSWER = [HEAD + BODY[:5], BODY[5:]]


class Poll:
    """A long poll whose server sends an answer in two pieces, and one decoder; events between."""

    def __init__(self):
        self.first_sent, self.may_send = asyncio.Event(), asyncio.Event()
        self.decoding, self.may_decode = asyncio.Event(), asyncio.Event()

    async def _answer(self, reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ANSWER[0])
        self.first_sent.set()
        await self.may_send.wait()
        writer.write(ANSWER[1])
        await writer.drain()
        writer.close()

    async def _decode(self, body):
        self.decoding.set()
        await self.may_decode.wait()
        return await JobDecoder().decode(body)

    async def jobs_after(self, cancel_at):
        """Cancel the task that takes jobs at an event; return what the end of the poll brings."""
        async with await asyncio.start_server(self._answer, "127.0.0.1", 0) as server:
            host, port = server.sockets[0].getsockname()
            take = JobTake(lambda _: f"http://{host}:{port}/", lambda _: False, self._decode)
            began, read = asyncio.Event(), job_take._read

            async def noted(*args):
                began.set()
                return await read(*args)

            poll = LongPoll(take.take, aiohttp.ClientSession)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(job_take, "_read", noted)
                taking = asyncio.create_task(poll.next(1))
                await began.wait()
                await cancel_at(self)
                taking.cancel()
                await asyncio.wait([taking])
                closing = asyncio.create_task(poll.close())
                await asyncio.sleep(0)
                self.may_send.set()
                self.may_decode.set()
                return taking.cancelled(), [job["id"] for job in await closing]


async def while_read(poll):
    await poll.first_sent.wait()


async def while_decoded(poll):
    poll.may_send.set()
    await poll.decoding.wait()


@pytest.mark.parametrize("cancel_at", [while_read, while_decoded])
def test_the_jobs_of_an_answer_that_has_begun_survive_the_end_of_the_poll(cancel_at):
    async def run():
        return await Poll().jobs_after(cancel_at)

    assert asyncio.run(run()) == (True, ["a"])


def test_an_answer_that_never_ends_does_not_hold_up_the_end(monkeypatch):
    monkeypatch.setattr(job_take, "ANSWER_GRACE_SECONDS", 0.01)

    async def run():
        async def silent():
            await asyncio.Event().wait()

        reading = asyncio.create_task(job_take._completed(silent()))
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
        assert reading.cancelled()

    asyncio.run(run())
