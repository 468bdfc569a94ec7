"""`alignkit serve RUN` on real vLLM: it answers as OpenAI's server would, with the trainer's own numbers. Slow."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignkit.processes.family import descendants
from alignkit.recipe.read import read_recipe
from alignkit.run.train.train import run

httpx = pytest.importorskip("httpx")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")]
STARTS_IN_S = 240
RECIPE = r"""
model:
  scratch: {characters: "0123456789+*=?.<> abcdefghijklmnopqrstuvwxyzWA", layers: 1, hidden: 64, heads: 2, context: 128}
  dtype: float32
  chat_template: "{% for m in messages %}{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}assistant>"
data: {source: "generator:arithmetic", options: {digits: 1}}
algorithm: {type: sft}
optimizer: {lr: 1e-3}
train: {steps: 1, batch: 4}
checkpoints: {every: null}
"""


def test_a_finished_run_is_served_with_its_template_and_the_trainers_log_probs_and_closes_cleanly(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("ALIGNKIT_TOKEN", "a-token")
    (tmp_path / "r.yaml").write_text(RECIPE)
    run(read_recipe(tmp_path / "r.yaml", [f"run={tmp_path / 'mine'}"]), resume=False, as_json=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "alignkit", "serve", str(tmp_path / "mine"), "--port", port, "--json"]
    log = tmp_path / "server.log"
    with log.open("w") as written:
        server = subprocess.Popen([*command, "--context", "100"], stdout=subprocess.PIPE, stderr=written, text=True)
    try:
        told = json.loads(server.stdout.readline())
        assert told["model"] == "mine"
        asked = [{"role": "user", "content": "What is 3+4?"}]
        body = {"model": "mine", "messages": asked, "max_tokens": 6, "temperature": 0, "logprobs": True}
        answer = _asked(server, f"{told['url']}/chat/completions", {**body, "return_token_ids": True}, log)
        family = [server.pid, *descendants(server.pid)]
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=60) == 0
        end = time.monotonic() + 20
        while (left := [one for one in family if os.path.exists(f"/proc/{one}")]) and time.monotonic() < end:
            time.sleep(0.1)  # Python's resource tracker ends a moment after its process
        assert left == []
    finally:
        server.kill()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(port)), timeout=1).close()
    final = tmp_path / "mine" / "final"
    tokenizer, model = AutoTokenizer.from_pretrained(final), AutoModelForCausalLM.from_pretrained(final)
    [choice] = answer["choices"]
    assert tokenizer.decode(answer["prompt_token_ids"]) == "user>What is 3+4?<eos>assistant>"
    ids, prompt = choice["token_ids"], answer["prompt_token_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
    own = torch.log_softmax(logits.float(), dim=-1)
    assert own.argmax(dim=-1).tolist() == ids
    served = [one["logprob"] for one in choice["logprobs"]["content"]]
    torch.testing.assert_close(torch.tensor(served), own.max(dim=-1).values, atol=1e-4, rtol=0)


def _asked(server, url, body, log):
    end = time.monotonic() + STARTS_IN_S
    while time.monotonic() < end and server.poll() is None:
        try:
            answer = httpx.post(url, json=body, headers={"Authorization": "Bearer a-token"}, timeout=60)
            assert answer.status_code == 200, answer.text
            return answer.json()
        except httpx.TransportError:
            time.sleep(0.5)
    pytest.fail(f"the server did not start: {log.read_text()[-2000:]}")
