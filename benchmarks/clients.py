"""Clients of a server, in a process of their own: as lean as can be, so that they take little from the server's cores.

python -m benchmarks.clients PORT BODY

Each line of the standard input is a number of streams to ask for at once; the answer is a line of JSON: seconds in all,
and of each stream the seconds to its first text and its tokens. ``BODY`` is a list of request bodies, taken in turn.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any


async def ask(port: int, body: Any) -> tuple[float, int]:
    """Seconds to the first text, and tokens, of one stream."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(content)}\r\n"
    )
    writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + content)
    begun, first, tail = time.perf_counter(), 0.0, b""
    while piece := await reader.read(65536):
        tail = (tail + piece)[-65536:]
        first = first or (time.perf_counter() - begun if b"data: {" in piece else 0.0)
    writer.close()
    usage = next(line for line in reversed(tail.splitlines()) if b'"completion_tokens"' in line)
    return first, json.loads(usage.removeprefix(b"data: "))["usage"]["completion_tokens"]


async def main() -> None:
    """Ask whenever told to."""
    port, bodies = int(sys.argv[1]), json.loads(sys.argv[2])
    for line in sys.stdin:
        begun = time.perf_counter()
        found = await asyncio.gather(*[ask(port, bodies[i % len(bodies)]) for i in range(int(line))])
        print(json.dumps([time.perf_counter() - begun, found]), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
