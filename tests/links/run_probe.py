"""The probing part of a node process: answers probes, and measures what it is told to on stdin.

    python -m tests.links.run_probe HOST PORT

One JSON object a line comes in, one answer a line goes out:

    {"peer": {...PeerLink...}, "measures": [...], "deadline": seconds}   the LinkReading
    {"address": host, "count": n, "every_ms": ms}                        the round trips in ms
"""

from __future__ import annotations

import asyncio
import json
import struct
import sys
from typing import Any

from node.config import PeerLink, from_json, to_json
from node.core.ids import NodeId
from node.links import ping
from node.links.probes import ProbeServer, measure
from node.units import MILLISECOND, SECOND


async def answer(me: NodeId, wanted: dict[str, Any]) -> str:
    if "address" in wanted:
        trips = await ping.round_trips(
            (wanted["address"], 1),
            count=wanted["count"],
            every_ns=round(wanted["every_ms"] * MILLISECOND),
            patience_ns=SECOND,
            datagram=struct.Struct("!QI"),
            head=b"",
        )
        return json.dumps([trip / MILLISECOND for trip in trips])
    reading = await measure(
        from_json(PeerLink, json.dumps(wanted["peer"])),
        measures=wanted["measures"],
        me=me,
        deadline=wanted["deadline"],
    )
    return to_json(reading)


async def main(host: str, port: int) -> None:
    server = ProbeServer(host, port)
    await server.start()
    print("ready", flush=True)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    while line := await lines.readline():
        print(await answer(NodeId(host), json.loads(line)), flush=True)
    await server.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
