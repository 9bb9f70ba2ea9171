"""Python's `websockets` against a server that does what it is told to, see servers/ws-app.ts."""

import asyncio
import json
import os
import sys
import urllib.request

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

CLOSES = [(1000, "done"), (1001, ""), (1008, "policy"), (1011, "ü"), (3000, "x" * 123), (4999, "own")]


async def ended(socket) -> list:
    try:
        while True:
            await socket.recv()
    except ConnectionClosed:
        await socket.wait_closed()
        return [socket.close_code, socket.close_reason]


async def status_of(url: str) -> int:
    try:
        async with connect(url, proxy=None):
            return 101
    except InvalidStatus as error:
        return error.response.status_code


def seen(url: str) -> list:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return json.loads(opener.open(url.replace("ws:", "http:") + "/seen", timeout=60).read())


async def main(url: str, stranger: str) -> dict:
    result: dict = {}
    options = {"proxy": None, "max_size": 1 << 26, "ping_interval": None}
    async with connect(f"{url}/echo", subprotocols=["v1.echo", "v2.echo"], **options) as socket:
        result["subprotocol"] = socket.subprotocol
        result["compressed"] = "permessage-deflate" in socket.response.headers.get("Sec-WebSocket-Extensions", "")
        echoes = []
        for message in ["", "text with ü and \u2028", b"", b"\x00\xff" * 40_000, os.urandom(5_000_000), "a" * 5_000_000]:
            await socket.send(message)
            echoes.append(await socket.recv() == message)
        result["echoes"] = all(echoes)
        await socket.send(f"piece {n} " for n in range(50))
        result["fragmented"] = await socket.recv() == "".join(f"piece {n} " for n in range(50))
        await socket.send("fragments 40")
        frames = [frame async for frame in socket.recv_streaming()]
        result["fragments"] = [len(frames), "".join(frames) == "".join(f"part-{n} " for n in range(40))]
        result["latency"] = await (await socket.ping("from-client")) >= 0
        await socket.send("ping from-server")
        result["ponged"] = await socket.recv()
        count = 2000
        sent = asyncio.create_task(send_all(socket, count))
        result["ordered"] = [await socket.recv() for _ in range(count)] == [str(n) for n in range(count)]
        await sent

    result["serverCloses"] = []
    for code, reason in CLOSES:
        async with connect(f"{url}/close", compression=None, **options) as socket:
            await socket.send(f"close {code} {reason}"[:100] if len(reason) < 80 else f"close {code} {reason[:80]}")
            result["serverCloses"].append(await ended(socket))
    before = len(seen(url))
    for code, reason in CLOSES:
        async with connect(f"{url}/close", **options) as socket:
            await socket.close(code, reason)
    async with connect(f"{url}/close", **options) as socket:
        socket.transport.abort()
    for _ in range(1_200):
        endings = seen(url)[before:]
        if len(endings) > len(CLOSES):
            break
        await asyncio.sleep(0.05)
    result["clientCloses"] = [[one["code"], one["reason"]] for one in endings]
    async with connect(f"{url}/close", **options) as socket:
        await socket.send("terminate")
        result["terminated"] = (await ended(socket))[0]
    result["refused"] = await status_of(f"{url}/refused")
    result["stranger"] = await status_of(f"{stranger}/echo")
    return result


async def send_all(socket, count: int) -> None:
    for n in range(count):
        await socket.send(str(n))


print(json.dumps(asyncio.run(main(sys.argv[1], sys.argv[2]))))
