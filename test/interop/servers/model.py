"""A stand-in for a model server that speaks the OpenAI protocol: counts words instead of thinking. Prints its port.

A stream whose prompt begins with `wait` stops after its first event until GET /v1/models was asked: a client that has
seen the first event before the last was sent can show it that way.
"""

import asyncio
import json
import socket

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

asked = asyncio.Event()
WAIT_SECONDS = 20


def usage(prompt: str, words: list[str]) -> dict:
    counts = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(words)}
    return {**counts, "total_tokens": sum(counts.values())}


def chunk(model: str, choices: list, **more: object) -> str:
    event = {"id": "chat-1", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": choices, **more}
    return f"data: {json.dumps(event)}\n\n"


async def events(body: dict, prompt: str, words: list[str]):
    model = body["model"]
    if prompt.startswith("wait"):
        asked.clear()
    for index, word in enumerate(words):
        yield chunk(model, [{"index": 0, "delta": {"role": "assistant", "content": word + " "}, "finish_reason": None}])
        if index == 0 and prompt.startswith("wait"):
            await asyncio.wait_for(asked.wait(), WAIT_SECONDS)
    yield chunk(model, [{"index": 0, "delta": {}, "finish_reason": "stop"}])
    if body.get("stream_options", {}).get("include_usage"):
        yield chunk(model, [], usage=usage(prompt, words))
    yield "data: [DONE]\n\n"


async def chat(request: Request):
    body = await request.json()
    prompt = body["messages"][-1]["content"]
    words = [f"word-{n}" for n in range(int(prompt.split()[-1]))]
    if body.get("stream"):
        return StreamingResponse(events(body, prompt, words), media_type="text/event-stream")
    message = {"role": "assistant", "content": " ".join(words)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return JSONResponse(
        {
            "id": "chat-1",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [choice],
            "usage": usage(prompt, words),
        }
    )


async def models(_request: Request):
    asked.set()
    return JSONResponse({"object": "list", "data": [{"id": "llama-3", "object": "model", "created": 1, "owned_by": "us"}]})


app = Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"]), Route("/v1/models", models)])
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1])
uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
