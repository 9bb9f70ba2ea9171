"""A hostile HTTP/2 server behind a caller's sidecar: mutual TLS with svid.pem, key.pem and ca.pem of a directory, and what it
does to a request is named by the last segment of its path. Prints its port. hostile_h2.py DIRECTORY
"""
import socket
import ssl
import struct
import sys
import threading

from hpack import Decoder, Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
)

SMUGGLED = b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nsmuggled"


def raw(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


class Connection:
    def __init__(self, sock):
        self.sock = sock
        self.encoder = Encoder()
        self.decoder = Decoder()
        self.decoder.max_header_list_size = 1 << 20

    def head(self, stream, fields, end=False):
        flags = ["END_HEADERS"] + (["END_STREAM"] if end else [])
        return HeadersFrame(stream, self.encoder.encode(fields, huffman=False), flags=flags).serialize()

    def body(self, stream, data, end=True):
        return DataFrame(stream, data, flags=["END_STREAM"] if end else []).serialize()

    def flood(self, make, count):
        for at in range(0, count, 100):
            self.sock.sendall(b"".join(make(i) for i in range(at, at + 100)))

    def serve(self):
        self.sock.sendall(SettingsFrame(settings={3: 100}).serialize())
        buffer = b""
        preface = 24
        while True:
            data = self.sock.recv(65536)
            if data == b"":
                return
            if preface > 0:
                cut = min(preface, len(data))
                preface -= cut
                data = data[cut:]
            buffer += data
            while len(buffer) >= 9:
                frame, length = Frame.parse_frame_header(memoryview(buffer[:9]))
                if len(buffer) < 9 + length:
                    break
                frame.parse_body(memoryview(buffer[9 : 9 + length]))
                buffer = buffer[9 + length :]
                self.take(frame)

    def take(self, frame):
        if isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
            self.sock.sendall(SettingsFrame(flags=["ACK"]).serialize())
        elif isinstance(frame, PingFrame) and "ACK" not in frame.flags:
            self.sock.sendall(PingFrame(0, frame.opaque_data, flags=["ACK"]).serialize())
        elif isinstance(frame, HeadersFrame):
            fields = dict(self.decoder.decode(frame.data))
            self.answer(frame.stream_id, str(fields[":path"]).rsplit("/", 1)[1])

    def answer(self, s, what):
        ok = [(":status", "200")]
        send = self.sock.sendall
        if what == "valid":
            send(self.head(s, ok + [("content-length", "5")]) + self.body(s, b"hello"))
        elif what == "looks_like_an_answer":
            send(self.head(s, ok) + self.body(s, SMUGGLED))
        elif what == "no_status":
            send(self.head(s, [("x", "y")], True))
        elif what == "bad_status":
            send(self.head(s, [(":status", "2000")], True))
        elif what == "crlf_in_a_value":
            send(self.head(s, ok + [("x", "a\r\n\r\n" + SMUGGLED.decode())], True))
        elif what == "lf_in_a_name":
            send(self.head(s, ok + [("x\ncontent-length", "0")], True))
        elif what == "colon_in_a_name":
            send(self.head(s, ok + [("content-length: 0\r\nx", "y")], True))
        elif what == "capital_name":
            send(self.head(s, ok + [("X-Up", "y")], True))
        elif what == "transfer_encoding":
            send(self.head(s, ok + [("transfer-encoding", "chunked")]) + self.body(s, b"0\r\n\r\n" + SMUGGLED))
        elif what == "two_lengths":
            send(self.head(s, ok + [("content-length", "5"), ("content-length", "50")]) + self.body(s, b"hello"))
        elif what == "short_body":
            send(self.head(s, ok + [("content-length", "50")]) + self.body(s, b"hello"))
        elif what == "long_body":
            send(self.head(s, ok + [("content-length", "5")]) + self.body(s, b"hello" + SMUGGLED))
        elif what == "body_with_204":
            send(self.head(s, [(":status", "204")]) + self.body(s, SMUGGLED))
        elif what == "body_before_its_head":
            send(self.body(s, b"hello"))
        elif what == "push":
            send(raw(5, 4, s, struct.pack(">I", 2) + self.encoder.encode([(":method", "GET")])))
        elif what == "pseudo_trailers":
            send(self.head(s, ok) + self.body(s, b"hello", False) + self.head(s, [(":status", "200")], True))
        elif what == "framing_trailers":
            send(self.head(s, ok) + self.body(s, b"hello", False) + self.head(s, [("content-length", "5")], True))
        elif what == "informational_flood":
            self.flood(lambda _: self.head(s, [(":status", "103")]), 20_000)
        elif what == "switch":
            send(self.head(s, [(":status", "101")]))
        elif what == "list_bomb":
            self.encoder.header_table_size = 65_536
            send(self.head(s, [(":status", "103"), ("x-big", "a" * 4_000)]))
            block = self.encoder.encode(ok) + bytes([0x80 | 62]) * 10_000
            send(HeadersFrame(s, block, flags=["END_HEADERS", "END_STREAM"]).serialize())
        elif what == "continuations":
            send(HeadersFrame(s, self.encoder.encode(ok)).serialize())
            self.flood(lambda _: ContinuationFrame(s, b"\x00\x01a\x01b" * 1_000).serialize(), 1_000)
        elif what == "empty_data":
            send(self.head(s, ok))
            self.flood(lambda _: self.body(s, b"", False), 20_000)
        elif what == "settings_flood":
            self.flood(lambda _: SettingsFrame(settings={4: 65_535}).serialize(), 20_000)
        elif what == "ping_flood":
            self.flood(lambda i: PingFrame(0, struct.pack(">Q", i)).serialize(), 20_000)
        elif what == "window_overflow":
            send(raw(8, 0, 0, struct.pack(">I", 0x7FFFFFFF)) * 2)
        elif what == "window_of_zero":
            send(raw(8, 0, s, struct.pack(">I", 0)))
        elif what == "other_stream":
            send(self.head(s + 100, ok, True))
        elif what == "even_stream":
            send(self.head(2, ok, True))
        elif what == "reset":
            send(RstStreamFrame(s, error_code=2).serialize())
        elif what == "goaway_at_once":
            send(GoAwayFrame(0, last_stream_id=0, error_code=0).serialize())
            self.sock.close()
        elif what == "cut":
            send(self.head(s, ok + [("content-length", "50")]) + self.body(s, b"hello", False))
            self.sock.close()
        elif what == "cut_without_a_length":
            send(self.head(s, ok) + self.body(s, b"hello", False))
            self.sock.close()
        elif what == "garbage":
            send(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nsmuggled")
        elif what == "data_behind_its_end":
            send(self.head(s, ok + [("content-length", "5")]) + self.body(s, b"hello") + self.body(s, SMUGGLED))


def handle(sock):
    try:
        Connection(sock).serve()
    except (OSError, ValueError, ssl.SSLError):
        pass
    finally:
        sock.close()


def main():
    directory = sys.argv[1]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{directory}/svid.pem", f"{directory}/key.pem")
    context.load_verify_locations(f"{directory}/ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    print(listener.getsockname()[1], flush=True)
    while True:
        plain, _ = listener.accept()

        def start(one=plain):
            try:
                handle(context.wrap_socket(one, server_side=True))
            except (OSError, ssl.SSLError):
                one.close()

        threading.Thread(target=start, daemon=True).start()


main()
