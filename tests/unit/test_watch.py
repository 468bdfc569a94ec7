"""A run is watched while it goes on: the page is that of the report, new lines are in it, and it is read only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from alignkit.errors import ContentError
from alignkit.report.html import render
from alignkit.report.run_data import read_run
from alignkit.run.serve.watch import watch_app, watch_run


def line(step: int, reward: float) -> str:
    return json.dumps({"step": step, "stage": "main", "reward/mean": reward, "time": 0.0}) + "\n"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "going-on"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text(line(0, 0.25))
    return folder


@pytest.fixture
def client(run: Path) -> TestClient:
    return TestClient(watch_app(run, every_s=7), base_url="http://127.0.0.1:8902")


def test_the_page_is_the_report_and_asks_to_be_read_again(client, run):
    page = client.get("/")
    assert page.text == render(read_run(run))
    assert page.headers["refresh"] == "7"


def test_a_step_that_was_written_since_is_in_the_next_page(client, run):
    assert "0.875" not in client.get("/").text
    with (run / "metrics.jsonl").open("a") as file:
        file.write(line(1, 0.875))
    assert "0.875" in client.get("/").text


@pytest.mark.parametrize("method", ["post", "put", "delete", "patch"])
def test_nothing_can_be_sent_to_it(client, method):
    assert getattr(client, method)("/").status_code == 405


@pytest.mark.parametrize("path", ["/metrics.jsonl", "/../going-on/metrics.jsonl", "/docs", "/openapi.json"])
def test_no_other_file_is_served(client, path):
    assert client.get(path).status_code == 404


@pytest.mark.parametrize("host", ["evil.example:8902", "127.0.0.1.evil.example", ""])
def test_a_page_of_another_site_cannot_read_it_under_its_own_name(client, host):
    assert client.get("/", headers={"host": host}).status_code == 400


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ContentError, match="is no run folder: it holds none of metrics"):
        watch_run(tmp_path, port=0, every_s=1, ready=print)
