"""Opens COUNT connections to PORT, each asking for PATH, and hardly reads: slow_readers.py PORT PATH COUNT.

Receive buffers are small, so that what waits is held by the sidecars and not by the kernel (whose memory for TCP would end
first and slow everybody down). Prints `open` when all have the beginning of their answer; ends with standard input.
"""
import select
import socket
import sys

port, path, count = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
readers = []
for index in range(count):
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    one.settimeout(20)
    one.connect(("127.0.0.1", port))
    one.sendall(f"GET {path} HTTP/1.1\r\nhost: slow\r\n\r\n".encode())
    if not one.recv(256).startswith(b"HTTP/1.1 200"):
        sys.exit(f"reader {index} was not answered")
    readers.append(one)
print("open", flush=True)
turn = 0
while not select.select([sys.stdin], [], [], 0.1)[0]:
    for _ in range(20):
        try:
            if readers[turn % count].recv(512, socket.MSG_DONTWAIT) == b"":
                sys.exit("a reader was cut off")
        except BlockingIOError:
            pass
        turn += 1
