"""A hostile HTTP/2 client with a valid certificate, made of hyperframe's frames and hpack's encoder.

hostile_h2.py PORT DIRECTORY ATTACK: one attack on one connection (mutual TLS with svid.pem, key.pem and ca.pem of the
directory), bounded in frames and time. Prints one line of JSON: bytes sent, the code of GOAWAY (null: none), whether the
server closed, resets and answers by code, and whether the connection still serves an honest request.
"""
import json
import socket
import ssl
import struct
import sys
import time

from hpack import Decoder, Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PATIENCE_S = 60.0


def raw(kind, flags, stream, payload):
    """A frame that hyperframe would refuse to make."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


class Peer:
    def __init__(self, port, directory, settings=None):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(f"{directory}/ca.pem")
        context.load_cert_chain(f"{directory}/svid.pem", f"{directory}/key.pem")
        context.set_alpn_protocols(["h2"])
        self.sock = context.wrap_socket(socket.create_connection(("127.0.0.1", port), 60))
        self.sock.settimeout(0.0)
        self.sent = 0
        self.goaway = None
        self.closed = False
        self.resets = {}
        self.answers = {}
        self.ended = set()
        self.body = 0
        self.pongs = 0
        self.acks = 0
        self.next = 1
        self.buffer = b""
        self.encoder = Encoder()
        self.decoder = Decoder()
        self.decoder.max_header_list_size = 1 << 20
        self.decoder.max_allowed_table_size = 1 << 32
        self.send(PREFACE + SettingsFrame(settings=settings or {}).serialize())

    def send(self, data):
        """Sends all of it, reading meanwhile; gives up when the server has closed."""
        view = memoryview(data)
        until = time.monotonic() + 30
        while len(view) > 0 and not self.closed and time.monotonic() < until:
            try:
                count = self.sock.send(view[:65536])
                self.sent += count
                view = view[count:]
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError, BlockingIOError):
                self.read(0.01)
            except OSError:
                self.closed = True
        self.read(0)

    def read(self, wait):
        until = time.monotonic() + wait
        while not self.closed:
            try:
                data = self.sock.recv(65536)
                if data == b"":
                    self.closed = True
                self.buffer += data
                self.parse()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
                if time.monotonic() >= until:
                    return
                time.sleep(0.002)
            except OSError:
                self.closed = True

    def parse(self):
        while len(self.buffer) >= 9:
            frame, length = Frame.parse_frame_header(memoryview(self.buffer[:9]))
            if len(self.buffer) < 9 + length:
                return
            frame.parse_body(memoryview(self.buffer[9 : 9 + length]))
            self.buffer = self.buffer[9 + length :]
            self.take(frame)

    def take(self, frame):
        if isinstance(frame, GoAwayFrame):
            self.goaway = frame.error_code
        elif isinstance(frame, RstStreamFrame):
            self.resets[frame.error_code] = self.resets.get(frame.error_code, 0) + 1
            self.ended.add(frame.stream_id)
        elif isinstance(frame, HeadersFrame):
            fields = dict(self.decoder.decode(frame.data))
            status = str(fields.get(":status"))
            self.answers[status] = self.answers.get(status, 0) + 1
        elif isinstance(frame, DataFrame):
            self.body += len(frame.data)
        elif isinstance(frame, PingFrame):
            if "ACK" in frame.flags:
                self.pongs += 1
        elif isinstance(frame, SettingsFrame) and "ACK" in frame.flags:
            self.acks += 1
        if "END_STREAM" in frame.flags:
            self.ended.add(frame.stream_id)

    def block(self, path="/things/a", method="GET", more=()):
        fields = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "things.ml:8080")]
        return self.encoder.encode(fields + list(more), huffman=False)

    def headers(self, end=True, **kwargs):
        """A whole request head on a new stream: (bytes, stream)."""
        stream = self.next
        self.next += 2
        flags = ["END_HEADERS"] + (["END_STREAM"] if end else [])
        return HeadersFrame(stream, self.block(**kwargs), flags=flags).serialize(), stream

    def open(self, end=True, **kwargs):
        data, stream = self.headers(end, **kwargs)
        self.send(data)
        return stream

    def flood(self, make, count, batch=200):
        """`count` times `make(i)`, until the server has had enough."""
        for at in range(0, count, batch):
            if self.closed or self.goaway is not None:
                return
            self.send(b"".join(make(i) for i in range(at, min(count, at + batch))))

    def wait(self, done, seconds=PATIENCE_S):
        until = time.monotonic() + seconds
        while not done() and not self.closed and time.monotonic() < until:
            self.read(0.02)

    def honest(self):
        """Whether an ordinary request is still served here."""
        if self.closed or self.goaway is not None:
            return False
        before = self.answers.get("200", 0)
        self.send(WindowUpdateFrame(0, window_increment=65536).serialize())
        stream = self.open(method="HEAD")
        self.wait(lambda: stream in self.ended)
        return self.answers.get("200", 0) == before + 1


def valid(peer):
    """What honest callers cost, to compare with."""
    for _ in range(40):
        peer.send(b"".join(peer.headers(method="HEAD")[0] for _ in range(100)))
        want = peer.next // 2
        peer.wait(lambda: peer.answers.get("200", 0) >= want)


def valid_bodies(peer):
    for _ in range(40):
        data = b""
        for _ in range(50):
            head, stream = peer.headers(end=False, method="POST")
            data += head + DataFrame(stream, b"x" * 1_000, flags=["END_STREAM"]).serialize()
        peer.send(data)
        want = peer.next // 2
        peer.wait(lambda: len(peer.ended) >= want)


def rapid_reset(peer):
    def one(_):
        data, stream = peer.headers()
        return data + RstStreamFrame(stream, error_code=8).serialize()

    peer.flood(one, 20_000)


def made_you_reset(peer):
    def one(_):
        data, stream = peer.headers(end=False, method="POST")
        return data + raw(8, 0, stream, struct.pack(">I", 0))

    peer.flood(one, 20_000)


def continuation_flood(peer):
    peer.send(HeadersFrame(1, peer.block()).serialize())
    peer.flood(lambda _: ContinuationFrame(1, b"\x00\x01a\x01b" * 3000).serialize(), 1_000, 4)


def continuation_trickle(peer):
    peer.send(HeadersFrame(1, peer.block()).serialize())
    peer.flood(lambda _: ContinuationFrame(1, b"").serialize(), 20_000)


def hpack_bomb(peer):
    """One large entry in the table, then named again and again: a byte of input, 4 KB of list."""
    peer.encoder.header_table_size = 65_536
    big = [("x-big", "a" * 4_000)]
    peer.open(more=big)
    for _ in range(20):
        stream = peer.next
        peer.next += 2
        # The last one to enter the table has its first index.
        block = peer.block() + bytes([0x80 | 62]) * 10_000
        peer.send(HeadersFrame(stream, block, flags=["END_HEADERS", "END_STREAM"]).serialize())
    peer.wait(lambda: sum(peer.answers.values()) >= 21)


def hpack_sizes(peer):
    peer.send(raw(1, 5, 1, b"\x20" * 10_000 + peer.block()))
    peer.wait(lambda: peer.goaway is not None)


def hpack_garbage(peer):
    peer.send(raw(1, 5, 1, b"\xff" * 100))
    peer.wait(lambda: peer.goaway is not None)


def list_over_limit(peer):
    more = [(f"x-{i}", "v" * 900) for i in range(17)]
    for _ in range(5):
        stream = peer.next
        peer.next += 2
        parts = [peer.block(more=more + more + more + more + more)]
        data = parts[0]
        frames = [HeadersFrame(stream, data[:16_000], flags=["END_STREAM"]).serialize()]
        rest = [data[at : at + 16_000] for at in range(16_000, len(data), 16_000)]
        for i, part in enumerate(rest):
            flags = ["END_HEADERS"] if i == len(rest) - 1 else []
            frames.append(ContinuationFrame(stream, part, flags=flags).serialize())
        peer.send(b"".join(frames))
    peer.wait(lambda: peer.answers.get("431", 0) >= 5)


def many_fields(peer):
    for _ in range(20):
        peer.open(more=[("x", str(i % 10)) for i in range(2_000)])
    peer.wait(lambda: peer.answers.get("431", 0) >= 20)


def cookie_crumbs(peer):
    for _ in range(20):
        peer.open(more=[("cookie", "a=b")] * 2_000)
    peer.wait(lambda: peer.answers.get("431", 0) >= 20)


def settings_flood(peer):
    peer.flood(lambda _: SettingsFrame(settings={4: 65_535}).serialize(), 20_000)


def settings_acks(peer):
    peer.flood(lambda _: SettingsFrame(flags=["ACK"]).serialize(), 20_000)


def window_games(peer):
    """The initial window up and down, with streams that wait for it."""
    for _ in range(100):
        peer.open()
    peer.flood(lambda i: SettingsFrame(settings={4: 0 if i % 2 else 65_535}).serialize(), 2_000, 10)


def ping_flood(peer):
    peer.flood(lambda i: PingFrame(0, struct.pack(">Q", i)).serialize(), 50_000)


def priority_flood(peer):
    peer.flood(lambda i: PriorityFrame(2 * i + 1, depends_on=0, stream_weight=1).serialize(), 50_000)


def unknown_flood(peer):
    peer.flood(lambda i: raw(0x40, 0, 0, b"x"), 50_000)


def empty_data(peer):
    stream = peer.open(end=False, method="POST")
    peer.flood(lambda _: DataFrame(stream, b"").serialize(), 50_000)


def padded_data(peer):
    stream = peer.open(end=False, method="POST")
    peer.flood(lambda _: raw(0, 8, stream, b"\xff" + b"\0" * 255), 5_000)


def tiny_data(peer):
    """A body byte by byte: ten bytes on the wire for one."""
    stream = peer.open(end=False, method="POST")
    peer.flood(lambda _: DataFrame(stream, b"x").serialize(), 50_000, 1_000)
    peer.send(DataFrame(stream, b"", flags=["END_STREAM"]).serialize())
    peer.wait(lambda: stream in peer.ended)


def window_updates(peer):
    peer.flood(lambda _: WindowUpdateFrame(0, window_increment=1).serialize(), 200_000, 1_000)


def window_overflow(peer):
    peer.send(raw(8, 0, 0, struct.pack(">I", 0x7FFFFFFF)) * 2)
    peer.wait(lambda: peer.goaway is not None)


def stream_window_overflow(peer):
    stream = peer.open(end=False, method="POST")
    peer.send(raw(8, 0, stream, struct.pack(">I", 0x7FFFFFFF)) * 2)
    peer.wait(lambda: len(peer.resets) > 0)


def window_of_zero(peer):
    peer.send(raw(8, 0, 0, struct.pack(">I", 0)))
    peer.wait(lambda: peer.goaway is not None)


def over_the_window(peer):
    """To an application that reads nothing: one that reads has the window opened in time."""
    stream = peer.open(end=False, method="POST", path="/things/stalled")
    for _ in range(4_000):
        if peer.goaway is not None or len(peer.resets) > 0:
            return
        peer.send(DataFrame(stream, b"x" * 16_384).serialize())
    peer.wait(lambda: peer.goaway is not None or len(peer.resets) > 0)


def zero_window(peer):
    """Two hundred answers of 60 KB that are never read."""
    for _ in range(200):
        peer.open(path="/things/big")
    peer.wait(lambda: peer.answers.get("200", 0) >= 200)


def byte_windows(peer):
    """An answer read byte by byte."""
    stream = peer.open(path="/things/big")
    peer.flood(lambda _: WindowUpdateFrame(stream, window_increment=1).serialize(), 20_000, 100)
    peer.wait(lambda: peer.body >= 20_000)


def data_after_end(peer):
    stream = peer.open()
    peer.wait(lambda: stream in peer.ended)
    peer.send(DataFrame(stream, b"x").serialize())
    peer.wait(lambda: peer.goaway is not None or len(peer.resets) > 0)


def data_behind_end(peer):
    stream = peer.open(end=False, method="POST")
    end = DataFrame(stream, b"x", flags=["END_STREAM"]).serialize()
    peer.send(end + DataFrame(stream, b"smuggled").serialize())
    peer.wait(lambda: peer.goaway is not None or len(peer.resets) > 0)


def headers_on_closed(peer):
    stream = peer.open()
    peer.wait(lambda: stream in peer.ended)
    peer.send(HeadersFrame(stream, peer.block(), flags=["END_HEADERS", "END_STREAM"]).serialize())
    peer.wait(lambda: peer.goaway is not None or len(peer.resets) > 0)


def data_on_idle(peer):
    peer.send(DataFrame(99, b"x").serialize())
    peer.wait(lambda: peer.goaway is not None)


def reset_on_idle(peer):
    peer.send(RstStreamFrame(99, error_code=8).serialize())
    peer.wait(lambda: peer.goaway is not None)


def even_stream(peer):
    peer.send(HeadersFrame(2, peer.block(), flags=["END_HEADERS", "END_STREAM"]).serialize())
    peer.wait(lambda: peer.goaway is not None)


def older_stream(peer):
    peer.next = 101
    peer.open()
    peer.send(HeadersFrame(51, peer.block(), flags=["END_HEADERS", "END_STREAM"]).serialize())
    peer.wait(lambda: peer.goaway is not None)


def interrupted_block(peer):
    peer.send(HeadersFrame(1, peer.block()).serialize() + PingFrame(0, b"12345678").serialize())
    peer.wait(lambda: peer.goaway is not None)


def large_frame(peer):
    peer.send(raw(0, 0, 1, b"x" * 20_000))
    peer.wait(lambda: peer.goaway is not None)


def push_promise(peer):
    peer.send(raw(5, 4, 1, struct.pack(">I", 2) + peer.block()))
    peer.wait(lambda: peer.goaway is not None)


def bad_settings(peer):
    peer.send(raw(4, 0, 0, struct.pack(">HI", 5, 1)))
    peer.wait(lambda: peer.goaway is not None)


def huge_table(peer):
    """We may use a table of 4 GiB: what is kept must stay our own choice."""
    peer.send(SettingsFrame(settings={1: 0xFFFFFFFF}).serialize())
    for i in range(200):
        peer.open(method="HEAD", more=[("x-request-id", str(i) * 100)])
    peer.wait(lambda: peer.answers.get("200", 0) >= 200)


def too_many_streams(peer):
    for _ in range(1_000):
        peer.open(end=False, method="POST")
    peer.wait(lambda: peer.resets.get(7, 0) >= 700)


def goaway_flood(peer):
    peer.flood(lambda i: GoAwayFrame(0, last_stream_id=0, error_code=0).serialize(), 20_000)


def goaway_and_on(peer):
    peer.send(GoAwayFrame(0, last_stream_id=0, error_code=0).serialize())
    for _ in range(20):
        peer.open(method="HEAD")
    peer.wait(lambda: peer.answers.get("200", 0) >= 20)


def half_a_frame(peer):
    peer.send(b"\x00\x40\x00\x00\x00\x00\x00\x00\x01" + b"x" * 100)


ATTACKS = {name: value for name, value in globals().items() if callable(value) and value.__module__ == __name__ and name.islower() and name not in ("raw",)}


def main():
    port, directory, attack = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    settings = {"zero_window": {4: 0}, "byte_windows": {4: 0}}.get(attack)
    peer = Peer(port, directory, settings)
    peer.wait(lambda: peer.acks > 0)
    ATTACKS[attack](peer)
    # A server that has said goodbye closes; one that has not gets time for it.
    peer.wait(lambda: peer.closed, 0.3 if peer.goaway is None else PATIENCE_S)
    alive = attack not in ("zero_window", "half_a_frame") and peer.honest()
    print(
        json.dumps(
            {
                "sent": peer.sent,
                "goaway": peer.goaway,
                "closed": peer.closed,
                "resets": peer.resets,
                "answers": peer.answers,
                "body": peer.body,
                "alive": alive,
            }
        ),
        flush=True,
    )
    # The connection stays until our caller has looked at the server: memory is measured with it.
    sys.stdin.readline()


main()
