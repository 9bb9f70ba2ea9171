"""Works with a Jupyter server as a notebook page does: a session by REST, its kernel's channels by WebSocket."""

import json
import sys
import time
import uuid

import requests
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

IDLE_SECONDS = 60


def send(socket, kind: str, content: dict, channel: str = "shell") -> str:
    header = {"msg_id": uuid.uuid4().hex, "msg_type": kind, "username": "u", "session": "s", "version": "5.4", "date": ""}
    message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": channel}
    socket.send(json.dumps({**message, "buffers": []}))
    return header["msg_id"]


def execute(socket, code: str, started=None) -> dict:
    """Runs a cell; what it printed and how it ended. `started` is called when the kernel says that it is busy."""
    wanted = send(socket, "execute_request", {"code": code, "silent": False, "store_history": True})
    # The reply and the end of the output come by two channels, in either order.
    printed, status, idle = [], None, False
    while status is None or not idle:
        message = json.loads(socket.recv(timeout=60))
        if message["parent_header"].get("msg_id") != wanted:
            continue
        kind, content = message["header"]["msg_type"], message["content"]
        if kind == "stream":
            printed.append(content["text"])
            if started:
                started()
                started = None
        elif kind == "execute_reply":
            status = content["status"]
        elif kind == "status" and content["execution_state"] == "idle":
            idle = True
    return {"status": status, "text": "".join(printed)}


def main(url: str, token: str, stranger: str) -> dict:
    http = requests.Session()
    http.headers["Authorization"] = f"token {token}"
    result: dict = {"kernels": http.get(f"{url}/api/status").json()["kernels"]}
    kernel = {"name": "python3"}
    session = http.post(
        f"{url}/api/sessions", json={"path": "a.ipynb", "type": "notebook", "name": "a", "kernel": kernel}
    ).json()
    kernel_id = session["kernel"]["id"]
    headers = {"Authorization": f"token {token}"}
    channels = f"/api/kernels/{kernel_id}/channels?session_id={uuid.uuid4().hex}"
    with connect(
        url.replace("http", "ws") + channels, additional_headers=headers, max_size=1 << 26, proxy=None, ping_interval=None
    ) as socket:
        result["first"] = execute(socket, "print(6 * 7)")
        large = execute(socket, "print('x' * 5_000_000)")
        result["large"] = len(large["text"])
        interrupt = lambda: http.post(f"{url}/api/kernels/{kernel_id}/interrupt")  # noqa: E731
        result["interrupted"] = execute(
            socket, "import time\nprint('on', flush=True)\ntime.sleep(120)", interrupt
        )["status"]
        time.sleep(IDLE_SECONDS)
        result["afterSilence"] = execute(socket, "print('still ' + 'here')")["text"]

    terminal = http.post(f"{url}/api/terminals")
    result["terminal"] = [terminal.status_code, terminal.json().get("reason")]
    try:
        connect(url.replace("http", "ws") + "/terminals/websocket/1", additional_headers=headers, proxy=None)
        result["terminalSocket"] = 101
    except InvalidStatus as error:
        result["terminalSocket"] = error.response.status_code
    try:
        connect(stranger.replace("http", "ws") + channels, additional_headers=headers, proxy=None)
        result["stranger"] = 101
    except InvalidStatus as error:
        result["stranger"] = error.response.status_code
    result["deleted"] = http.delete(f"{url}/api/sessions/{session['id']}").status_code
    return {**result, "kernelId": kernel_id}


print(json.dumps(main(*sys.argv[1:4])))
