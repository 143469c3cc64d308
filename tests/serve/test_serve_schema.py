"""The OpenAPI page, and schemathesis, which tries what it says and what it forbids."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from service_for_tests import ADMIN, TOKENS, served
from stores_for_tests import KINDS, store_url

from weft.serve.routes import ROUTES, openapi
from weft.serve.service import Service
from weft.serve.settings import Limits, Settings

CONFIG = """
[checks.negative_data_rejection]
expected-statuses = ["400", "401", "403", "404", "405", "409", "411", "413", "415", "422", "429", "503"]
"""


def test_the_page_has_every_route_with_an_example_that_is_valid() -> None:
    page = openapi("1")
    for route in ROUTES:
        operation = page["paths"][route.path][route.method.lower()]
        assert operation["summary"].endswith(".")
        assert (route.scope is None) == ("security" not in operation)
        if route.body is not None:
            example = operation["requestBody"]["content"]["application/json"]["example"]
            msgspec.convert(example, route.body)
        for parameter in operation.get("parameters", ()):
            assert parameter["example"]
    names = {route.name for route in ROUTES} - {"health", "ready", "metrics", "schema"}
    assert all(callable(getattr(Service, name)) for name in names)


def test_every_reference_of_the_page_leads_somewhere() -> None:
    page = openapi("1")
    text = json.dumps(page)
    names = set(re.findall(r'"#/components/schemas/(\w+)"', text))
    assert names == set(page["components"]["schemas"])


def test_the_guide_names_every_path_and_every_limit() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    assert not [route.path for route in ROUTES if route.path not in guide]
    assert not [name for name in Limits.__struct_fields__ if f"`{name}`" not in guide]
    tokens = re.findall(r"```toml\n(.*?)```", guide, flags=re.DOTALL)[0].replace("...", "0" * 64)
    assert "[[tokens]]" in tokens
    for method, path, body in re.findall(r"```json\n(\w+) (\S+)\n(.*?)```", guide, flags=re.DOTALL):
        route = next(route for route in ROUTES if (route.method, route.path) == (method, path))
        assert route.body is not None
        msgspec.json.decode(body, type=route.body)


def trial(url: str, folder: Path, examples: int) -> Any:
    (folder / "schemathesis.toml").write_text(CONFIG)
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(folder / "schemathesis.toml"), "run"]
    arguments = [f"{url}/schema", "--header", f"Authorization: {ADMIN['Authorization']}", "--no-color", "--seed", "1"]
    arguments += ["--checks", "all", "--phases", "examples,coverage,fuzzing", "--max-examples", str(examples)]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, timeout=600, cwd=folder)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_schemathesis_finds_nothing(kind: str, bundles: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens.toml").write_text(TOKENS)
    with store_url(kind, tmp_path) as url:
        settings = Settings(bundle=str(bundles / "staged"), store=url, token_file=str(tmp_path / "tokens.toml"))
        with served(settings) as running:
            ended = trial(running.url, tmp_path, 10)
            assert ended.returncode == 0, ended.stdout[-6_000:] + ended.stderr[-2_000:]
            assert "Tested: 14" in ended.stdout
            assert running.client.get("/healthz").status_code == 200
