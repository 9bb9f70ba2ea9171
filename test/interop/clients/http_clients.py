"""What `requests` or `httpx` makes of plain HTTP across the mesh; `httpx` may speak HTTP/2, but not in the clear."""

import hashlib
import json
import sys

import httpx
import requests

SIZE = 20_000_003


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def parts(data: bytes):
    for start in range(0, len(data), 100_000):
        yield data[start : start + 100_000]


def with_requests(url: str) -> dict:
    session = requests.Session()
    data = session.get(f"{url}/files/{SIZE}").content
    sized = session.put(f"{url}/upload", data=data).json()
    chunked = session.put(f"{url}/upload", data=parts(data)).json()
    ranged = session.get(f"{url}/files/{SIZE}", headers={"range": "bytes=1000-1999"})
    head = session.head(f"{url}/files/{SIZE}")
    unchanged = session.get(f"{url}/files/{SIZE}", headers={"if-none-match": head.headers["etag"]})
    empty = session.delete(f"{url}/empty")
    denied = session.get(f"{url}/secret")
    pools = session.get_adapter(url).poolmanager.pools
    opened = sum(pools.get(key).num_connections for key in pools.keys())
    return report(data, sized, chunked, ranged, head, unchanged, empty, denied, opened)


def with_httpx(url: str) -> dict:
    opened = []

    def trace(event: str, _info: dict) -> None:
        if event == "connection.connect_tcp.complete":
            opened.append(event)

    with httpx.Client(http2=True, timeout=60) as client:
        extensions = {"trace": trace}
        data = client.get(f"{url}/files/{SIZE}", extensions=extensions).content
        sized = client.put(f"{url}/upload", content=data, extensions=extensions).json()
        chunked = client.put(f"{url}/upload", content=parts(data), extensions=extensions).json()
        ranged = client.get(f"{url}/files/{SIZE}", headers={"range": "bytes=1000-1999"}, extensions=extensions)
        head = client.head(f"{url}/files/{SIZE}", extensions=extensions)
        unchanged = client.get(
            f"{url}/files/{SIZE}", headers={"if-none-match": head.headers["etag"]}, extensions=extensions
        )
        empty = client.delete(f"{url}/empty", extensions=extensions)
        denied = client.get(f"{url}/secret", extensions=extensions)
    return report(data, sized, chunked, ranged, head, unchanged, empty, denied, len(opened))


def report(data, sized, chunked, ranged, head, unchanged, empty, denied, connections) -> dict:
    return {
        "download": sha256(data),
        "upload": sized["sha256"],
        "chunked": chunked["sha256"],
        "range": [ranged.status_code, ranged.headers["content-range"], sha256(ranged.content)],
        "head": [head.status_code, int(head.headers["content-length"]), len(head.content)],
        "unchanged": [unchanged.status_code, len(unchanged.content)],
        "empty": [empty.status_code, len(empty.content)],
        "denied": [denied.status_code, denied.json()["reason"]],
        "connections": connections,
    }


print(json.dumps({"requests": with_requests, "httpx": with_httpx}[sys.argv[1]](sys.argv[2])))
