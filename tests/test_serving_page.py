"""The commands of docs/serving.md lead to a feed, and to one that is personal."""

import json
import re
import shlex
import time
from pathlib import Path

from embedded_product import EmbeddedProduct, terminate
from kafka_product import wait_until
from test_docs import ROOT, blocks

PAGE = (ROOT / "docs" / "serving.md").read_text()


def curls() -> list[tuple[str, object]]:
    """(path, body) of the page's requests, in their order."""
    commands = re.findall(r"^curl .*?'(?=\n\n|\n$|$)", "\n".join(blocks("sh", PAGE)), re.MULTILINE | re.DOTALL)
    found = []
    for command in commands:
        words = shlex.split(command)
        assert words[2:4] == ["-H", "Content-Type: application/json"]
        found.append((words[1].removeprefix("http://127.0.0.1:8080"), json.loads(words[5])))
    return found


def test_the_serving_pages_requests_lead_to_a_feed(tmp_path: Path) -> None:
    product = EmbeddedProduct(tmp_path, policy="[population]\nevery_ms = 500\n")
    asked = curls()
    assert [path for path, _ in asked] == ["/v1/items", "/v1/feedback", "/v1/feeds", "/v1/feedback"]
    with product.server() as process:
        answers = [product.call("POST", path, body) for path, body in asked]
        assert [status for status, _ in answers] == [200] * 4
        assert answers[2][1]["request_id"] == "r1"
        numbers = iter(range(1000))

        def items() -> set[str]:
            """What is asked for as on the page, when the population has a version."""
            time.sleep(0.1)
            body = {"request_id": f"again-{next(numbers)}", "user": "carol", "slots": 2}
            return {slot["item"] for slot in product.call("POST", "/v1/feeds", body)[1]["slots"]}

        wait_until(lambda: items() == {"film-1", "film-2"}, product.log)
        status, why = product.call("GET", "/v1/feeds/again-0/explanation?user=carol")
        assert (status, why["request_id"]) == (200, "again-0")
        terminate(process)


def test_every_path_and_status_of_the_serving_page_is_in_the_openapi_document(tmp_path: Path) -> None:
    product = EmbeddedProduct(tmp_path)
    with product.server(ready=False) as process:
        _, document = product.call("GET", "/openapi.json")
        process.kill()
    named = {path.partition("?")[0] for path in re.findall(r"`(?:GET|POST|DELETE) (/[^`]*)`", PAGE)}
    assert named == document["paths"].keys()
