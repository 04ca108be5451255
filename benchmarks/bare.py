"""What a request costs before any of twopass: FastAPI on uvicorn, with a body like that of POST /search.

`python -m benchmarks.bare` serves it on a free port and prints the port.
"""

import socket
from typing import Literal

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel


class Body(BaseModel):
    """The fields of POST /search that the benchmark sends, as plain FastAPI reads them."""

    vector: list[float] | str
    k: int = 10
    mode: Literal["two_pass", "prefix", "exact"] = "two_pass"
    include: list[str] = ["text", "metadata"]


def bare_app() -> FastAPI:
    """Build an app whose routes do nothing."""
    app = FastAPI()

    @app.get("/livez")
    async def livez() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/search")
    async def search(body: Body) -> dict[str, int]:
        return {"n": len(body.vector)}

    return app


def main() -> None:
    """Serve until SIGTERM."""
    # The protocol is named, as in server.app.listen_on: without it Nagle's algorithm stays on.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        print(listener.getsockname()[1], flush=True)
        config = uvicorn.Config(bare_app(), log_config=None, access_log=False, server_header=False)
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
