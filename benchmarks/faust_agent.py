"""A Faust agent that keeps S and E in a dict: what Faust's stream costs by itself. It forgets all when it ends."""

import faust
from faust_peer import feedback, peer_app, terms

from streams.settings import read_settings

settings = read_settings()
app = peer_app(settings)
evidence: dict[str, tuple[float, float]] = {}


@app.agent(feedback(app, settings))
async def learn(stream: faust.StreamT[bytes]) -> None:
    async for value in stream:
        term = terms(value)
        if term is None:
            continue
        cell, successes, exposure = term
        old = evidence.get(cell, (0.0, 0.0))
        evidence[cell] = (old[0] + successes, old[1] + exposure)


if __name__ == "__main__":
    app.main()
