"""The table: each fault, what is expected, and what tries it."""

from __future__ import annotations

from typing import Final

from benchmarks.chaos import cancels, connections, detectors, evidence, overload, restart, sizes, soak, upstream
from benchmarks.chaos.table import Elsewhere, Row

_BESIDE: Final = "others' requests answered, their p99 rises <= 10 %; CPU bounded; nothing left behind"

ROWS: Final = (
    Row(
        "restart",
        "rolling restart of two Guards under steady load",
        "0 lost requests",
        restart.rolling_restart,
        2,
        10,
        "restarts",
    ),
    Row(
        "stopped",
        "upstream stopped (SIGSTOP), `upstream.unresponsive_s: 0.8` (4 by default)",
        "UNAVAILABLE within 1 s; deadlines honoured, breaker opens, in-flight bounded; recovers alone",
        upstream.stopped,
        6,
        30,
        "s",
    ),
    Row(
        "killed",
        "upstream killed, and started again",
        "UNAVAILABLE within 1 s; in-flight bounded; recovers alone",
        upstream.killed,
        4,
        30,
        "s",
    ),
    Row(
        "overload",
        "10x overload of an engine that screens by a ResNet-20",
        "RSS within limit, RESOURCE_EXHAUSTED p99 <= 50 ms, goodput >= 80 % of peak, normal again within 30 s",
        overload.overload,
        2,
        600,
        "s",
    ),
    Row(
        "sizes",
        "message over the limit, compression bomb",
        "RESOURCE_EXHAUSTED, RSS rise <= 2x the limit",
        sizes.oversized,
        1,
        5,
        "rounds",
    ),
    Row("half-open", "1,000 half-open connections", _BESIDE, connections.half_open, 0.5, 20, "s a turn"),
    Row(
        "loris",
        "slow loris: 1,000 requests, a byte a second",
        _BESIDE,
        connections.loris,
        0.5,
        20,
        "s a turn",
    ),
    Row("reset", "rapid reset, 1,000 a second", _BESIDE, connections.resets, 0.5, 20, "s a turn"),
    Row("ping", "ping flood, 2,000 a second", _BESIDE, connections.pings, 0.5, 20, "s a turn"),
    Row(
        "cancels",
        "50 % of clients cancel",
        "each cancel of a request that the upstream has reaches it, where policy says so; no leak",
        cancels.cancelled,
        500,
        100_000,
        "requests",
    ),
    Row(
        "detectors",
        "a detector raises, hangs, returns NaN; the engine thread dies",
        "policy applied (fail closed in enforce), counted; liveness fails only if it can't recover",
        detectors.faulty,
        0.5,
        60,
        "s of hanging",
    ),
    Row(
        "audit",
        "audit disk full",
        "requests unaffected; records lost are counted, and the log goes on when there is room",
        evidence.disk_full,
        0.5,
        20,
        "s a turn",
    ),
    Row("scraped", "metrics port scraped by 50", "requests unaffected", connections.scraped, 0.5, 20, "s a turn"),
    Row(
        "soak",
        "soak with churning clients and models",
        "RSS slope < 5 MB/h after warm-up, fds flat; a planted leak shows",
        soak.soak,
        5,
        1800,
        "s",
    ),
)

ELSEWHERE: Final = (
    Elsewhere(
        "1,000,000 mutated protobufs and JSON bodies",
        "no crash, INVALID_ARGUMENT, memory < 100x input",
        "`make fuzz` ([fuzz.json](fuzz.json)); short: tests/wire/test_fuzz.py",
    ),
    Elsewhere(
        "negative, huge or overflowing dims, shape/byte mismatch",
        "refused before allocation",
        "tests/wire/test_message.py, tests/decode/test_tensors.py, tests/wire/rest/test_bounds.py, and `make fuzz`",
    ),
    Elsewhere(
        "wrong, expired, foreign-CA certificates; plaintext on TLS",
        "refused",
        "tests/wire/test_tls_listen.py, tests/wire/test_tls_upstream.py",
    ),
    Elsewhere(
        "invalid policy or profile on reload",
        "old kept, metric and log",
        "tests/app/test_reload.py, tests/cli/test_reload.py",
    ),
    Elsewhere("HTTP clients that are slow, or send too much", "cut off, 413", "tests/wire/rest/test_bounds.py"),
    Elsewhere("soak of the engine alone at 80 % load", "RSS slope < 5 MB/h", "`make soak` ([soak.json](soak.json))"),
)
