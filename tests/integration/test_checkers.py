"""The server before programs that look for faults: a checker of image servers, and requests made of its OpenAPI."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import schemathesis
from hypothesis import given, settings

from diffuscope.serve import Engine
from diffuscope.serve.http.app import application
from served import PATIENCE, listening


@pytest.fixture(scope="module")
def address(tiny):
    engine = Engine(tiny, running=2)
    with listening(application(engine)) as found:
        yield found
    engine.stop(drain=False)


def test_a_checker_of_image_servers_finds_nothing(address, tmp_path):
    report = tmp_path / "report.json"
    command = [str(Path(sys.executable).with_name("ligsp")), "check", "--json", str(report), address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE, check=False)
    assert done.returncode == 0, done.stdout
    assert json.loads(report.read_text())


CHEAP = (
    "^/api/v1/(plan|text|jobs/|pictures/|about|latent-rgb)|^/v1/models|"
    "^/sdapi/v1/(options|progress|interrupt|sd-|sampl)"
)
"""All that makes no images: what is made of a schema may ask for many and large ones."""


def test_no_request_made_of_openapi_breaks_the_server(address):
    described = schemathesis.openapi.from_url(f"{address}/api/v1/openapi.json").include(path_regex=CHEAP)
    operations = [result.ok() for result in described.get_all_operations()]
    assert len(operations) > 15
    for operation in operations:

        @given(case=operation.as_strategy())
        @settings(max_examples=6)
        def check(case):
            answer = case.call(timeout=PATIENCE)
            assert answer.status_code < 500, (case.method, case.path, answer.content)

        check()
