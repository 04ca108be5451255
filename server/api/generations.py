"""Routes that change the model: /index/reembed, /index/rollback and /index/generations."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from pydantic import ConfigDict, Field, ValidationError, model_validator

from server.api.answers import answer
from server.api.bodies import read_json
from server.api.openapi import json_body
from server.api.rights import for_readers
from server.api.routes import Route
from server.api.schemas import RebuildOut
from server.api.threads import Service
from server.described import Described
from server.settings import EncoderSettings

router = APIRouter(tags=["jobs"], route_class=Route)


class ReembedIn(Described):
    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        hide_input_in_errors=True,
        json_schema_extra={"examples": [{"model": "Snowflake/snowflake-arctic-embed-m-v1.5"}]},
    )

    model: str = Field(min_length=1)
    """As encoder.model in the settings."""
    backend: Literal["auto", "onnx", "torch", "openai", "ollama"] = "auto"
    """As encoder.backend in the settings."""
    precision: Literal["float32", "int8"] = "float32"
    """As encoder.precision in the settings."""
    url: str = ""
    """As encoder.url in the settings: texts are sent there. Its key is encoder.api_key of the settings."""
    query_prompt: str | None = None
    """As encoder.query_prompt in the settings."""
    document_prompt: str | None = None
    """As encoder.document_prompt in the settings."""
    max_tokens: int | None = Field(default=None, ge=16, le=131_072)
    """As encoder.max_tokens in the settings."""

    @model_validator(mode="after")
    def _go_together(self) -> "ReembedIn":
        try:
            EncoderSettings.model_validate(self.model_dump())
        except ValidationError as error:
            raise ValueError(
                error.errors(include_context=False)[0]["msg"].removeprefix("Value error, ")
            ) from None
        return self


class GenerationOut(Described):
    generation: int
    """Its number, which its files have too."""
    state: Literal["current", "retired", "being filled"]
    """A retired one can be gone back to."""
    model: str
    """That made its vectors."""
    precision: str
    """Of the model: float32 or int8."""
    dim: int
    """Of a vector."""
    rows: int
    """Vectors in its file."""
    deleted_at: str | None
    """When a retired one is deleted, ISO 8601 in UTC; null: when it is told."""


class GenerationsOut(Described):
    generations: list[GenerationOut]
    """By number."""


async def read_reembed(request: Request) -> ReembedIn:
    """Read the body of POST /index/reembed. Raises as read_json does."""
    return await read_json(request, ReembedIn)


Reembed = Annotated[ReembedIn, Depends(read_reembed)]


@router.post("/index/reembed", response_model=RebuildOut, status_code=202, openapi_extra=json_body(ReembedIn))
async def reembed(service: Service, body: Reembed) -> Response:
    """Have every stored text encoded by another model, in the background; the old one serves until all are."""
    wanted = EncoderSettings.model_validate(body.model_dump())
    job = await service.read(service.collection.reembedding.begin, wanted)
    return answer({"job": job.told()}, 202)


@router.post("/index/rollback", response_model=RebuildOut, status_code=202)
async def rollback(service: Service) -> Response:
    """Go back to the model before; texts that came since are encoded by it first."""
    job = await service.read(service.collection.reembedding.go_back)
    return answer({"job": job.told()}, 202)


@router.get("/index/generations", response_model=GenerationsOut)
@for_readers
async def generations(service: Service) -> Response:
    """Every generation of vectors: the current one, those to go back to, and one being filled."""
    told: list[dict[str, Any]] = await service.read(service.collection.reembedding.generations)
    return answer({"generations": told})


@router.delete("/index/generations/{number}", response_model=GenerationsOut)
async def forget(service: Service, number: int) -> Response:
    """Delete a retired generation and its files; there is no way back to it then."""
    await service.ingest(service.collection.reembedding.forget, number)
    return await generations(service)
