"""Records as a Parquet file, a row for each, for whoever asks questions of many."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from guard.errors import EnvironmentProblem
from guard.output import writing

_ROWS: Final = 4096


def export(events: Iterable[Mapping[str, Any]], path: Path) -> int:
    """Write records to a Parquet file: how many.

    Raises:
        EnvironmentProblem: pyarrow is not installed.
        DataError: the file can't be written.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra brings it
        from pyarrow import parquet  # noqa: PLC0415 - as above
    except ImportError as exc:
        raise EnvironmentProblem(
            "Parquet needs the Python package pyarrow, which is not installed. Install it, in a clone of Guard:\n"
            "  pip install '.[audit]'"
        ) from exc
    schema, written, rows = _schema(pa), 0, map(_row, events)
    some = list(itertools.islice(rows, _ROWS))  # before there is a file: without a log there shall be none
    with writing(path), parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        while some:
            writer.write_table(pa.Table.from_pylist(some, schema=schema))
            written += len(some)
            some = list(itertools.islice(rows, _ROWS))
    return written


def _schema(pa: Any) -> Any:
    text, number = pa.string(), pa.float64()
    detector = pa.struct(
        [
            ("item", text),
            ("detector", text),
            ("version", text),
            ("finding", text),
            ("score", number),
            ("p_value", number),
            ("share", number),
        ]
    )
    tensor = pa.struct([("name", text), ("datatype", text), ("shape", pa.list_(pa.int64())), ("sha256", text)])
    return pa.schema(
        [
            ("time", pa.timestamp("ms", tz="UTC")),
            *((name, text) for name in ("id", "request_id", "traceparent", "client", "client_key", "peer_ip")),
            *((name, text) for name in ("protocol", "model", "model_version", "mode")),
            *((name, text) for name in ("verdict", "intended", "decision", "reason")),
            ("p_value", number),
            ("action_id", pa.int32()),
            ("severity_id", pa.int32()),
            ("sampledrate", pa.int64()),
            ("items", pa.int64()),
            ("duration_s", number),
            ("techniques", pa.list_(text)),
            *((name, text) for name in ("policy", "profile", "fingerprint")),
            ("groups", pa.list_(text)),
            ("detectors", pa.list_(detector)),
            ("tensors", pa.list_(tensor)),
            ("dataref", text),
        ]
    )


def _row(event: Mapping[str, Any]) -> dict[str, Any]:
    """What the columns take of a record; each has the name that the record has for it."""
    data, rest = event["data"], event["data"]["unmapped"]["guard"]
    attacks = (each.get("sub_technique", each["technique"])["uid"] for each in data.get("attacks", ()))
    return {
        **{name: value for name, value in event.items() if name not in {"time", "data"}},
        **rest,
        "time": datetime.fromisoformat(event["time"]),
        "client": rest["client"]["pseudonym"],
        "client_key": rest["client"]["key"],
        "peer_ip": rest.get("peer", {}).get("ip"),
        "action_id": data["action_id"],
        "severity_id": data["severity_id"],
        "techniques": list(attacks),
        "detectors": [
            {"item": item["name"], **said} for item in data["evidences"] for said in item["data"]["detectors"]
        ],
    }
