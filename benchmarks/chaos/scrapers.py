"""Readers of the metrics: `python -m benchmarks.chaos.scrapers HOST:PORT NUMBER`, until standard input ends.

They say what `benchmarks.chaos.attacks` says, which is under way once all have read.
"""

from __future__ import annotations

import asyncio
import json
import sys

from benchmarks.chaos.attacks import say, until_told

_read: list[int] = []
_all_have = asyncio.Event()


async def _scraper(address: str, number: int, of: int) -> None:
    """Read the metrics once a second, each time on a new connection."""
    host, _, port = address.rpartition(":")
    await asyncio.sleep(number / of)
    while True:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /metrics HTTP/1.0\r\nHost: guard\r\n\r\n")
        if not (await reader.read()).startswith((b"HTTP/1.0 200", b"HTTP/1.1 200")):
            raise RuntimeError("the metrics were not served")
        writer.close()
        _read.append(number)
        if len(_read) >= of and len(set(_read)) == of:
            _all_have.set()
        await asyncio.sleep(1.0)


async def _scrape(address: str, number: int) -> None:
    await asyncio.gather(*(_scraper(address, each, number) for each in range(number)))


async def _main(address: str, number: str) -> None:
    await until_told(_scrape(address, int(number)), _all_have)
    say(json.dumps({"read": len(_read), "readers": len(set(_read))}))


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
