"""Infers as a client of Triton or KServe does: single calls, a stream, models that policy keeps from this caller."""

import json
import queue
import sys

import grpc
import numpy as np
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException

LARGE = 4_000_000


def tensor(count: int) -> triton.InferInput:
    made = triton.InferInput("IN", [count], "FP32")
    made.set_data_from_numpy(np.arange(count, dtype=np.float32))
    return made


def refusal(call) -> dict:
    try:
        call()
        return {"status": "OK"}
    except InferenceServerException as error:
        return {"status": error.status(), "message": error.message()}
    except grpc.RpcError as error:
        details = b"".join(value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin")
        return {
            "status": f"StatusCode.{error.code().name}",
            "message": error.details(),
            "domain": b"countersign.dev" in details,
            "reason": b"NO_MATCHING_ALLOW" in details,
        }


def request(model: str, numbers: int = 4, name: str = "") -> pb.ModelInferRequest:
    made = pb.ModelInferRequest(model_name=model, id=name)
    made.inputs.add(name="IN", datatype="FP32", shape=[numbers])
    made.raw_input_contents.append(np.ones(numbers, dtype=np.float32).tobytes())
    return made


def streamed(stub, models: list) -> dict:
    """How many answers came before the stream ended, and how it ended."""
    answers = 0

    def consume() -> None:
        nonlocal answers
        for _ in stub.ModelStreamInfer(iter([request(model) for model in models]), timeout=60):
            answers += 1

    return {**refusal(consume), "answers": answers}


def through_library(client) -> list:
    """A stream of Triton's own client, which runs in a thread of its own."""
    results = queue.Queue()
    client.start_stream(callback=lambda result, error: results.put((result, error)))
    for _ in range(10):
        client.async_stream_infer("fraud-v1", [tensor(8)])
    sums = []
    for _ in range(10):
        result, error = results.get(timeout=60)
        sums.append(str(error) if error else float(result.as_numpy("OUT").sum()))
    client.stop_stream()
    return sums


def main(friend: str, stranger: str, large_only: bool) -> dict:
    client = triton.InferenceServerClient(friend)
    if large_only:
        doubled = client.infer("fraud-v1", [tensor(LARGE)]).as_numpy("OUT")
        return {"large": bool((doubled == np.arange(LARGE, dtype=np.float32) * 2).all())}
    channel = grpc.insecure_channel(friend)
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    outside = service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(stranger))
    return {
        "live": client.is_server_live(),
        "large": refusal(lambda: client.infer("fraud-v1", [tensor(LARGE)])),
        "compressed": refusal(lambda: client.infer("fraud-v1", [tensor(1000)], compression_algorithm="gzip")),
        "library": through_library(client),
        "stream": streamed(stub, ["fraud-v1", "fraud-v2", "fraud-v1"]),
        "streamOfSecret": streamed(stub, ["fraud-v1", "secret", "fraud-v1"]),
        "secret": refusal(lambda: client.infer("secret", [tensor(8)])),
        "details": refusal(lambda: stub.ModelInfer(request("secret"))),
        "unload": refusal(lambda: client.unload_model("fraud-v1")),
        "deadline": refusal(lambda: stub.ModelInfer(request("fraud-v1", name="sleep"), timeout=0.5)),
        "stranger": refusal(lambda: outside.ServerLive(pb.ServerLiveRequest())),
    }


print(json.dumps(main(sys.argv[1], sys.argv[2], "large" in sys.argv)))
