"""A stand-in for a model server of the Open Inference Protocol (KServe v2) over gRPC: doubles numbers. Prints its port."""

import time
from concurrent import futures

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

SLEEP_SECONDS = 5


def infer(request) -> pb.ModelInferResponse:
    numbers = np.frombuffer(request.raw_input_contents[0], dtype=np.float32) * 2
    answer = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
    answer.outputs.add(name="OUT", datatype="FP32", shape=[len(numbers)])
    answer.raw_output_contents.append(numbers.tobytes())
    return answer


class Server(service_pb2_grpc.GRPCInferenceServiceServicer):
    def ServerLive(self, request, context):
        return pb.ServerLiveResponse(live=True)

    def ModelInfer(self, request, context):
        if request.id == "sleep":
            time.sleep(SLEEP_SECONDS)
        return infer(request)

    def ModelStreamInfer(self, requests, context):
        for request in requests:
            yield pb.ModelStreamInferResponse(infer_response=infer(request))


MOST_BYTES = 64 << 20
server = grpc.server(
    futures.ThreadPoolExecutor(8),
    options=[("grpc.max_receive_message_length", MOST_BYTES), ("grpc.max_send_message_length", MOST_BYTES)],
)
service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Server(), server)
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
server.wait_for_termination()
