"""Query parameters that a route doesn't know are errors, as unknown fields are."""

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute


async def refuse_unknown_parameters(request: Request) -> None:
    """A dependency of every route.

    Raises:
        RequestValidationError: as for an unknown field.
    """
    route = request.scope["route"]
    known = {each.alias for each in route.dependant.query_params} if isinstance(route, APIRoute) else set()
    if unknown := sorted(set(request.query_params) - known):
        raise RequestValidationError(
            [
                {"type": "extra_forbidden", "loc": ("query", name), "msg": "No such query parameter"}
                for name in unknown
            ]
        )
