"""Every setting of twopass: a YAML file, then the environment, then the command line; the later one wins.

The only module that reads YAML or the environment. Nothing is read until `load_settings` is called.
"""

import difflib
import os
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

import yaml
from pydantic import (
    ByteSize,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from server.described import Described

ENVIRONMENT_PREFIX = "TWOPASS_"
CONFIG_VARIABLE = "TWOPASS_CONFIG"
DEFAULT_CONFIG_FILE = Path("config.yaml")
# They begin like settings but are read elsewhere: this module's own file name, and the client commands' two.
OTHER_VARIABLES = frozenset({CONFIG_VARIABLE, "TWOPASS_URL", "TWOPASS_API_KEY"})
MAX_DIM = 16384  # dimensions; four times the longest embedding in common use
MAX_READ_LIMIT = 10_000_000  # full vectors; more than a search in minutes can read
ORIGIN = re.compile(r"https?://(?:[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
MIN_BUDGET_BYTES = 1 << 20  # below, a unit was forgotten: 512 for 512M


class SettingsError(Exception):
    """The settings can't be used. `problems` holds one sentence for each thing that is wrong."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class _Section(Described):
    # Inputs are hidden because pydantic would print the api key with the rest of them.
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        str_strip_whitespace=True,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        is_switch = info.field_name is not None and cls.model_fields[info.field_name].annotation is bool
        if isinstance(value, bool) and not is_switch:  # pydantic would read `port: yes` as port 1
            raise PydanticCustomError("not_a_switch", "true and false are not among its values")
        return value


class ServerSettings(_Section):
    host: str = Field(default="127.0.0.1", min_length=1)
    """Address to listen on. 127.0.0.1 is reachable from this machine only; 0.0.0.0 from every network it is
    connected to. Elsewhere than on 127.0.0.1 a key is always asked for: where none is set, the first start makes one
    and prints it."""
    port: int = Field(default=8000, ge=0, le=65535)
    """TCP port to listen on. 0 takes any free one."""
    api_key: SecretStr = Field(default=SecretStr(""))
    """The key that may do everything. Clients send it as `Authorization: Bearer <key>` or in the header `api-key`.
    Empty: the one that the server has made, if it has. Better set in the environment (TWOPASS_SERVER__API_KEY), or in a
    file of its own, than here."""
    api_key_file: Path | None = Field(default=None)
    """Instead of api_key: a file with the key in it, as Docker's secrets are."""
    read_key: SecretStr = Field(default=SecretStr(""))
    """A second key, that may search and read but change nothing. Empty: there is none."""
    read_key_file: Path | None = Field(default=None)
    """Instead of read_key: a file with the key in it."""
    open_metrics: bool = Field(default=False)
    """Whether GET /metrics answers without a key, for a Prometheus that brings none."""
    cors_origins: tuple[str, ...] = Field(default=())
    """Sites whose pages a browser lets call this server, as [https://notes.example.org]; "*": every site. They still
    need a key where one is asked for."""
    names: tuple[str, ...] = Field(default=())
    """Names besides localhost by which a server that asks for no key is called, as [nas.local]; by others it isn't
    answered, so that no page in a browser can pretend to be its own. Addresses need not be listed."""
    shutdown_grace_s: int = Field(default=10, ge=0, le=3600)
    """Seconds that running requests get to finish when the server is told to stop."""

    @field_validator("api_key", "read_key")
    @classmethod
    def _fits_a_header(cls, key: SecretStr) -> SecretStr:
        check_key_text(key.get_secret_value())
        return key

    @field_validator("api_key_file", "read_key_file", mode="before")
    @classmethod
    def _a_file_or_none(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return Path(value).expanduser() if value.strip() else None  # an environment variable can't say null

    @field_validator("cors_origins", "names", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return _as_list(value)

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin != "*" and not ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is no origin; write it as a browser does, as https://notes.example.org or "
                    "http://192.168.1.5:8080, in small letters and without a path"
                )
        return origins

    @model_validator(mode="after")
    def _one_place_for_each_key(self) -> "ServerSettings":
        for name in ("api_key", "read_key"):
            if getattr(self, name).get_secret_value() and getattr(self, f"{name}_file") is not None:
                raise ValueError(f"server.{name} and server.{name}_file are both set. Remove one of the two.")
        return self


class EncoderSettings(_Section):
    model: str = Field(default="bundled", min_length=1)
    """The model that turns text into vectors: `bundled` (all-MiniLM-L6-v2, comes with the package), a folder,
    the name of a sentence-transformers model on the Hugging Face hub (fetched once, into data_dir/models), the name
    that a server at `url` knows, or `none` (clients bring vectors; set dim)."""
    backend: Literal["auto", "onnx", "torch", "openai", "ollama"] = Field(default="auto")
    """What runs the model. onnx: ONNX Runtime, after the model was exported once; a third of torch's memory and
    time. torch: sentence-transformers. openai, ollama: another program, at `url`, that speaks this protocol. auto:
    openai where a url is set, else onnx where the model can be exported, else torch."""
    precision: Literal["float32", "int8"] = Field(default="float32")
    """How ONNX Runtime keeps the weights. int8: less memory and time, slightly other vectors. Data belongs to the
    precision that it was made with."""
    int8_min_cosine: float = Field(default=0.98, ge=0, le=1, allow_inf_nan=False)
    """Least mean cosine between the vectors of int8 and of float32 on this machine's trial; below it, int8 is
    refused. Lower it to use int8 all the same."""
    url: str = Field(default="")
    """Where another program encodes, as http://127.0.0.1:11434/v1. Texts are sent there."""
    api_key: SecretStr = Field(default=SecretStr(""))
    """Key for `url`. Better set in the environment (TWOPASS_ENCODER__API_KEY) than in a file."""
    timeout_s: float = Field(default=30, ge=0.1, le=3600, allow_inf_nan=False)
    """Seconds that the program at `url` gets for one batch of texts, before it is asked again."""
    retries: int = Field(default=3, ge=0, le=20)
    """How often the program at `url` is asked again, after longer and longer waits, until it counts as down."""
    query_prompt: str | None = Field(default=None)
    """Put before every query. null: what the model itself, or the table of known models, says."""
    document_prompt: str | None = Field(default=None)
    """Put before every passage. null: what the model itself, or the table of known models, says."""
    max_tokens: int | None = Field(default=None, ge=16, le=131_072)
    """Tokens that a model at `url` reads of a text. null: what the table of known models says, else 512."""
    idle_unload_s: int = Field(default=0, ge=0, le=604_800)
    """Seconds without a text after which the model's memory is freed; the next text loads it again and waits for that,
    about a second for the bundled model. It runs in a process of its own then, which takes 20 MiB more while it is
    there. 0: it runs in the server's process, and stays. (torch always has a process of its own.)"""
    query_cache: int = Field(default=1000, ge=0, le=1_000_000)
    """Vectors of recent queries that are kept in memory, so that the same question isn't encoded again."""
    dim: int | None = Field(default=None, ge=1, le=MAX_DIM)
    """Dimensions of the vectors that clients bring. Only with model `none`; a model knows its own."""
    batch_tokens: int = Field(default=1024, ge=1, le=1_048_576)
    """Tokens, padding included, that are encoded in one go during ingest. Fewer: a search waits less for the
    ingest beside it, and ingest takes less memory. Below 512, ingest is slower."""

    @field_validator("dim", "max_tokens", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return None if value == "" else value  # an environment variable can't say null

    @field_validator("query_prompt", "document_prompt", mode="plain")
    @classmethod
    def _as_it_stands(cls, value: object) -> object:
        if value is not None and not isinstance(
            value, str
        ):  # a prompt's last space counts: nothing is stripped
            raise PydanticCustomError("string_type", "Input should be a valid string")
        return value

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        if url and not url.startswith(("http://", "https://")):
            raise ValueError("that is no address; write http:// or https:// before the host's name")
        if "@" in urlsplit(url).netloc:  # it is stored with the vectors, and told to readers
            raise ValueError("it has a name or a password before the host; put the key into encoder.api_key")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _url_belongs_to_remote(self) -> "EncoderSettings":
        if self.backend in ("openai", "ollama") and not self.url:
            raise ValueError(
                f"encoder.backend is {self.backend!r}, which needs encoder.url: where does it listen?"
            )
        if self.backend in ("onnx", "torch") and self.url:
            raise ValueError(
                f"encoder.url is set, but encoder.backend {self.backend!r} runs the model here. Remove one of the two."
            )
        if self.url and self.model in ("none", "bundled"):
            raise ValueError(
                f"encoder.url is set, but encoder.model is {self.model!r}. Set it to the name that the program there "
                "knows the model by."
            )
        if self.precision == "int8" and (self.backend == "torch" or self.url):
            raise ValueError(
                "encoder.precision 'int8' is for ONNX Runtime: set encoder.backend to 'auto' or 'onnx'."
            )
        return self

    @property
    def is_remote(self) -> bool:
        """Whether another program encodes."""
        return bool(self.url)

    @model_validator(mode="after")
    def _dim_belongs_to_none(self) -> "EncoderSettings":
        if self.model == "none" and self.dim is None:
            raise ValueError(
                "encoder.model is 'none', so clients bring the vectors: "
                "set encoder.dim to their number of dimensions."
            )
        if self.model != "none" and self.dim is not None:
            raise ValueError(
                f"encoder.dim is {self.dim}, but the model {self.model!r} has its own number of dimensions. "
                "Remove encoder.dim, or set encoder.model to 'none' if clients bring the vectors."
            )
        return self


class PassageSettings(_Section):
    max_tokens: int = Field(default=0, ge=0, le=131_072)
    """Longest passage in tokens, the model's prompt and special tokens included; longer texts are split. 0:
    as long as the model can read."""
    overlap_tokens: int = Field(default=32, ge=0, le=65_536)
    """Tokens at the end of a passage that the next one of the same text repeats, at most half a passage, so
    that no sentence loses its context at a border."""

    @model_validator(mode="after")
    def _overlap_is_a_part(self) -> "PassageSettings":
        if 0 < self.max_tokens < 2 * self.overlap_tokens:
            raise ValueError(
                f"passages.overlap_tokens is {self.overlap_tokens}, more than half of passages.max_tokens, "
                f"{self.max_tokens}. Lower the first or raise the second."
            )
        return self


class IndexSettings(_Section):
    prefix_dim: int = Field(default=256, ge=1, le=MAX_DIM)
    """Leading dimensions of each vector that the first pass compares, at most: from 1000 rows on it may find that
    fewer do. At this default, a shorter vector is kept whole; any other number above the vectors' own is an error."""
    order: Literal["auto", "model", "corpus"] = Field(default="auto")
    """Which dimensions come first: the model's own first ones, the principal axes of the stored vectors (corpus),
    or whichever of the two a measurement on these vectors finds better (auto)."""
    kind: Literal["auto", "flat", "ivf"] = Field(default="auto")
    """How the first pass goes through the rows: all of them (flat), or those in the lists nearest to the query
    (ivf, for millions)."""
    codec: Literal["auto", "float32", "float16", "int8", "pq4", "rabitq"] = Field(default="auto")
    """How prefixes are kept in memory. auto chooses by number of rows, memory and measured recall; 256 dimensions
    take 1024 bytes as float32, 512 as float16, 256 as int8, 16 to 128 as pq4 and 40 as rabitq."""
    target_recall: float = Field(default=0.99, ge=0.5, le=1, allow_inf_nan=False)
    """Share of the true 10 nearest that the first pass must hand to the second, measured on the stored vectors
    each time the first pass is made anew. What it takes is measured too: oversample rises where 8 is too few."""
    memory_budget: ByteSize = Field(default=ByteSize(0), ge=0)
    """Memory for the codes of the first pass, in bytes or with a unit (512M, 2GiB). 0: what the model leaves, at most
    half of what the machine, or the container, has. Documents whose codes wouldn't fit are refused."""
    bounds: Literal["keep", "none"] = Field(default="keep")
    """Whether an upper bound of every row's score is kept on disk, one byte for each of 256 dimensions: it is what
    proves answers in mode certified."""
    max_read: int = Field(default=4096, ge=1, le=MAX_READ_LIMIT)
    """Full vectors that one certified search reads at most. What isn't proved by then is said not to be."""
    oversample: float = Field(default=8.0, ge=1, le=1000, allow_inf_nan=False)
    """Candidates that the first pass hands to the second for each hit asked for, at least. More: better recall,
    more reads from disk."""
    min_candidates: int = Field(default=80, ge=1, le=100_000)
    """Candidates that the first pass hands to the second at least."""
    vector_dtype: Literal["float16", "float32"] = Field(default="float16")
    """How full vectors are stored: float16 (2 bytes a dimension) or float32 (4 bytes). Holds for data made
    from now on."""
    hybrid: Literal["usual", "asked"] = Field(default="usual")
    """When exact words count too, besides the meaning: in every plain search by text that doesn't say otherwise
    (usual), or only where its field hybrid asks for it. More is found; it takes some milliseconds, more of them the
    more documents have the words."""
    gauge_share: float = Field(default=0.01, ge=0, le=1, allow_inf_nan=False)
    """Share of the searches that are answered a second time, exactly and in the background, to know the recall that
    people get: see gauge in /stats. Takes at most 2 % of one core. 0: none."""
    metadata_indexes: tuple[str, ...] = Field(default=())
    """Fields of the metadata that filters often name, as [year, author.name]: their values are kept in order, some 50
    bytes each, and a filter on them needn't read the metadata of every document."""
    keep_old_days: float = Field(default=30, ge=0, le=36_500, allow_inf_nan=False)
    """Days that the vectors of the model before are kept after a change of the model, so that one can go back to
    them. 0: until they are deleted by `twopass reembed --forget`."""
    compact_share: float = Field(default=0.2, ge=0, le=0.95, allow_inf_nan=False)
    """Share of the stored vectors that belongs to deleted or replaced documents, from which on the rest is copied and
    the room given back, in the background; at least 5000 of them. 0: only by `twopass compact`."""
    check_on_open: Literal["newest", "all"] = Field(default="newest")
    """Stored vectors whose checksums are compared at start: the newest blocks, or all of them (reads the
    whole vector file)."""

    @field_validator("metadata_indexes", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return _as_list(value)

    @field_validator("memory_budget")
    @classmethod
    def _has_its_unit(cls, size: ByteSize) -> ByteSize:
        if 0 < size < MIN_BUDGET_BYTES:
            raise ValueError(
                f"that is {int(size)} bytes, too few for any collection; write a unit, as in 512M or 2GiB"
            )
        return size

    @model_validator(mode="after")
    def _lists_need_their_codec(self) -> "IndexSettings":
        if self.kind == "ivf" and self.codec not in ("auto", "pq4", "rabitq"):
            raise ValueError(
                f"index.kind is 'ivf', which needs index.codec 'pq4' or 'rabitq', not {self.codec!r}. "
                "Set one of the two to 'auto'."
            )
        return self

    def prefix_dim_for(self, dim: int) -> int:
        """The prefix length for vectors of `dim` dimensions.

        256 counts as the default wherever it was written: the config.yaml that comes with twopass spells it
        out, and must mean the same as no file.

        Raises:
            SettingsError: another prefix_dim than the default is longer than the vectors.
        """
        if self.prefix_dim <= dim:
            return self.prefix_dim
        if self.prefix_dim == IndexSettings.model_fields["prefix_dim"].default:
            return dim
        raise SettingsError(
            f"index.prefix_dim is {self.prefix_dim}, but the vectors have {dim} dimensions. "
            f"Set it to a number from 1 to {dim}, or remove it."
        )


class LimitSettings(_Section):
    body_bytes: int = Field(default=33_554_432, ge=1024, le=4_294_967_296)
    """Largest request body in bytes; 33554432 is 32 MiB."""
    documents_per_request: int = Field(default=10_000, ge=1, le=1_000_000)
    """Most documents that one request may add or delete."""
    searches_per_batch: int = Field(default=100, ge=1, le=10_000)
    """Most searches in one POST /search/batch."""
    k: int = Field(default=1000, ge=1, le=100_000)
    """Most hits that one search may ask for."""
    text_bytes: int = Field(default=8_388_608, ge=1024, le=4_294_967_296)
    """Longest text of a document, in bytes of UTF-8; 8388608 is 8 MiB, more than a thousand pages."""
    query_bytes: int = Field(default=65_536, ge=64, le=16_777_216)
    """Longest query, in bytes of UTF-8. A model reads some 2000 of them at most."""
    concurrent_requests: int = Field(default=1000, ge=1, le=100_000)
    """Requests that may be under way at once, those included whose body is still on its way; one more is answered
    with 429. The health routes are not counted."""
    connections: int = Field(default=2000, ge=1, le=100_000)
    """Connections that may be open at once, as far as the system gives file handles; one more is answered with 429."""
    silence_s: float = Field(default=60, ge=0.1, le=86_400, allow_inf_nan=False)
    """Seconds that a client may be silent in the middle of a request; its head must be whole within them."""
    waiting_requests: int = Field(default=256, ge=1, le=100_000)
    """Searches, and as many ingests, that may wait for their turn; one more is answered with 429 and told when to
    come again."""
    metadata_bytes: int = Field(default=65_536, ge=2, le=16_777_216)
    """Largest metadata of one document, in bytes of JSON; 65536 is 64 KiB."""
    filter_depth: int = Field(default=8, ge=1, le=16)
    """How deep $and, $or and $not may stand in each other in a filter."""
    filter_conditions: int = Field(default=100, ge=1, le=1000)
    """Most conditions in one filter. Every document's metadata is compared with each, where no index helps."""
    filter_values: int = Field(default=1000, ge=1, le=1_000_000)
    """Most values in the lists of one filter, as behind $in."""


class LogSettings(_Section):
    level: Literal["debug", "info", "warning", "error"] = Field(default="info")
    """Least severe messages that are logged: debug, info, warning or error."""
    format: Literal["text", "json"] = Field(default="text")
    """text: lines for people. json: one JSON object a line, for machines."""

    @field_validator("level", "format", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value


class Settings(_Section):
    """All settings, checked and frozen. `Settings()` is the defaults: it reads no file and no environment."""

    data_dir: Path = Field(default=Path("data"))
    """Folder that holds everything twopass stores; made if missing. Relative to where twopass is started."""
    server: ServerSettings = Field(default_factory=ServerSettings)
    encoder: EncoderSettings = Field(default_factory=EncoderSettings)
    passages: PassageSettings = Field(default_factory=PassageSettings)
    index: IndexSettings = Field(default_factory=IndexSettings)
    limits: LimitSettings = Field(default_factory=LimitSettings)
    log: LogSettings = Field(default_factory=LogSettings)

    @field_validator("data_dir", mode="before")
    @classmethod
    def _a_real_folder_name(cls, value: object) -> object:
        if isinstance(value, str) and not value.strip():
            raise ValueError("a folder name can't be empty")
        return Path(value).expanduser() if isinstance(value, str) else value


def load_settings(
    config_file: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    options: Mapping[str, object] | None = None,
) -> Settings:
    """Read the settings: config file, then environment, then `options`; the later one wins.

    The file is `config_file`, else the one that TWOPASS_CONFIG names, else ./config.yaml if there is one.
    `options` are given on the command line, by dotted name: `{"server.port": 9000}`.

    Raises:
        SettingsError: file missing or not YAML, unknown key, or bad value, with the source, the key and what
            is valid; all of them at once.
    """
    named = config_file or (Path(environ[CONFIG_VARIABLE]) if environ.get(CONFIG_VARIABLE) else None)
    layers: list[tuple[dict[str, str], dict[str, object]]] = []  # (source of each key, value of each key)
    problems: list[str] = []
    if named is not None or DEFAULT_CONFIG_FILE.exists():
        path = named or DEFAULT_CONFIG_FILE
        layers.append(_from_file(path, _read_yaml(path), problems))
    layers.append(_from_environment(environ, problems))
    layers.append((dict.fromkeys(options or {}, "the command line"), dict(options or {})))
    sources = {key: source for names, _ in layers for key, source in names.items()}
    values = {key: value for _, given in layers for key, value in given.items()}
    settings = None
    try:
        settings = Settings.model_validate(_nested(values))
    except ValidationError as error:
        problems += [_bad_value(detail, sources, values) for detail in error.errors()]
    if settings is None or problems:
        raise SettingsError(*problems)  # without pydantic's error as its cause: that one holds the api key
    return settings


def budget_bytes(text: str, source: str) -> int:
    """Read a memory budget as the setting is read. Raises SettingsError, with `source` as what said it."""
    key = "index.memory_budget"
    try:
        return int(Settings.model_validate(_nested({key: text})).index.memory_budget)
    except ValidationError as error:
        raise SettingsError(
            *[_bad_value(each, {key: source}, {key: text}) for each in error.errors()]
        ) from None


def check_key_text(key: str) -> str:
    """Return a key that a header can carry. Raises ValueError, without it in the text."""
    if not all("!" <= character <= "~" for character in key):
        raise ValueError("a key is made of ASCII letters, digits and signs, without spaces or line breaks")
    return key


def setting_fields() -> dict[str, FieldInfo]:
    """Every setting by its dotted name, such as `server.port`, in the order of config.yaml."""
    fields: dict[str, FieldInfo] = {}
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, _Section):
            fields |= {f"{name}.{option}": inner for option, inner in field.annotation.model_fields.items()}
        else:
            fields[name] = field
    return fields


def variable_name(key: str) -> str:
    """The environment variable of a setting: `server.port` is TWOPASS_SERVER__PORT."""
    return ENVIRONMENT_PREFIX + key.replace(".", "__").upper()


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key stands once: PyYAML would silently take the last of two."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key_node.value} stands there a second time", key_node.start_mark
                )
            if isinstance(key_node.value, str):
                seen.add(key_node.value)
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping


def _read_yaml(path: Path) -> object:
    try:
        return yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_StrictLoader)
    except FileNotFoundError:
        raise SettingsError(
            f"{path}: there is no such file. Name another with --config or {CONFIG_VARIABLE}."
        ) from None
    except OSError as error:
        raise SettingsError(f"{path}: can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date with 13 months
        # Neither the snippet nor the cause is passed on: the line may hold the api key. Nor is a detail that
        # quotes the file, as `'*key'` in "found undefined alias".
        mark, detail = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        why = f" ({detail})" if detail and "'" not in detail else ""
        raise SettingsError(
            f"{path}{where}: is not valid YAML{why}. Check indentation and colons there, and put a value "
            "that begins with a sign in quotes."
        ) from None


def _from_file(path: Path, content: object, problems: list[str]) -> tuple[dict[str, str], dict[str, object]]:
    """The file's settings by dotted name; unknown keys and misplaced values are added to `problems`."""
    known, sections = setting_fields(), _sections()
    if content is None:
        return {}, {}
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: must hold lines like `data_dir: data`, not a {type(content).__name__}.")
    given: list[tuple[str, object]] = []
    for name, value in content.items():
        if name in sections and isinstance(value, dict):
            given += [(f"{name}.{option}", inner) for option, inner in value.items()]
        elif name in sections:
            if value is not None:  # null: a section whose every line is a comment
                problems.append(f"{path}: {name} is a section; its options go below it, indented.")
        else:
            given.append((str(name), value))
    values: dict[str, object] = {}
    for key, value in given:
        if key not in known:
            nearest = _nearest(key, [*known] if "." in key else [*known, *sections])
            problems.append(f"{path}: there is no setting {key}. The nearest is {nearest}.")
        elif key in values:
            problems.append(f"{path}: {key} stands there twice. Remove one of them.")
        else:
            values[key] = value
    return {key: str(path) for key in values}, values


def _from_environment(
    environ: Mapping[str, str], problems: list[str]
) -> tuple[dict[str, str], dict[str, object]]:
    """The environment's settings by dotted name; unknown TWOPASS_ variables are added to `problems`."""
    keys = {variable_name(key): key for key in setting_fields()}
    names = [name for name in sorted(environ) if name.upper().startswith(ENVIRONMENT_PREFIX)]
    for name in names:
        if name not in keys and name not in OTHER_VARIABLES:
            nearest = _nearest(name, list(keys))
            problems.append(f"environment: there is no setting {name}. The nearest is {nearest}.")
    found = {keys[name]: name for name in names if name in keys}
    return {key: f"environment variable {name}" for key, name in found.items()}, {
        key: environ[name] for key, name in found.items()
    }


def _sections() -> list[str]:
    return list(dict.fromkeys(key.partition(".")[0] for key in setting_fields() if "." in key))


def _nearest(key: str, valid: list[str]) -> str:
    """The most similar of `valid`, by full name or by its last part: `port` means `server.port`."""

    def likeness(candidate: str) -> float:
        last_part = candidate.replace("__", ".").rpartition(".")[2]
        wanted = key.removeprefix(ENVIRONMENT_PREFIX) if key.startswith(ENVIRONMENT_PREFIX) else key
        pairs = ((key, candidate), (wanted, last_part))
        return max(difflib.SequenceMatcher(None, a.lower(), b.lower()).ratio() for a, b in pairs)

    return max(valid, key=likeness)


def _as_list(value: object) -> object:
    """What an environment variable lists with commas, as the list it is in the file."""
    if isinstance(value, str):
        return [each.strip() for each in value.split(",") if each.strip()]
    return [] if value is None else value


def _nested(values: Mapping[str, object]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in values.items():
        section, _, option = key.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[option] = value
    return tree


def _bad_value(detail: ErrorDetails, sources: Mapping[str, str], values: Mapping[str, object]) -> str:
    """One sentence: source, setting, its value, and what is valid."""
    fields = setting_fields()
    key = ".".join(str(part) for part in detail["loc"])
    reason = str(detail.get("ctx", {}).get("error", ""))
    if key not in fields:  # two options of one section contradict each other; the reason names them
        given = [source for name, source in sources.items() if name.startswith(key + ".")]
        return f"{', '.join(dict.fromkeys(given))}: {reason}"
    is_secret = fields[key].annotation is SecretStr or (key == "encoder.url" and "@" in str(values[key]))
    shown = "the value (not shown)" if is_secret else repr(values[key])
    shown = shown if len(shown) <= 100 else shown[:100] + "…"
    valid = f"; it takes {_valid_values(fields[key])}" if detail["type"] != "value_error" else f": {reason}"
    return f"{sources[key]}: {key} can't be {shown}{valid}."


def _valid_values(field: FieldInfo) -> str:
    """What a setting takes, in words."""
    if get_origin(field.annotation) is Literal:
        return " or ".join(repr(value) for value in get_args(field.annotation))
    if field.annotation == tuple[str, ...]:
        return "a list of names, in a variable with commas between them"
    if field.annotation is bool:
        return "true or false"
    if field.annotation == Path | None:
        return "the name of a file"
    if field.annotation in (str, SecretStr, Path):
        return "a text that is not empty (in quotes where YAML would take it for a number)"
    if field.annotation is ByteSize:
        return "a number of bytes, or one with a unit, as in 512M or 2GiB"
    low = next(bound.ge for bound in field.metadata if hasattr(bound, "ge"))
    high = next(bound.le for bound in field.metadata if hasattr(bound, "le"))
    kind = "a number" if field.annotation is float else "a whole number"
    return f"{kind} from {low} to {high}"
