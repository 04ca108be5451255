"""How a route of ours is called: straight, where it needs nothing but the request."""

from collections.abc import Callable, Coroutine
from inspect import iscoroutinefunction, signature
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Route(APIRoute):
    """A route that refuses unknown query parameters, as unknown fields are refused."""

    def get_route_handler(self) -> Handler:
        """Build what answers a request; FastAPI calls this once for each route."""
        known = {each.alias for each in self.dependant.query_params}
        # And those that a dependency reads for itself.
        known |= {each["name"] for each in (self.openapi_extra or {}).get("parameters", ())}
        handle = self._straight() if self._needs_only_the_request() else super().get_route_handler()

        async def answered(request: Request) -> Response:
            if request.scope["query_string"]:
                refuse_unknown(set(request.query_params) - known)
            return await handle(request)

        return answered

    def _needs_only_the_request(self) -> bool:
        """Whether all that the handler takes comes from coroutines that take the request alone."""
        names = {each.name for each in self.dependant.dependencies}
        return names == set(signature(self.endpoint).parameters) and all(
            iscoroutinefunction(each.call)
            and [of.annotation for of in signature(each.call).parameters.values()] == [Request]
            for each in self.dependant.dependencies
        )

    def _straight(self) -> Handler:
        """Call the handler as FastAPI would; its way there, made for any signature, takes 70 µs for two arguments."""
        sources: dict[str, Any] = {str(each.name): each.call for each in self.dependant.dependencies}
        endpoint: Callable[..., Coroutine[Any, Any, Response]] = self.endpoint

        async def handle(request: Request) -> Response:
            return await endpoint(**{name: await source(request) for name, source in sources.items()})

        return handle


def refuse_unknown(names: set[str]) -> None:
    """Raise RequestValidationError, as for an unknown field, if there are any."""
    if names:
        raise RequestValidationError(
            [
                {"type": "extra_forbidden", "loc": ("query", name), "msg": "No such query parameter"}
                for name in sorted(names)
            ]
        )
