"""A real Prometheus that scrapes a real service: every query of the dashboard has values, every alert evaluates."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from normfold.service.app import create_app
from normfold.service.auth.key_admin import create_key
from normfold.service.runtime.session import Session
from normfold.service.settings import Settings
from tests.support.bundles import BundleWriter
from tests.support.deploy_files import PROMETHEUS, RULES, dashboard_queries, prometheus_command, variable_queries
from tests.support.infer_bodies import PICTURE
from tests.support.raw_http import open_client
from tests.support.service import HeldRuns, Service, serve_app
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.alone]  # it scrapes twice a second

INTERVAL = "500ms"
WINDOW = "2m"
"""Longer than the traffic takes."""

INFER = "/v2/models/digits/infer"
ROUNDS = 4


@dataclass
class Traffic:
    """Requests of every outcome to a service with keys and a queue of one row.

    Attributes:
        fails: while it is set, no network can be run.
        headers: with a key that may ask as often as it likes.
        too_often: with a key that may ask once in a thousand seconds.
    """

    service: Service
    bundles: BundleWriter
    slow: HeldRuns
    fails: threading.Event
    headers: dict[str, str]
    too_often: dict[str, str]

    def ask(self, path: str, body: Any, headers: dict[str, str] | None = None) -> int:
        return self.service.client.post(path, json=body, headers=headers or self.headers).status_code

    def send_round(self, number: int) -> None:
        """Send a request of each kind, and break version 2 again."""
        (self.bundles.root / "digits" / "2" / "manifest.json").write_text("{" + number * " ")
        for _ in range(5):
            assert self.ask(INFER, PICTURE) == 200
            assert self.ask("/v1/models/digits:predict", {"instances": [[[0.0] * 4] * 4]}) == 200
        assert self.ask(INFER, {}) == 400
        assert self.ask("/v2/models/none/infer", PICTURE) == 404
        row = {"name": "input", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}
        self.fails.set()
        assert self.ask("/v2/models/one-by-one/infer", {"inputs": [row]}) == 500
        self.fails.clear()
        self.ask(INFER, PICTURE, self.too_often)
        assert self.ask(INFER, PICTURE, self.too_often) == 429
        self._fill_the_queue()

    def _fill_the_queue(self) -> None:
        slow = self.slow
        slow.running.clear()
        slow.go_on.clear()
        slow.holds.set()
        threads = [threading.Thread(target=self.ask, args=[INFER, PICTURE]) for _ in range(2)]
        threads[0].start()
        assert slow.running.wait(timeout=20)
        assert self.ask(INFER, PICTURE | {"parameters": {"timeout": 20_000}}) == 504
        threads[1].start()
        wait_for(
            lambda: 'normfold_queue_rows{model="digits",version="1"} 1.0' in self._metrics(), timeout_s=60, poll_s=0.05
        )
        assert self.ask(INFER, PICTURE) == 503
        slow.holds.clear()
        slow.go_on.set()
        for thread in threads:
            thread.join(timeout=20)

    def _metrics(self) -> str:
        return self.service.client.get("/metrics", headers=self.headers).text


class Prometheus:
    """The HTTP API."""

    def __init__(self, url: str) -> None:
        self._client = open_client(url)

    def get(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer."""
        answer = self._client.get(f"/api/v1{path}", params=parameters).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def is_ready(self) -> bool:
        """Return whether it answers queries; until its storage is open, it answers all of them with 503."""
        return self._client.get("/-/ready").status_code == 200

    def values(self, expression: str) -> list[float]:
        """Return the values of an expression, now."""
        return [float(sample["value"][1]) for sample in self.get("/query", query=expression)["result"]]

    def __enter__(self) -> Prometheus:
        """Open it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self._client.close()


@pytest.fixture(scope="module")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traffic]:
    """A service that is polled, with a model that can fail."""
    folder = tmp_path_factory.mktemp("service")
    bundles = BundleWriter(folder / "repository")
    bundles.root.mkdir()
    bundles.add_drift_monitor(bundles.digits(1, bias=1.0))
    bundles.one_by_one()
    _, key = create_key(folder / "keys.json", "all", ["infer", "metrics"])
    _, seldom = create_key(folder / "keys.json", "seldom", ["infer"], rate=0.001, burst=1)
    _, metrics = create_key(folder / "keys.json", "prometheus", ["metrics"])
    (folder / "metrics-key").write_text(f"{metrics}\n")
    settings = Settings(
        repository=bundles.root,
        provider="cpu",
        keys=folder / "keys.json",
        model_control="poll",
        poll_interval_s=0.05,
        queue_capacity=1,
        max_batch_size=1,
        drift_share=1.0,
    )
    with pytest.MonkeyPatch.context() as patch:
        slow, fails = HeldRuns(patch), threading.Event()
        held_run = Session.run

        def run(*arguments: Any) -> Any:
            if fails.is_set():
                raise RuntimeError("planted")
            return held_run(*arguments)

        patch.setattr(Session, "run", run)
        with serve_app(create_app(settings), settings) as service:
            wait_for(lambda: service.client.get("/v2/health/ready").status_code == 200, timeout_s=60, poll_s=0.05)
            asks = [{"Authorization": f"Bearer {one}"} for one in (key, seldom)]
            yield Traffic(service, bundles, slow, fails, *asks)


@pytest.fixture(scope="module")
def prometheus(traffic: Traffic, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus with the deployed configuration, which has scraped the service through some rounds of traffic."""
    folder = tmp_path_factory.mktemp("prometheus")
    configuration = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    configuration["global"] = dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), INTERVAL)
    (job,) = configuration["scrape_configs"]
    job["static_configs"] = [{"targets": [traffic.service.client.base_url.netloc.decode()]}]
    job["authorization"] = {"credentials_file": str(traffic.bundles.root.parent / "metrics-key")}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    shutil.copy(PROMETHEUS / "alerts.yml", folder)
    arguments = ["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--web.listen-address=127.0.0.1:0"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([prometheus_command("prometheus"), *arguments], cwd=folder, stdout=log, stderr=log)
    try:
        address = re.compile(r"Listening on.* address=(127\.0\.0\.1:\d+)")
        wait_for(lambda: address.search((folder / "log").read_text()), timeout_s=60, poll_s=0.05)
        found = address.search((folder / "log").read_text())
        assert found
        with Prometheus(f"http://{found[1]}") as api:
            wait_for(api.is_ready, timeout_s=60, poll_s=0.05)
            scrape_traffic(api, traffic)
            yield api
    finally:
        process.terminate()
        process.wait(timeout=20)


def scrape_traffic(api: Prometheus, traffic: Traffic) -> None:
    """Send traffic while Prometheus scrapes, until it has noticed what there is to notice."""

    def scrapes() -> float:
        return sum(api.values(f"count_over_time(up[{WINDOW}])"))

    def wait_for_scrapes(count: float) -> None:
        wait_for(lambda: scrapes() >= count, timeout_s=60, poll_s=0.05)

    wait_for(lambda: api.values("up") == [1.0], timeout_s=60, poll_s=0.05)
    (traffic.bundles.root / "digits" / "2").mkdir()
    for number in range(ROUNDS):
        due = scrapes() + 2
        traffic.send_round(number)
        wait_for_scrapes(due)
    wait_for(
        lambda: api.values('ALERTS{alertname="NormfoldLoadFailed", alertstate="firing"}'), timeout_s=60, poll_s=0.05
    )


def chosen(expression: str, model: str, version: str) -> str:
    """Return an expression of the dashboard with its variables replaced, as Grafana does."""
    for name, text in (("$model", model), ("$version", version), ("$__rate_interval", WINDOW)):
        expression = expression.replace(name, text)
    assert "$" not in expression
    return expression


@pytest.mark.parametrize(("model", "version"), [(".*", ".*"), ("digits", "1")], ids=["all", "one version"])
@pytest.mark.parametrize("query", [pytest.param(text, id=name) for name, text in dashboard_queries()])
def test_query_of_the_dashboard_has_values(prometheus: Prometheus, query: str, model: str, version: str) -> None:
    values = prometheus.values(chosen(query, model, version))

    assert values
    assert all(math.isfinite(value) for value in values)


@pytest.mark.parametrize(
    ("title", "least"),
    [
        ("Requests A", 0.1),
        ("Server errors A", 0.001),
        ("Rejected requests A", 0.01),
        ("Rejected requests by reason A", 0.01),
        ("Rejected requests by reason C", 0.01),
        ("Rejected requests by reason D", 0.01),
        ("Latency p99 A", 0.0001),
        ("Failed loads A", 1.0),
        ("Nodes by provider A", 2.0),
        ("Memory A", 1e7),
        ("Workers B", 1.0),
    ],
)
def test_provoked_outcomes_are_in_the_queries(prometheus: Prometheus, title: str, least: float) -> None:
    query = dict(dashboard_queries())[title]
    assert max(prometheus.values(chosen(query, ".*", ".*"))) >= least


def test_variables_of_the_dashboard_offer_the_served_models(prometheus: Prometheus) -> None:
    offered = {
        label: prometheus.get(f"/label/{label}/values", **{"match[]": chosen(selector, "digits", ".*")})
        for selector, label in variable_queries()
    }
    assert offered == {"model": ["digits", "one-by-one"], "version": ["1", "2"]}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_expression_of_an_alert_evaluates(prometheus: Prometheus, rule: dict[str, Any]) -> None:
    assert all(math.isfinite(value) for value in prometheus.values(rule["expr"]))


def test_alerts_on_provoked_outcomes_fire_and_those_on_the_whole_service_do_not(prometheus: Prometheus) -> None:
    rules = [rule for group in prometheus.get("/rules")["groups"] for rule in group["rules"]]
    assert [(rule["name"], rule["health"]) for rule in rules] == [(rule["alert"], "ok") for rule in RULES]

    fires = {
        alert["labels"]["alertname"] for alert in prometheus.get("/alerts")["alerts"] if alert["state"] == "firing"
    }
    assert fires == {"NormfoldLoadFailed", "NormfoldServerFaults"}  # the others wait
    waits = {alert["labels"]["alertname"] for alert in prometheus.get("/alerts")["alerts"]} - fires
    assert {"NormfoldVersionUnavailable", "NormfoldQueueRejections", "NormfoldRejections"} <= waits
    assert not waits & {"NormfoldDown", "NormfoldNotReady", "NormfoldModelUnavailable", "NormfoldModelGone"}
