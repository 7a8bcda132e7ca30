"""The JSON Schema that is shipped for editors and pipelines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from guard.config_file import json_schema

SHIPPED = Path(__file__).parents[2] / "deploy" / "policy.schema.json"

GOOD = [
    "models: {a: {profile: p, model: m.onnx}}",
    "models: {a: {profile: p, replica: upstream}}",
    "models: {a: {profile: p, replica: onnx, model: m, mode: enforce, false_positive_rate: 0.05}}",
    "{unlisted_models: pass, upstream: {address: 'unix:/run/s'}, listen: {address: '[::]:1', admin_address: 'h:2'}}",
    "{unlisted_models: pass, noise_secret_file: null, limits: {max_batch_items: 1}}",
    "{unlisted_models: pass, audit: {folder: log, pseudonym_key_file: k, forwards: 0, captures: {key_file: c}}}",
    "{unlisted_models: pass, console: {enabled: true, token_file: token, keep: 10}}",
    "{unlisted_models: pass, query_store: {url: 'rediss://guard@store:6379/1', timeout_s: 0.5}}",
]
BAD = {
    "unknown key": "{models: {}, colour: red}",
    "unknown key in a model": "models: {a: {profile: p, model: m, colour: red}}",
    "missing profile": "models: {a: {model: m}}",
    "missing model": "models: {a: {profile: p}}",
    "model without value": "models: {a: {profile: p, model: null}}",
    "wrong enum": "models: {a: {profile: p, model: m, mode: loud}}",
    "wrong type": "limits: {max_batch_items: many}",
    "out of range": "models: {a: {profile: p, model: m, false_positive_rate: 1}}",
    "malformed address": "listen: {address: localhost}",
    "malformed upstream": "upstream: {address: 'http://triton:8001'}",
    "malformed store": "query_store: {url: 'redis://:password@store'}",
    "too much to keep": "console: {keep: 0}",
    "not a mapping": "[]",
}


@pytest.fixture
def schema() -> dict[str, Any]:
    """The schema as it is shipped."""
    loaded: dict[str, Any] = json.loads(SHIPPED.read_text())
    return loaded


def test_the_shipped_schema_is_up_to_date() -> None:
    """deploy/policy.schema.json is what `make schema` generates from the settings."""
    assert SHIPPED.read_text() == json.dumps(json_schema(), indent=2) + "\n", "run `make schema`"


def test_the_schema_is_one(schema: dict[str, Any]) -> None:
    """It is a valid schema of draft 2020-12, and claims no address of its own."""
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == Draft202012Validator.META_SCHEMA["$schema"]
    assert "$id" not in schema


def test_every_setting_is_described(schema: dict[str, Any]) -> None:
    """An editor can show what each key means."""
    sections = [schema, *schema["$defs"].values()]
    properties = {name: text for section in sections for name, text in section.get("properties", {}).items()}
    assert len(properties) > 15
    assert [name for name, text in properties.items() if not text.get("description")] == []


@pytest.mark.parametrize("text", GOOD)
def test_it_accepts_what_is_right(schema: dict[str, Any], text: str) -> None:
    """Files that Guard can use pass."""
    Draft202012Validator(schema).validate(yaml.safe_load(text))


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_it_refuses_what_is_wrong(schema: dict[str, Any], text: str) -> None:
    """Mistakes that a schema can know do not pass."""
    assert not Draft202012Validator(schema).is_valid(yaml.safe_load(text))
