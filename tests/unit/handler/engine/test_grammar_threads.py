"""The engine's own threads go before those that compile constraints."""

import os
import threading

from handler.engine.grammar_threads import LOWEST_PRIORITY, grammar_threads


def priority():
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_a_thread_that_compiles_and_those_that_it_starts_have_the_lowest_priority():
    own = priority()
    inner = []

    def compile_constraint():
        thread = threading.Thread(target=lambda: inner.append(priority()))
        thread.start()
        thread.join()
        return priority()

    with grammar_threads() as threads:
        assert threads.submit(compile_constraint).result() == LOWEST_PRIORITY
    assert inner == [LOWEST_PRIORITY]
    assert priority() == own
