"""Models whose fields are described by the strings under them, read when a description is asked for.

pydantic's own `use_attribute_docstrings` reads and parses the source of every model at every start: a quarter of the
time that importing the server took, for what only /openapi.json tells.
"""

import ast
import inspect
from textwrap import dedent

from pydantic import BaseModel, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema


class Described(BaseModel):
    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = handler(core_schema)
        fields = handler.resolve_ref_schema(schema)["properties"]
        for name, text in descriptions(cls).items():
            fields[name]["description"] = text
        return schema


def descriptions(model: type[Described]) -> dict[str, str]:
    """The string under each field of a model and of those that it extends."""
    found: dict[str, str] = {}
    for each in reversed(model.__mro__):
        if each is not Described and issubclass(each, Described):
            found |= _under_fields(each)
    return found


def _under_fields(model: type[Described]) -> dict[str, str]:
    [definition] = ast.parse(dedent(inspect.getsource(model))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = inspect.cleandoc(text)
    return found
