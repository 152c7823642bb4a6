"""One FastAPI process with Faiss in it: `python -m bench.peers.servers.fastapi_server PORT INDEX
EF`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request, Response

from bench.peers.libraries.faiss_answer import FaissAnswer

_THREADS = 2


def application(answer: FaissAnswer) -> FastAPI:
    app = FastAPI()

    @app.post("/search")
    async def search(request: Request) -> Response:
        # In the loop: a search takes less time than handing it to a thread.
        return Response(answer(await request.body()), media_type="application/json")

    return app


def main() -> None:
    port, index, ef_search = sys.argv[1:]
    uvicorn.run(
        application(FaissAnswer(Path(index), int(ef_search), _THREADS)),
        host="127.0.0.1",
        port=int(port),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
