"""`deploy` against an endpoint with a real worker, on the Runpod platform in small."""

import pytest

from builder.deploy import commands
from tests.engine.conftest import ANSWERS
from tests.integration.builder.deploy.conftest import CHAT, TIMEOUTS, snippet
from tests.support.runpod_api import running_runpod_api


@pytest.mark.parametrize("endpoint", ["vllm"], indirect=True)
def test_a_deployment_ends_with_the_answer_of_a_real_worker(endpoint, capsys):
    """The job that wakes it, its health and the chat are the worker's own."""
    platform = endpoint.platform
    with running_runpod_api(key=platform.api_key, root=platform.base_url) as api:
        environ = {"RUNPOD_API_KEY": platform.api_key, "RUNPOD_API_URL": api.url}
        known = ("-e", "RUNPOD_INIT_TIMEOUT=")  # so that no hub is asked
        code = commands.deploy((*CHAT, *known), environ, TIMEOUTS)
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    assert out.endswith(
        f"a worker answers\n{ANSWERS['vllm'][0]}\n"
        + snippet(platform.openai_base_url, endpoint.model)
    )
