"""What goes over the wire under /v1, in the shape of OpenAI's embeddings API."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from server.described import Described


def _no_tokens(value: Any) -> Any:
    """Refuse arrays of tokens, which OpenAI's clients may send: they are another tokenizer's, of another model."""
    first = value[0] if isinstance(value, list) and value else None
    if isinstance(first, int | list):
        raise PydanticCustomError("no_tokens", "Input should be a string or a list of strings, not tokens")
    return value


class EmbeddingsIn(Described):
    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        hide_input_in_errors=True,
        json_schema_extra={
            "examples": [{"model": "bundled", "input": ["how do animals rest?"], "input_type": "query"}]
        },
    )

    input: Annotated[str | list[str], BeforeValidator(_no_tokens)]
    """A text or a list of texts, none empty and none longer than the model reads; nothing is cut."""
    model: str
    """As GET /v1/models has it, or one of its aliases."""
    dimensions: int | None = Field(default=None, ge=1)
    """Leading dimensions wanted; they are normalised again. All when absent."""
    encoding_format: Literal["float", "base64"] = "float"
    """float: numbers. base64: of little-endian float32, a third as long."""
    input_type: Literal["query", "document", "passage"] = "document"
    """What the texts are, which decides the prompt that the model puts before them: `query` for what is searched
    with, `document` for what is searched through. `passage` is another word for document."""
    user: str | None = None
    """Ignored."""


class EmbeddingOut(Described):
    object: Literal["embedding"] = "embedding"
    """As OpenAI has it."""
    index: int
    """The text's place in `input`."""
    embedding: list[float] | str
    """Of unit length: numbers, or base64 of little-endian float32 where that was asked for."""


class UsageOut(Described):
    prompt_tokens: int
    """As the model counts, its prompt and special tokens included; an estimate where another program encodes."""
    total_tokens: int
    """The same."""


class EmbeddingsOut(Described):
    object: Literal["list"] = "list"
    """As OpenAI has it."""
    data: list[EmbeddingOut]
    """In the order of the texts."""
    model: str
    """Its name here, whichever alias was asked for."""
    usage: UsageOut
    """Tokens of all texts."""


class ModelOut(Described):
    """A model that is served here; everything behind owned_by is more than OpenAI tells."""

    id: str
    """Its name here."""
    object: Literal["model"] = "model"
    """As OpenAI has it."""
    created: int = 0
    """Nobody knows: 0."""
    owned_by: Literal["twopass"] = "twopass"
    """Whoever made it."""
    aliases: list[str]
    """Other names that /v1/embeddings takes for it."""
    dim: int
    """Of its vectors."""
    max_tokens: int
    """Longest input, its prompt and special tokens included."""
    query_prompt: str
    """Put before what is searched with."""
    document_prompt: str
    """Put before what is searched through."""


class ModelsOut(Described):
    object: Literal["list"] = "list"
    """As OpenAI has it."""
    data: list[ModelOut]
    """One; none where clients bring the vectors."""
