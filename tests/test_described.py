"""Fields described by the strings under them."""

from pydantic import Field

from server.described import Described, descriptions


class Place(Described):
    """Where something is."""

    name: str
    """What people call it,
    in one line or two."""
    height_m: float = Field(default=0, ge=0)
    x: int
    "Not a docstring of y."
    y: int = 3


class House(Place):
    rooms: list[Place]
    """Each a place."""
    x: int = 5
    """Another than a place's."""


def test_descriptions_are_the_strings_directly_under_fields_those_of_what_is_extended_too():
    of_place = {"name": "What people call it,\nin one line or two.", "x": "Not a docstring of y."}
    assert descriptions(Place) == of_place
    assert descriptions(House) == {**of_place, "rooms": "Each a place.", "x": "Another than a place's."}


def test_json_schemas_tell_them_also_of_models_within_models():
    schema = House.model_json_schema()
    told = {name: each.get("description") for name, each in schema["properties"].items()}
    assert told == {
        "name": "What people call it,\nin one line or two.",
        "height_m": None,
        "x": "Another than a place's.",
        "y": None,
        "rooms": "Each a place.",
    }
    assert schema["$defs"]["Place"]["properties"]["name"]["description"].startswith("What people")
    assert schema["$defs"]["Place"]["description"] == "Where something is."


def test_they_are_those_that_pydantic_finds():
    class Slow(Described, use_attribute_docstrings=True):
        size: int
        """How large,

          with an indented line.
        """
        kind: str = "a"
        r"""A raw \n one."""

    assert {name: field.description for name, field in Slow.model_fields.items()} == descriptions(Slow)
