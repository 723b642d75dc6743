"""Front ends on stand-in engines."""

import pytest

from tests.support.http_front_end import RunningFrontEnd


@pytest.fixture(scope="module", autouse=True)
def no_signal_handlers():
    """A worker serves on its main thread, where signal handlers can be installed; here not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("handler.serve.http.lifecycle.signal.signal", lambda *_: None)
        yield


@pytest.fixture
def http():
    """A front end of the test's own."""
    with RunningFrontEnd() as made:
        yield made.open()


@pytest.fixture(scope="module")
def shared_http():
    """One front end for the tests that change nothing in it: a start takes half a second."""
    with RunningFrontEnd() as made:
        yield made.open()
