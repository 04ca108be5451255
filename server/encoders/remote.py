"""From the settings to an encoder whose model runs in another program: find it, try it out, know its limits.

Its fingerprint can't hold the weights, which nobody here sees: `weights_sha256` is that of the model's name, as the
program knows it, without Ollama's `:latest`. Neither the address nor the protocol are in it: the same model may move
to another machine or be asked in another way. What the name can't say, that the program runs another model under it
by now, is found by comparing a few stored vectors with new ones: see server.encoders.drift.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog

from server.encoders.errors import RemoteEncoderDown, RemoteEncoderRefused
from server.encoders.fingerprint import Fingerprint, Role
from server.encoders.known import known
from server.encoders.remote_encoder import LAYER_NORM, RemoteEncoder
from server.encoders.remote_host import Host, Patience
from server.encoders.remote_probes import probe_dim, probe_ratio, probe_reach
from server.encoders.remote_protocols import Answer, OllamaWire, OpenAIWire, Wire
from server.encoders.remote_refusals import TextRefused, TooMany
from server.encoders.remote_tokens import UNKNOWN_RATIO, Limits, limits_for, stand_in_counter
from server.encoders.tokens import TokenCounter
from server.settings import EncoderSettings, PassageSettings

REMOTE = "remote"  # the fingerprint's `pooling`: whatever the program does, then unit length
REMOTE_PROMPTS = "remote+prompts"  # another twopass, which puts its own prompts before the texts
DEFAULT_MAX_TOKENS = 512
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 60.0  # between two tries of an ingest


def load_remote(
    settings: EncoderSettings,
    passages: PassageSettings,
    stored: Fingerprint | None = None,
    first_wait_s: float = FIRST_WAIT_S,
) -> RemoteEncoder:
    """Find the program at `settings.url` and try it out, with about a dozen requests.

    `stored` is the fingerprint of the data there is, if any. With it, a program that is down is no error: what it
    can do is asked when the first document comes. The fingerprint's `max_tokens` is that of `stored` where nothing
    else differs, since a model that reads more or less leaves stored vectors as good as they are.

    Raises:
        RemoteEncoderDown: nobody answers, and there is no data, or it is another model's.
        RemoteEncoderRefused: it answers, but not with vectors that can be used.
        SettingsError: the passages asked for don't suit the model.
    """
    wire: Wire = OpenAIWire(settings.url, settings.model)
    if settings.backend == "ollama":
        wire = OllamaWire(settings.url, settings.model)
    host = Host(wire, settings.api_key.get_secret_value(), settings.timeout_s)
    try:
        return _load(
            settings, passages, stored, host, Patience(1 + settings.retries, first_wait_s, LONGEST_WAIT_S)
        )
    except BaseException:
        host.close()
        raise


def _load(
    settings: EncoderSettings,
    passages: PassageSettings,
    stored: Fingerprint | None,
    host: Host,
    patience: Patience,
) -> RemoteEncoder:
    is_there = True
    try:
        dim = _first_contact(host, patience)
    except RemoteEncoderDown as error:
        if stored is None:
            raise
        fingerprint = _fingerprint(settings, stored.dim, _prompts_stored(stored))
        if set(stored.changes(fingerprint)) - {"max_tokens"}:
            raise
        structlog.get_logger().warning("started without the program that encodes", why=str(error))
        is_there = False
    else:
        fingerprint = _fingerprint(settings, dim, _prompts_there(host, settings.model))
    asked = fingerprint.max_tokens
    if stored is not None and stored.changes(fingerprint) == ["max_tokens"]:
        fingerprint = replace(fingerprint, max_tokens=stored.max_tokens)
    adds_prompts = fingerprint.pooling != REMOTE_PROMPTS
    if isinstance(host.wire, OpenAIWire):
        host.wire.names_role = not adds_prompts
    counter = stand_in_counter({role: fingerprint.prompt(role) for role in Role})
    overhead = max(counter.overhead(role) for role in Role)

    def learn() -> Limits:
        prompt = fingerprint.document_prompt if adds_prompts else ""
        return _learn(host, patience, prompt, counter, asked, overhead, passages)

    return RemoteEncoder(
        host,
        fingerprint,
        counter,
        learn() if is_there else limits_for(asked, UNKNOWN_RATIO, overhead, passages, asked),
        None if is_there else learn,
        patience=patience,
        batch_tokens=settings.batch_tokens,
        query_cache=settings.query_cache,
        adds_prompts=adds_prompts,
    )


def _first_contact(host: Host, patience: Patience) -> int:
    """Find the address and the dimension."""
    try:
        return probe_dim(lambda texts: host.ask(texts, Role.DOCUMENT, patience))
    except (TooMany, TextRefused) as error:
        raise RemoteEncoderRefused(f"the program that encodes refuses two short texts: {error}") from error


@dataclass(frozen=True)
class _Prompts:
    """Those that another twopass puts before the texts itself, and what its model reads."""

    query: str
    document: str
    max_tokens: int


def _prompts_there(host: Host, model: str) -> _Prompts | None:
    """What another twopass says of its model; None of any other program."""
    for entry in host.models():
        names = [entry.get("id"), *entry.get("aliases", [])]
        query, document, limit = (
            entry.get(name) for name in ("query_prompt", "document_prompt", "max_tokens")
        )
        is_ours = entry.get("owned_by") == "twopass" and model in names
        if is_ours and isinstance(query, str) and isinstance(document, str) and isinstance(limit, int):
            return _Prompts(query, document, limit)
    return None


def _prompts_stored(stored: Fingerprint) -> _Prompts | None:
    if stored.pooling != REMOTE_PROMPTS:
        return None
    return _Prompts(stored.query_prompt, stored.document_prompt, stored.max_tokens)


def _fingerprint(settings: EncoderSettings, dim: int, there: _Prompts | None) -> Fingerprint:
    """What decides the vectors. Prompts: the settings', else the table's, else none; or those put there.

    Raises:
        RemoteEncoderRefused: the program puts other prompts than the settings ask for.
    """
    query, document = settings.query_prompt, settings.document_prompt
    max_tokens, pooling = DEFAULT_MAX_TOKENS, REMOTE
    model = known(settings.model)
    if there is not None:
        if query not in (None, there.query) or document not in (None, there.document):
            raise RemoteEncoderRefused(
                "the twopass at encoder.url puts prompts of its own before the texts",
                hint="Remove encoder.query_prompt and encoder.document_prompt here, or set them there.",
            )
        query, document, max_tokens, pooling = there.query, there.document, there.max_tokens, REMOTE_PROMPTS
    elif model is not None:
        query = model.query_prompt if query is None else query
        document = model.document_prompt if document is None else document
        max_tokens = model.max_tokens
        pooling += LAYER_NORM if model.layer_norm else ""
    if model is not None and model.dim != dim:
        structlog.get_logger().warning(
            "the program that encodes gives another dimension than the model of this name has",
            model=model.name,
            dim=dim,
            expected=model.dim,
        )
    name = settings.model.removesuffix(":latest")
    return Fingerprint(
        model=settings.model,
        weights_sha256=hashlib.sha256(f"{REMOTE}\n{name}".encode()).hexdigest(),
        dim=dim,
        query_prompt=query or "",
        document_prompt=document or "",
        pooling=pooling,
        max_tokens=settings.max_tokens or max_tokens,
    )


def _learn(
    host: Host,
    patience: Patience,
    prompt: str,
    counter: TokenCounter,
    asked: int,
    overhead: int,
    passages: PassageSettings,
) -> Limits:
    """Ask how the program counts and how far it reads; `prompt` is what we put before a document."""

    def ask(texts: Sequence[str]) -> Answer:
        return host.ask(texts, Role.DOCUMENT, patience)

    ratio = probe_ratio(ask, counter.tokenizer)
    reach = probe_reach(
        lambda texts: ask([prompt + text for text in texts]),
        lambda texts: counter.count(texts, Role.DOCUMENT),
        ratio.english,
        asked,
    )
    if reach.why:
        structlog.get_logger().warning(
            "the program that encodes reads less of a text than its model does: passages are made shorter",
            tokens=reach.max_tokens,
            expected=asked,
            why=reach.why,
        )
    return limits_for(reach.max_tokens, ratio.largest, overhead, passages, asked)
