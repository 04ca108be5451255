"""Routes under /v1, as OpenAI has them, so that other programs of the house share the one model."""

import binascii
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from server.api.answers import answer
from server.api.bodies import read_json
from server.api.embedding_schemas import EmbeddingsIn, EmbeddingsOut, ModelOut, ModelsOut
from server.api.openapi import json_body
from server.api.rights import for_readers
from server.api.routes import Route
from server.api.threads import Running, Service
from server.embeddings import Embedded, embed, encoder_named, model_names
from server.encoders.encoder import Encoder
from server.encoders.fingerprint import Role

router = APIRouter(prefix="/v1", tags=["OpenAI"], route_class=Route)


async def read_embeddings(request: Request) -> EmbeddingsIn:
    """Read the body of POST /v1/embeddings. Raises as read_json does."""
    return await read_json(request, EmbeddingsIn)


Embeddings = Annotated[EmbeddingsIn, Depends(read_embeddings)]


@router.post("/embeddings", response_model=EmbeddingsOut, openapi_extra=json_body(EmbeddingsIn))
@for_readers
async def create_embeddings(service: Service, body: Embeddings) -> Response:
    """Vectors of texts, by the model that searches here. Nothing is stored."""
    run = service.read if body.input_type == "query" else service.ingest
    return await run(embeddings_answer, service, body)


@router.get("/models", response_model=ModelsOut)
@for_readers
async def list_models(service: Service) -> Response:
    """The model that is served here; none where clients bring the vectors."""
    encoder = service.collection.encoder
    return answer(ModelsOut(data=[] if encoder is None else [model_out(encoder)]))


@router.get("/models/{model:path}", response_model=ModelOut)
@for_readers
async def get_model(service: Service, model: str) -> Response:
    """The model, by its name or an alias."""
    return answer(model_out(encoder_named(service.collection.encoder, model)))


def embeddings_answer(service: Running, body: EmbeddingsIn) -> Response:
    """Encode and answer; all of it in a thread, since millions of numbers take a while to write down."""
    collection = service.collection
    encoder = encoder_named(collection.encoder, body.model)
    embedded = embed(
        encoder,
        [body.input] if isinstance(body.input, str) else body.input,
        Role.QUERY if body.input_type == "query" else Role.DOCUMENT,
        body.dimensions,
        service.settings.limits,
        lambda: collection.is_stopping,
    )
    return answer(embeddings_out(embedded, body.encoding_format, encoder.fingerprint.model))


def embeddings_out(embedded: Embedded, encoding_format: str, model: str) -> dict[str, Any]:
    """Build an EmbeddingsOut, as the dict that is its JSON."""
    if encoding_format == "base64":
        rows = embedded.vectors.astype("<f4")
        vectors: list[Any] = [binascii.b2a_base64(row.tobytes(), newline=False).decode() for row in rows]
    else:
        vectors = embedded.vectors.tolist()
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": at, "embedding": each} for at, each in enumerate(vectors)],
        "model": model,
        "usage": {"prompt_tokens": embedded.n_tokens, "total_tokens": embedded.n_tokens},
    }


def model_out(encoder: Encoder) -> ModelOut:
    name, *aliases = model_names(encoder)
    fingerprint = encoder.fingerprint
    return ModelOut(
        id=name,
        aliases=aliases,
        dim=fingerprint.dim,
        max_tokens=encoder.max_tokens,
        query_prompt=fingerprint.query_prompt,
        document_prompt=fingerprint.document_prompt,
    )
