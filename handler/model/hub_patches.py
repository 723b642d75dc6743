"""What is replaced in huggingface-hub, and what is read of it without being public.

All rows are needed since huggingface-hub 1.33; older versions were not checked.
tests/contract/test_huggingface_hub.py has a test for each.

| replaced                       | why                               | until                     |
| ------------------------------ | --------------------------------- | ------------------------- |
| `constants.HF_HUB_DISABLE_XET` | after a transfer by Xet stalled,  | a transfer without a byte |
|                                | plain HTTP is tried; the variable | ends by itself            |
|                                | is read at the import             |                           |
| `constants.HF_HUB_CACHE`,      | they follow from what was found,  | they are read where they  |
| `constants.HF_HUB_OFFLINE`     | and the variables are read at the | are used                  |
|                                | import; the engines read the      |                           |
|                                | constants                         |                           |
| `get_session().event_hooks`,   | it waits as long as an answer 429 | that wait has a bound     |
| during a download              | says, in silence                  |                           |
| `utils._detect_agent`          | a new container asks the hub for  | it asks where it is a     |
| `._registry`                   | a list of programs that may have  | command line              |
|                                | called it, before each first      |                           |
|                                | request and for up to 3 s         |                           |

| called or read                 | why                               | until                     |
| ------------------------------ | --------------------------------- | ------------------------- |
| `utils._xet.abort_xet_session` | a transfer by Xet heeds no        | a download can be         |
|                                | `tqdm_class`                      | cancelled                 |
| the suffix of partial files    | a cancelled download whose        | a download can be         |
|                                | connection hangs leaves them      | cancelled                 |
| an update of `tqdm_class` per  | it shows that bytes arrive, and   | a download can be         |
| chunk (transfer.py)            | can end a plain HTTP transfer     | cancelled, and ends when  |
|                                |                                   | no byte comes             |
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PARTIAL_SUFFIX = ".incomplete"  # until a file is complete


def turn_xet_off() -> bool:
    """Make huggingface-hub download by plain HTTP from now on; return whether it used Xet."""
    from huggingface_hub import constants

    was_on = not constants.HF_HUB_DISABLE_XET
    constants.HF_HUB_DISABLE_XET = True
    return was_on


def keep_to_own_requests() -> None:
    """Have huggingface-hub send no request of its own before the first one."""
    from huggingface_hub.utils import _detect_agent

    _detect_agent._registry = _detect_agent._EMPTY_REGISTRY


def replace_constants(**values: object) -> None:
    """Replace constants of huggingface-hub where it is imported, and so has read its variables."""
    if constants := sys.modules.get("huggingface_hub.constants"):
        vars(constants).update(values)


def abort_xet() -> None:
    """End transfers by Xet, which hold the locks of their files and heed no `tqdm_class`."""
    from huggingface_hub.utils import _xet

    _xet.abort_xet_session()  # type: ignore[no-untyped-call]


@contextmanager
def rate_limits_raised() -> Iterator[None]:
    """Raise an answer 429, for which huggingface-hub would wait as long as it says, in silence."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]

    def raise_rate_limit(response: Any) -> None:
        if response.status_code == 429:
            response.read()
            hf_raise_for_status(response)

    client = get_session()
    before = client.event_hooks
    client.event_hooks = {**before, "response": [*before["response"], raise_rate_limit]}
    try:
        yield
    finally:
        client.event_hooks = before
