"""What the program that encodes means by an error: ask again, ask for less, leave a text out, or give up."""

import json
import re
import time
from email.utils import parsedate_to_datetime

import httpx

from server.encoders.errors import RemoteEncoderRefused

TOLD_CHARACTERS = 200  # of the other program's own words
# And all from 500 on. 424: text-embeddings-inference, of a model that failed.
AGAIN_STATUS = frozenset({408, 409, 424, 425, 429})
INPUT_STATUS = frozenset({400, 413, 422, 500})  # 500: llama.cpp, of a text that is too long

# What programs say of too many texts at once: text-embeddings-inference, OpenAI twice, pydantic (Infinity).
TOO_MANY = re.compile(
    r"maximum allowed batch size|array too long|tokens per request|max_tokens_per_request|at most \d+ items"
    r"|too many (?:inputs|texts|items)",
    re.IGNORECASE,
)
# And of a text that is too long: OpenAI and vLLM, llama.cpp twice, text-embeddings-inference, Infinity, Ollama, we.
TOO_LONG = re.compile(
    r"context.?(?:length|size|window)|too large to process|n_ctx\b|less than \d+ (?:tokens|characters)"
    r"|at most \d+ characters|maximum input length|input length exceeds",
    re.IGNORECASE,
)
NOT_FINITE = re.compile(r"\bnan\b", re.IGNORECASE)  # Ollama, of a text that its model can't take
NO_CREDIT = re.compile(r"insufficient_quota", re.IGNORECASE)  # OpenAI's 429 that no waiting ends
HINTS = {
    401: "Set TWOPASS_ENCODER__API_KEY to the key of the program at encoder.url.",
    403: "That key may not do this: look at TWOPASS_ENCODER__API_KEY.",
    404: "Compare encoder.model with the models it has (Ollama: `ollama pull` it), and encoder.url.",
}
OTHER_HINT = "Compare encoder.url, encoder.backend and encoder.model with what that program expects."


class Passing(Exception):
    """What may be over when asked again; `retry_after_s` is the least wait, as far as the program says.

    `said`, the program's own words, can quote a text: `why`, without them, is for the log.
    """

    def __init__(
        self, why: str, retry_after_s: float = 0.0, is_timeout: bool = False, said: str = ""
    ) -> None:
        super().__init__(f"{why}: {said}" if said else why)
        self.why = why
        self.retry_after_s = retry_after_s
        self.is_timeout = is_timeout


class TooMany(Exception):
    """The program takes fewer texts, or fewer tokens, in one request; or they took longer than they may."""

    def __init__(self, why: str, is_timeout: bool = False) -> None:
        super().__init__(why)
        self.is_timeout = is_timeout


class TextRefused(Exception):
    """One of the texts is too long for the program, or its model makes nothing of it."""


class NoBase64(Exception):
    """The program doesn't know `encoding_format`."""


class NotThere(Exception):
    """There is no such path, or no such model."""

    def __init__(self, refused: RemoteEncoderRefused) -> None:
        super().__init__(str(refused))
        self.refused = refused


def refusal(response: httpx.Response, address: str, n_texts: int) -> Exception:
    """The error to raise for an answer with an error status."""
    status, said = response.status_code, _said(response)
    told = f"{address} answered {status}" + (f": {said}" if said else "")
    if status in INPUT_STATUS:
        if "encoding_format" in said:
            return NoBase64(told)
        if status == 413 or TOO_MANY.search(said):
            return TooMany(told) if n_texts > 1 else TextRefused(told)
        if TOO_LONG.search(said) or NOT_FINITE.search(said):
            return TextRefused(told)
    if NO_CREDIT.search(said):
        return RemoteEncoderRefused(told, hint="Look at the account that encoder.api_key belongs to.")
    if status >= 500 or status in AGAIN_STATUS:
        return Passing(f"answered {status}", _retry_after_s(response), said=said)
    refused = RemoteEncoderRefused(told, hint=HINTS.get(status, OTHER_HINT))
    return NotThere(refused) if status == 404 else refused


def _retry_after_s(response: httpx.Response) -> float:
    """Seconds that the header Retry-After asks for, given as seconds or as a date; 0 without it."""
    value = response.headers.get("Retry-After", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0


def _said(response: httpx.Response) -> str:
    """The program's own words in one line: `error`, `error.message`, `message`, `detail`; never a whole page.

    A list of findings, as FastAPI gives, can quote the texts: only what was wrong is taken from it.
    """
    try:
        content = json.loads(response.content)
    except ValueError:
        is_plain = response.headers.get("content-type", "").startswith("text/plain")
        return " ".join(response.text.split())[:TOLD_CHARACTERS] if is_plain else ""
    found: list[str] = []
    places = [content, content.get("error")] if isinstance(content, dict) else []
    for place in places:
        if isinstance(place, dict):
            values = [place.get(name) for name in ("error", "message", "detail", "code")]
            found += [value for value in values if isinstance(value, str)]
            if isinstance(place.get("detail"), list):
                found += [str(each.get("msg")) for each in place["detail"] if isinstance(each, dict)][:1]
    return " ".join(" ".join(dict.fromkeys(found)).split())[:TOLD_CHARACTERS]
