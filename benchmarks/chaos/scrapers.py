"""Readers of the metrics: `python -m benchmarks.chaos.scrapers HOST:PORT NUMBER`, until standard input ends."""

from __future__ import annotations

import asyncio
import sys


async def _scraper(address: str, offset_s: float) -> None:
    """Read the metrics once a second, each time on a new connection."""
    host, _, port = address.rpartition(":")
    await asyncio.sleep(offset_s)
    while True:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /metrics HTTP/1.0\r\nHost: guard\r\n\r\n")
        if not (await reader.read()).startswith((b"HTTP/1.0 200", b"HTTP/1.1 200")):
            raise RuntimeError("the metrics were not served")
        writer.close()
        await asyncio.sleep(1.0)


async def _main(address: str, number: str) -> None:
    scrapers = [asyncio.ensure_future(_scraper(address, each / int(number))) for each in range(int(number))]
    until = asyncio.ensure_future(asyncio.to_thread(sys.stdin.read))
    done, _ = await asyncio.wait({*scrapers, until}, return_when=asyncio.FIRST_COMPLETED)
    for each in done:
        each.result()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
