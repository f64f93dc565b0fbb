"""A Faust agent that keeps S and E in a Table over rocksdict: one read and one write of the Table an event."""

from struct import Struct

import faust
from faust_peer import feedback, peer_app, terms

from streams.settings import read_settings

settings = read_settings()
app = peer_app(settings)
pair = Struct("<dd")  # S and E: less to write than any JSON
NOTHING = pair.pack(0.0, 0.0)
evidence = app.Table(
    "evidence",
    partitions=4,
    key_type=bytes,
    value_type=bytes,
    # The default cache is 2 GiB for each partition.
    options={"driver": "rocksdict", "block_cache_size": 64 << 20},
)


@app.agent(feedback(app, settings))
async def learn(stream: faust.StreamT[bytes]) -> None:
    async for value in stream:
        term = terms(value)
        if term is None:
            continue
        cell, successes, exposure = term
        key = cell.encode()
        old = pair.unpack(evidence.get(key, NOTHING))
        evidence[key] = pair.pack(old[0] + successes, old[1] + exposure)


if __name__ == "__main__":
    app.main()
