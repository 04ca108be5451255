"""A client that costs next to nothing: prepared bytes over kept sockets. httpx alone takes 0.4 ms a request."""

import itertools
import select
import socket
import time
from collections.abc import Sequence


def request(method: str, path: str, body: bytes = b"") -> bytes:
    """Return the bytes of an HTTP/1.1 request."""
    head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n"
    if body:
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


class Connection:
    """One kept connection; a request at a time."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, request: bytes) -> bytes:
        """Send a request; return the body of its answer, which must be a 2xx."""
        self.send(request)
        while (answer := self.receive()) is None:
            pass
        return answer

    def send(self, request: bytes) -> None:
        self.socket.sendall(request)

    def receive(self) -> bytes | None:
        """Read what has come; return the answer's body once it is complete."""
        piece = self.socket.recv(1 << 18)
        if not piece:
            raise ConnectionError("the server closed the connection")
        self._received += piece
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return None
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if len(body) < int(length):
            return None
        if not head.startswith(b"HTTP/1.1 2"):
            raise RuntimeError(self._received.decode())
        self._received = b""
        return body


def requests_per_s(port: int, request: bytes, concurrency: int, n_requests: int) -> float:
    """Keep `concurrency` connections busy until `n_requests` answers have come."""
    return requests_per_s_of(port, [request], concurrency, n_requests)


def requests_per_s_of(port: int, requests: Sequence[bytes], concurrency: int, n_requests: int) -> float:
    """Like requests_per_s, the requests taking turns."""
    turns = itertools.cycle(requests)
    connections = [Connection(port) for _ in range(concurrency)]
    poll = select.epoll()
    waiting = {}
    for connection in connections:
        waiting[connection.socket.fileno()] = connection
        poll.register(connection.socket.fileno(), select.EPOLLIN)
    started = time.perf_counter()
    to_send, to_come = n_requests - concurrency, n_requests
    for connection in connections:
        connection.send(next(turns))
    while to_come:
        for number, _ in poll.poll():
            if waiting[number].receive() is not None:
                to_come -= 1
                if to_send:
                    to_send -= 1
                    waiting[number].send(next(turns))
    took_s = time.perf_counter() - started
    poll.close()
    for connection in connections:
        connection.socket.close()
    return n_requests / took_s
