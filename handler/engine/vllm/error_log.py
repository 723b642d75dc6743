"""A bound on what vLLM logs when its engine core dies: one traceback, not one for each request.

The requests share one exception, whose traceback grows with each that raises it: 18 streams logged
4,400 lines. The worker's own log has a line for each request that failed.
"""

import logging

OUTPUT_HANDLER = "output_handler"  # the function of AsyncLLM that fails all requests


class OneTraceback(logging.Filter):
    """Lets the first record through about the error that has failed all requests.

    Args:
        engine_dead: vLLM's exception of a dead engine core.
    """

    def __init__(self, engine_dead: type[BaseException]) -> None:
        super().__init__()
        self._engine_dead = engine_dead
        self._cause: BaseException | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Leave the record out if an earlier one had the error."""
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return True
        is_known = self._is_death(error) or (
            error.__cause__ is not None and self._is_death(error.__cause__)
        )
        if self._cause is None and (is_known or record.funcName == OUTPUT_HANDLER):
            self._cause = error
            return True
        return not is_known

    def _is_death(self, error: BaseException) -> bool:
        return error is self._cause or isinstance(error, self._engine_dead)


def log_one_traceback() -> None:
    """Add the filter to the handlers of vLLM's logger, once its logging is configured."""
    from vllm.v1.engine.exceptions import EngineDeadError

    one_traceback = OneTraceback(EngineDeadError)
    for handler in logging.getLogger("vllm").handlers:
        handler.addFilter(one_traceback)
