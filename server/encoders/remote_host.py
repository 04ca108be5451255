"""The only one who talks to the program that encodes: one question at a time, asked again where that may help."""

import contextlib
import ipaddress
import json
import random
import socket
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import structlog

from server.encoders.encoder import never
from server.encoders.errors import (
    EncoderUnavailable,
    EncodingStopped,
    RemoteEncoderDown,
    RemoteEncoderRefused,
    first_line,
)
from server.encoders.fingerprint import Role
from server.encoders.remote_protocols import Answer, OpenAIWire, Wire, models_address
from server.encoders.remote_refusals import NoBase64, NotThere, Passing, TooMany, refusal

CONNECT_TIMEOUT_S = 5.0  # to a machine of the house; what is off would keep a search waiting
STEP_S = 0.1  # between two looks at `stop` while waiting


@dataclass(frozen=True)
class Patience:
    """How long to go on asking. Waits double, with some randomness, from `first_wait_s` to `longest_wait_s`."""

    tries: int
    first_wait_s: float
    longest_wait_s: float
    repeats_timeouts: bool = True


class Host:
    """One embeddings API at one address. Any thread may call any method."""

    def __init__(self, wire: Wire, api_key: str, timeout_s: float) -> None:
        self.wire = wire
        self.is_down = False
        self.address = wire.addresses[0]
        self._is_found = len(wire.addresses) == 1
        self._timeout_s = timeout_s
        self._closed = threading.Event()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._sockets_lock = threading.Lock()  # iterating over a set that grows is an error
        self._log = structlog.get_logger()
        is_https = self.address.startswith("https:")  # else certificates would be loaded for nothing: 50 ms
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s)),
            trust_env=not is_loopback(self.address),  # no proxy can reach this machine's own addresses
            follow_redirects=False,  # texts and key go where the settings say
            verify=is_https,
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=16),
        )

    def ask(
        self, texts: Sequence[str], role: Role, patience: Patience, stop: Callable[[], bool] = never
    ) -> Answer:
        """The vectors of a few texts, which go as they are: with their prompts, that is.

        Until the first answer, each address that it may be is asked in turn.

        Raises:
            RemoteEncoderDown: no answer in all tries, or none but errors that may pass.
            RemoteEncoderRefused: an answer that asking again won't change.
            TooMany, TextRefused: see remote_refusals.
            EncodingStopped: `stop` returned true between two tries.
            EncoderUnavailable: closed.
        """
        first = None
        for address in (self.address,) if self._is_found else self.wire.addresses:
            try:
                answer = self._patiently(address, texts, role, patience, stop)
            except NotThere as error:
                first = first or error.refused
            else:
                self.address, self._is_found = address, True
                return answer
        assert first is not None
        raise first

    def models(self) -> list[dict[str, Any]]:
        """What the program lists at /v1/models; empty where it doesn't, or not in OpenAI's shape."""
        if not isinstance(self.wire, OpenAIWire):
            return []
        try:
            content = self._http.get(models_address(self.address)).json()
        except (httpx.HTTPError, ValueError):
            return []
        items = content.get("data") if isinstance(content, dict) else None
        return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []

    def wait(self, seconds: float, stop: Callable[[], bool]) -> None:
        """Wait in small steps. Raises EncodingStopped and EncoderUnavailable as `ask` does."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if stop():
                raise EncodingStopped("the encoding was stopped before its end")
            self._closed.wait(min(left, STEP_S))
            self._check_open()

    def close(self) -> None:
        """Calls that wait end with EncoderUnavailable, running ones too. May be called twice."""
        self._closed.set()
        with self._sockets_lock:
            connected = list(self._sockets)
        for each in connected:
            with contextlib.suppress(OSError):  # it is closed already
                each.shutdown(socket.SHUT_RDWR)  # closing it alone would leave whoever reads from it waiting
        self._http.close()

    def _patiently(
        self,
        address: str,
        texts: Sequence[str],
        role: Role,
        patience: Patience,
        stop: Callable[[], bool],
    ) -> Answer:
        failed = 0
        while True:
            try:
                answer = self._once(address, texts, role, patience)
            except NoBase64:
                continue  # without it now
            except Passing as error:
                failed += 1
                wait_s = max(error.retry_after_s, _backoff_s(patience, failed))
                may_repeat = patience.repeats_timeouts or not error.is_timeout
                if failed >= patience.tries or not may_repeat or wait_s > patience.longest_wait_s:
                    raise self._down(error) from error
                self.wait(wait_s, stop)
            else:
                self._up()
                return answer

    def _once(self, address: str, texts: Sequence[str], role: Role, patience: Patience) -> Answer:
        self._check_open()
        wire, body = self.wire, self.wire.body(texts, role)
        try:
            response = self._http.post(address, json=body, extensions={"trace": self._remember_socket})
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Passing(f"can't be reached ({first_line(error)})") from error
        except httpx.TimeoutException as error:
            why = f"gave no answer in {self._timeout_s:g} s"
            if len(texts) > 1 and patience.repeats_timeouts:  # some of them may come in time
                raise TooMany(why, is_timeout=True) from error
            raise Passing(why, is_timeout=True) from error
        except httpx.HTTPError as error:
            self._check_open()
            raise Passing(f"broke the connection ({first_line(error)})") from error
        except RuntimeError as error:  # httpx's, of a client that was closed meanwhile
            raise _closed() from error
        if not response.is_success:
            refused = refusal(response, address, len(texts))
            if isinstance(refused, NoBase64):
                if not isinstance(wire, OpenAIWire) or "encoding_format" not in body:
                    raise RemoteEncoderRefused(str(refused))
                wire.asks_base64 = False
            raise refused
        try:
            content = json.loads(response.content)
        except ValueError as error:
            raise RemoteEncoderRefused(
                f"{address} answered with something else than JSON",
                hint="Is encoder.url the address of an embeddings API?",
            ) from error
        return wire.read(content, len(texts))

    def _remember_socket(self, event: str, info: dict[str, Any]) -> None:
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            with self._sockets_lock:
                self._sockets.add(info["return_value"].get_extra_info("socket"))

    def _down(self, error: Passing) -> RemoteEncoderDown:
        if not self.is_down:
            self.is_down = True
            self._log.warning("the program that encodes is down", url=self.address, why=error.why)
        return RemoteEncoderDown(
            f"the program that encodes, at {self.address}, {error}",
            hint="Start it (Ollama: `ollama serve`), or correct encoder.url. If it is only slow, raise "
            "encoder.timeout_s.",
        )

    def _up(self) -> None:
        if self.is_down:
            self.is_down = False
            self._log.info("the program that encodes is back", url=self.address)

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise _closed()


def is_loopback(address: str) -> bool:
    """Whether an address is this machine's own."""
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _backoff_s(patience: Patience, failed: int) -> float:
    """After so many failures: half to all of the doubled wait, so that several clients don't come back at once."""
    doubled: float = patience.first_wait_s * 2 ** (failed - 1)
    return min(patience.longest_wait_s, doubled) * random.uniform(0.5, 1)


def _closed() -> EncoderUnavailable:
    return EncoderUnavailable("the encoder is closed", hint="Start the server again.")
