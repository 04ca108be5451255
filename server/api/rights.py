"""Which right a route needs: said beside the route, and looked up before anything of a request is read.

A route that says nothing is for the admin's key.
"""

from collections.abc import Callable, Collection, Sequence
from re import Pattern
from typing import Any, TypeVar

from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute

from server.auth import Right

F = TypeVar("F", bound=Callable[..., Any])


def for_readers(endpoint: F) -> F:
    """Say that a route changes nothing, so that the key for readers is enough."""
    return _declared(endpoint, Right.READ)


def for_anyone(endpoint: F) -> F:
    """Say that a route asks for no key: it tells nothing of anybody's, and a probe or a browser calls it without."""
    return _declared(endpoint, Right.NONE)


def right_of(endpoint: Any) -> Right:
    """Return what was said of a route's endpoint, or of a mounted app."""
    found: Right = getattr(endpoint, "right", Right.ADMIN)
    return found


class Rights:
    """The rights that an app's routes need."""

    def __init__(self, routes: Sequence[BaseRoute], opened: Collection[str] = ()) -> None:
        """Look at routes in their order, the first that fits being the one that answers.

        Args:
            opened: paths that a setting has opened, whatever their routes say.
        """
        self._opened = frozenset(opened)
        self._routes: list[tuple[Collection[str] | None, Pattern[str], Right]] = []
        for route in iter_route_contexts(routes):
            endpoint = route.endpoint or getattr(route.original_route, "app", None)
            self._routes.append((route.methods, route.path_regex, right_of(endpoint)))
        paths = {route.path for route in iter_route_contexts(routes) if route.path and "{" not in route.path}
        methods = {method for methods, _, _ in self._routes for method in methods or ()}
        # Most requests are for a path without an id in it: those needn't be compared with every route.
        self._known = {(method, path): self._searched(method, path) for path in paths for method in methods}

    def needed(self, method: str, path: str) -> Right:
        """Return what a request needs. Where there is no such route: a key, whose holder is told so."""
        known = self._known.get((method, path))
        return self._searched(method, path) if known is None else known

    def _searched(self, method: str, path: str) -> Right:
        if path in self._opened:
            return Right.NONE
        for methods, pattern, right in self._routes:
            if (methods is None or method in methods) and pattern.match(path):
                return right
        return Right.READ


def _declared(endpoint: F, right: Right) -> F:
    endpoint.right = right  # type: ignore[attr-defined]
    return endpoint
