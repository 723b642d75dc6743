"""The constraints of outputs in SGLang's scheduler: what it keeps is bounded, and none is logged.

SGLang keeps every constraint that it ever compiled, in two caches, and compiles in five threads
more than there are cores, each with eight of xgrammar's: other streams pause meanwhile. It logs a
constraint that it refuses, with the text of a caller's request.
"""

import functools
import logging
import pkgutil
import re
from collections import OrderedDict
from typing import Any

from handler.engine.grammar_threads import CACHE_MIB, grammar_threads

MAX_CACHED = 64  # constraints; a copy of one is quick to make

REQUEST_MODULE = "sglang.srt.managers.schedule_batch"
# What SGLang says of a constraint; then the constraint, or an error that quotes it. A request's id
# may follow.
CONSTRAINT_LINE = re.compile(
    r"(Hit invalid \w+|Failed to compile \w+ grammar|Grammar compilation raised an exception"
    r"|Grammar compilation failed|skip invalid regex|Skip unsupported key_type='\w+')"
    r".*?(, self\.rid='[^']*')?\Z",
    re.DOTALL,
)


class GrammarCache(OrderedDict[Any, Any]):
    """Constraints that are ready; what was used longest ago goes first."""

    def get(self, key: Any, default: Any = None) -> Any:
        if key not in self:
            return default
        self.move_to_end(key)
        return self[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        while len(self) > MAX_CACHED:
            self.popitem(last=False)


class WithoutConstraint(logging.Filter):
    """Leaves the text of a constraint out of a line about it; the caller gets it in the error."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Shorten the line."""
        text = record.getMessage()
        if (shorter := CONSTRAINT_LINE.sub(r"\1\2", text)) != text:
            record.msg, record.args = shorter, None
        return True


def keep_constraints_out_of_logs() -> None:
    """Add the filter to the loggers of SGLang that have constraints in their lines."""
    from sglang.srt import constrained

    modules = pkgutil.iter_modules(constrained.__path__, f"{constrained.__name__}.")
    for name in (REQUEST_MODULE, *(module.name for module in modules)):
        logging.getLogger(name).addFilter(WithoutConstraint())


def bound_grammars() -> None:
    """Replace names of SGLang in this process, the scheduler's."""
    from sglang.srt.constrained import xgrammar_backend
    from sglang.srt.constrained.base_grammar_backend import BaseGrammarBackend

    init = BaseGrammarBackend.__init__

    def replacement(self: Any) -> None:
        init(self)
        self.executor = grammar_threads()
        self.cache = GrammarCache()

    BaseGrammarBackend.__init__ = replacement
    xgrammar_backend.GrammarCompiler = functools.partial(
        xgrammar_backend.GrammarCompiler, cache_limit_bytes=CACHE_MIB << 20
    )
