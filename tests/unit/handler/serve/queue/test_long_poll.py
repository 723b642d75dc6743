"""The poll after a freeze: a second one over another connection, and no answer is lost."""

import asyncio

import pytest

from handler.serve.queue.long_poll import LongPoll


class Session:
    def __init__(self):
        self.closed = False
        self.answer = asyncio.Future()
        self.polls = []

    async def close(self):
        self.closed = True


class Polls:
    """A long poll, the sessions that it made, and their polls."""

    def __init__(self, **more):
        self.sessions = []
        self.poll = LongPoll(self._send, self._session, **more)

    def _session(self):
        self.sessions.append(Session())
        return self.sessions[-1]

    async def _send(self, session, max_items):
        session.polls.append(max_items)
        return await session.answer

    async def sent(self, sessions):
        while len(self.sessions) < sessions or not self.sessions[-1].polls:
            await asyncio.sleep(0)


def test_both_polls_may_bring_jobs_after_a_freeze():
    async def run():
        polls = Polls()
        taking = asyncio.create_task(polls.poll.next(4))
        await polls.sent(1)
        polls.poll.wake()
        await polls.sent(2)
        old, new = polls.sessions
        new.answer.set_result(["a"])
        assert await taking == ["a"]
        new.answer = asyncio.Future()
        taking = asyncio.create_task(polls.poll.next(3))
        while len(new.polls) < 2:
            await asyncio.sleep(0)
        old.answer.set_result(["b"])
        assert await taking == ["b"]
        assert (old.polls, new.polls) == ([4], [1, 1])
        assert (old.closed, new.closed) == (True, False)
        await polls.poll.close()
        assert new.closed

    asyncio.run(run())


def test_polls_ask_together_for_what_there_is_room_for():
    """After a freeze, each further one asks for one item at least."""

    async def run():
        polls = Polls()
        taking = asyncio.create_task(polls.poll.next(4))
        for number in (1, 2, 3):
            await polls.sent(number)
            polls.poll.wake()
        await polls.sent(4)
        assert [session.polls for session in polls.sessions] == [[4], [1], [1], [1]]
        for session in polls.sessions:
            session.answer.set_result(["item"] * session.polls[0])
        items = await taking
        while len(items) < 7:
            items += await polls.poll.next(0)
        polls.sessions[3].answer = asyncio.Future()
        taking = asyncio.create_task(polls.poll.next(9))
        while len(polls.sessions[3].polls) < 2:
            await asyncio.sleep(0)
        assert polls.sessions[3].polls == [1, 9]
        taking.cancel()
        await asyncio.wait([taking])
        await polls.poll.close()

    asyncio.run(run())


def test_a_wake_up_between_two_polls_changes_the_connection():
    async def run():
        polls = Polls()
        taking = asyncio.create_task(polls.poll.next(1))
        await polls.sent(1)
        polls.sessions[0].answer.set_result(["a"])
        assert await taking == ["a"]
        polls.poll.wake()
        taking = asyncio.create_task(polls.poll.next(1))
        await polls.sent(2)
        polls.sessions[1].answer.set_result([])
        assert await taking == []
        await polls.poll.close()
        assert [session.closed for session in polls.sessions] == [True, True]

    asyncio.run(run())


def test_a_full_worker_waits_for_a_slot_or_an_open_poll():
    async def run():
        polls, freed = Polls(), asyncio.Event()
        taking = asyncio.create_task(polls.poll.next(0, or_until=freed.wait))
        await asyncio.sleep(0.01)
        assert (polls.sessions, taking.done()) == ([], False)
        freed.set()
        assert await taking == []

    asyncio.run(run())


def test_a_poll_without_an_answer_ends_at_its_timeout():
    async def run():
        polls = Polls(timeout_seconds=0.01)
        assert await polls.poll.next(1) == []
        await polls.poll.close()

    asyncio.run(run())


def test_an_error_is_raised_and_a_cancelled_poll_is_the_last():
    async def run():
        polls = Polls()
        taking = asyncio.create_task(polls.poll.next(1))
        await polls.sent(1)
        polls.sessions[0].answer.set_exception(ValueError("planned"))
        with pytest.raises(ValueError, match="planned"):
            await taking
        taking = asyncio.create_task(polls.poll.next(1))
        await asyncio.sleep(0)
        taking.cancel()
        await asyncio.wait([taking])
        assert await polls.poll.close() == []
        assert (taking.cancelled(), polls.sessions[0].closed) == (True, True)
        with pytest.raises(asyncio.CancelledError):
            await polls.poll.next(1)

    asyncio.run(run())


def test_what_polls_have_brought_before_the_end_is_not_lost():
    """One has answered while the task that waits is cancelled; another is still without answer."""

    async def run():
        polls = Polls()
        taking = asyncio.create_task(polls.poll.next(1))
        await polls.sent(1)
        polls.poll.wake()
        await polls.sent(2)
        polls.sessions[0].answer.set_result(["a"])
        await asyncio.sleep(0)  # the poll has its answer, and nobody has read it
        taking.cancel()
        await asyncio.wait([taking])
        assert taking.cancelled()
        assert await polls.poll.close() == ["a"]
        assert [session.closed for session in polls.sessions] == [True, True]

    asyncio.run(run())
