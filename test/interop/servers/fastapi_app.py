"""A model behind FastAPI, as anybody writes one: it asks a feature store, with httpx or, in a thread, with requests.

It knows nothing of the mesh, of users or of tracing.
"""

import os

import httpx
import requests
from fastapi import BackgroundTasks, FastAPI, Request, Response

STORE = os.environ["STORE_URL"]

app = FastAPI()
store = httpx.AsyncClient(limits=httpx.Limits(max_connections=32))
session = requests.Session()
heads: dict[str, dict[str, str]] = {}
failed: set[str] = set()


async def remember(request: Request) -> None:
    heads[request.path_params["id"]] = dict(request.headers)


async def features(path: str, response: Response) -> dict:
    answer = await store.get(f"{STORE}{path}")
    response.status_code = answer.status_code
    return {"status": answer.status_code}


@app.get("/score/{id}")
async def score(id: str, request: Request, response: Response):
    await remember(request)
    return await features(f"/features/{id}", response)


@app.get("/threaded/{id}")
def threaded(id: str, response: Response):
    answer = session.get(f"{STORE}/features/{id}")
    response.status_code = answer.status_code
    return {"status": answer.status_code}


@app.get("/flaky/{id}")
async def flaky(id: str, response: Response):
    if id not in failed:
        failed.add(id)
        response.status_code = 503
        return {"status": 503}
    return await features(f"/features/{id}", response)


async def note(id: str) -> None:
    await store.get(f"{STORE}/features/{id}.noted")


@app.get("/noted/{id}")
async def noted(id: str, tasks: BackgroundTasks):
    """The answer is sent before the work is done."""
    tasks.add_task(note, id)
    return {}


@app.get("/heads")
async def all_heads():
    return heads
