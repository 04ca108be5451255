"""What decides the vectors of a text: stored beside them, compared when data is opened."""

import json
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Self


class Role(StrEnum):
    """What a text is to the model; the role decides its prompt."""

    QUERY = "query"
    DOCUMENT = "document"


@dataclass(frozen=True)
class Fingerprint:
    """Two encoders with the same fingerprint, `model` aside, give the same vectors.

    `weights_sha256` covers the weights and the files that say how they are used, wherever they lie.
    `max_tokens` is what the model reads of a text, not how long passages are made: that may change and leaves
    stored vectors valid. `pooling` names the steps from token vectors to the text's unit vector, such as
    `mean+normalize`.
    """

    model: str
    weights_sha256: str
    dim: int
    query_prompt: str
    document_prompt: str
    pooling: str
    max_tokens: int
    precision: str = "float32"  # or int8, whose vectors are slightly others

    def prompt(self, role: Role) -> str:
        return self.query_prompt if role is Role.QUERY else self.document_prompt

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            ValueError: it is not a fingerprint.
        """
        values = json.loads(text)
        if isinstance(values, dict):
            values = {"precision": "float32", **values}  # older data doesn't name it
        expected = {field.name: field.type for field in fields(cls)}
        if not isinstance(values, dict) or {name: type(value) for name, value in values.items()} != expected:
            raise ValueError(
                f"expected the fields {', '.join(expected)} of a model fingerprint, got {text[:200]!r}"
            )
        return cls(**values)

    def changes(self, other: Self) -> list[str]:
        """The names of the fields that differ and make the vectors differ; `model`, the name, does not."""
        names = [field.name for field in fields(self) if field.name != "model"]
        return [name for name in names if getattr(self, name) != getattr(other, name)]

    def same_vectors(self, other: Self) -> bool:
        return not self.changes(other)
