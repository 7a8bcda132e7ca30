"""Says which fields of the InferenceServices on standard input KServe's own models don't know. Runs in .venv-kserve."""

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import kserve.models  # type: ignore[import-not-found]
import kubernetes.client  # type: ignore[import-not-found]


def unknown(value: Any, kind: str, where: str) -> Iterator[str]:
    """Paths of unknown fields in a value of a kind, as the models name kinds: `list[V1Container]`, `dict(str, str)`."""
    if listed := re.fullmatch(r"list\[(.+)\]", kind):
        for number, each in enumerate(value):
            yield from unknown(each, listed[1], f"{where}[{number}]")
        return
    model = getattr(kserve.models, kind, None) or getattr(kubernetes.client, kind, None)
    if model is None:
        return
    names = {wire: name for name, wire in model.attribute_map.items()}
    for field, inner in value.items():
        if field in names:
            yield from unknown(inner, model.openapi_types[names[field]], f"{where}.{field}")
        else:
            yield f"{where}.{field}"


if __name__ == "__main__":
    json.dump(list(unknown(json.load(sys.stdin), "V1beta1InferenceService", "")), sys.stdout)
