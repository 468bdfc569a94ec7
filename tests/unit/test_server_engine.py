"""A vLLM server as an engine, against a loopback server that speaks as vLLM 0.32 does."""

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from alignkit.engines.server import ServerEngine
from alignkit.errors import EngineError
from alignkit.types.rollout import Request, StopReason


class Script:
    """What the server says; `asked` is what it was asked."""

    def __init__(self):
        self.asked = []
        self.failures = 0
        self.strange = None

    def answer(self, body):
        if self.strange is not None:
            return self.strange
        if "prompt_logprobs" in body:
            prompt = body["prompt"]
            told = [None, *({str(token): {"logprob": -token / 10}, "1": {"logprob": 0}} for token in prompt[1:])]
            return {"choices": [{"prompt_logprobs": told}]}
        tokens = [body["prompt"][0], body["seed"] % 100, 2][: body["max_tokens"]]
        finish = "stop" if tokens[-1] == 2 else "length"
        logprobs = {"token_logprobs": [-0.5] * len(tokens)}
        return {"choices": [{"token_ids": tokens, "logprobs": logprobs, "finish_reason": finish}]}


@pytest.fixture
def served():
    script = Script()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.reply({"data": [{"id": "tiny", "max_model_len": 50}]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            script.asked.append((self.path, self.headers.get("Authorization"), body))
            if script.failures:
                script.failures -= 1
                self.reply({"error": "busy"}, 503)
            else:
                self.reply(script.answer(body))

        def reply(self, value, status=200):
            text = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            """Quiet."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 128  # of 5, the default, a burst of 37 requests is refused in part

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield script, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def request(first, seed=7, most=10):
    return Request(prompt_ids=(first, 4), seed=seed, max_new_tokens=most, stop_token_ids=(2,))


def test_completions_come_in_order_with_the_servers_tokens(served):
    script, url = served
    engine = ServerEngine(url, token="secret")
    assert (engine.model, engine.context) == ("tiny", 50)
    found = asyncio.run(engine.generate([request(first, seed=first) for first in range(3, 40)]))
    assert [one.token_ids for one in found] == [(first, first, 2) for first in range(3, 40)]
    assert {one.stop for one in found} == {StopReason.END_OF_TEXT}
    assert found[0].logprobs == (-0.5, -0.5, -0.5)
    path, authorization, body = script.asked[0]
    assert (path, authorization) == ("/v1/completions", "Bearer secret")
    assert body["model"] == "tiny"
    assert body["ignore_eos"]
    assert (body["stop_token_ids"], body["top_p"], body["top_k"]) == ([2], 1.0, 0)
    assert asyncio.run(engine.sample(request(7, seed=7))) == found[4]
    [cut] = asyncio.run(engine.generate([request(5, most=2)]))
    assert (cut.stop, len(cut.token_ids)) == (StopReason.LENGTH, 2)


def test_scores_are_those_of_the_sequence_and_not_of_the_likeliest_token(served):
    engine = ServerEngine(served[1])
    assert asyncio.run(engine.score([(9, 4, 6), (3, 8)])) == [[-0.4, -0.6], [-0.8]]


def test_a_busy_server_is_asked_again(served):
    script, url = served
    script.failures = 3
    [found] = asyncio.run(ServerEngine(url).generate([request(5)]))
    assert found.token_ids == (5, 7, 2)
    assert len(script.asked) == 4


@pytest.mark.parametrize(
    ("strange", "wanted"),
    [
        ({"choices": [{"text": "hello", "finish_reason": "stop"}]}, "wanted token ids"),
        ({"choices": []}, "wanted token ids"),
        ([], "wanted token ids"),
        ({"choices": [{"token_ids": [1, 2], "logprobs": {"token_logprobs": [0.0]}, "finish_reason": "stop"}]}, "2"),
    ],
)
def test_an_answer_of_another_kind_is_an_engine_error(served, strange, wanted):
    script, url = served
    engine = ServerEngine(url)
    script.strange = strange
    with pytest.raises(EngineError, match=wanted):
        asyncio.run(engine.generate([request(5)]))
    with pytest.raises(EngineError, match="log-prob of every prompt token"):
        asyncio.run(engine.score([(5, 6)]))


def test_no_server_a_bad_address_and_new_weights_are_engine_errors(served):
    with pytest.raises(EngineError, match=r"server engine http://127.0.0.1:9: "):
        ServerEngine("http://127.0.0.1:9", timeout_s=0.5)
    with pytest.raises(EngineError, match="wanted http://HOST:PORT"):
        ServerEngine("ftp://127.0.0.1")
    with pytest.raises(EngineError, match="its weights are its own"):
        ServerEngine(served[1]).update([], version=1)
    with pytest.raises(EngineError, match="has 60 tokens"):
        asyncio.run(ServerEngine(served[1]).generate([Request(prompt_ids=(1,) * 60, seed=0, max_new_tokens=1)]))
