"""A WebSocket server of Python's `websockets`, with the verbs of ws-app.ts. Prints its port; /seen gives the endings."""

import asyncio
import json
from http import HTTPStatus

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

seen: list[dict] = []


async def obey(socket, message) -> None:
    words = message.split(" ") if isinstance(message, str) and len(message) <= 100 else [""]
    if words[0] == "close":
        await socket.close(int(words[1]), " ".join(words[2:]))
    elif words[0] == "terminate":
        socket.transport.abort()
    elif words[0] == "fragments":

        async def parts():
            for n in range(int(words[1])):
                yield f"part-{n} "
                if n == 0:
                    await socket.ping("between")

        await socket.send(parts())
    elif words[0] == "ping":
        waiter = await socket.ping(words[1])
        await waiter
        await socket.send(f"pong {words[1]}")
    else:
        await socket.send(message)


async def handle(socket) -> None:
    try:
        async for message in socket:
            await obey(socket, message)
    except ConnectionClosed:
        pass
    await socket.wait_closed()
    seen.append({"code": socket.close_code, "reason": socket.close_reason})


def answer(connection, request):
    if request.path == "/seen":
        return connection.respond(HTTPStatus.OK, json.dumps(seen))
    if request.path == "/refused":
        return connection.respond(HTTPStatus.UNAUTHORIZED, "login")
    return None


async def main() -> None:
    options = {"process_request": answer, "subprotocols": ["v2.echo"], "max_size": 1 << 26, "ping_interval": None}
    async with serve(handle, "127.0.0.1", 0, **options) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


asyncio.run(main())
