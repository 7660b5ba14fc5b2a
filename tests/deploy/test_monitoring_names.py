"""The names that alerts, dashboard, documents and service must agree on, without Prometheus."""

from __future__ import annotations

import re

import pytest
import yaml
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from normfold.service.settings import Settings
from scripts.docs_reference.service import metrics, triton_metrics
from tests.support.bundles import BundleWriter
from tests.support.deploy_files import (
    DASHBOARD,
    GRAFANA,
    PROMETHEUS,
    RULES,
    dashboard_queries,
    metrics_of,
    variable_queries,
)
from tests.support.paths import ROOT
from tests.support.service import StartService, post_picture

ALERTS_PAGE = (ROOT / "docs" / "how-to" / "alerts.md").read_text()


@pytest.fixture
def families(bundles: BundleWriter, start: StartService) -> list[Metric]:
    """The metrics of a service that was asked something, under Triton's names too."""
    bundles.digits()
    service = start(bundles.root, triton_metrics=True)
    assert post_picture(service).status_code == 200
    return list(text_string_to_metric_families(service.client.get("/metrics").text))


def test_every_metric_that_is_asked_for_exists(families: list[Metric]) -> None:
    known = {sample.name for family in families for sample in family.samples} | {"up", "ALERTS"}  # Prometheus's own
    known |= {family.name for family in families if family.type == "gauge"}  # of what there need not be any
    known |= {f"{family.name}_total" for family in families if family.type == "counter"}
    asked = {name: metrics_of(expression) for name, expression in dashboard_queries()}
    asked |= {rule["alert"]: metrics_of(rule["expr"]) for rule in RULES}
    asked |= {label: metrics_of(selector) for selector, label in variable_queries()}

    assert all(asked.values())
    assert {name: sorted(names - known) for name, names in asked.items() if names - known} == {}


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        (
            'sum by (status) (rate(a_total{b=~"c|d", e!="f"}[5m])) / on (g) group_left (h) max_over_time(i[30m]) > 0.5',
            "a_total i",
        ),
        ("up == 0 or absent(up)", "up"),
        (
            "histogram_quantile(0.9, sum by (le) (rate(x_bucket[$__rate_interval]))) and on (job) y unless z",
            "x_bucket y z",
        ),
    ],
)
def test_names_are_found_in_an_expression(expression: str, names: str) -> None:
    assert metrics_of(expression) == set(names.split())


def test_the_table_of_metrics_has_all_of_them_and_nothing_else(families: list[Metric]) -> None:
    documented = set(re.findall(r"`((?:normfold|process|nv)_\w+)`", metrics() + triton_metrics()))

    assert documented == {f"{family.name}{'_total' * (family.type == 'counter')}" for family in families}


def test_every_alert_has_its_heading_in_the_order_of_the_file() -> None:
    alerts = [rule["alert"] for rule in RULES]

    assert re.findall(r"^## (\w+)$", ALERTS_PAGE, re.MULTILINE) == alerts
    assert [rule["annotations"]["runbook"] for rule in RULES] == [
        f"docs/how-to/alerts.md#{alert.lower()}" for alert in alerts
    ]


def test_prometheus_scrapes_the_service_and_grafana_reads_prometheus() -> None:
    jobs = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    sources = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text())["datasources"]

    assert [job["static_configs"] for job in jobs] == [[{"targets": [f"service:{Settings().port}"]}]]
    assert [job["job_name"] for job in jobs] == ["normfold"]
    assert [source["url"] for source in sources] == ["http://prometheus:9090"]
    assert DASHBOARD["templating"]["list"][0]["current"]["value"] == sources[0]["uid"]


def test_panels_do_not_overlap_and_have_descriptions() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert x < 24
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
        assert panel["type"] == "row" or panel["description"].endswith(".")
    identities = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(identities)) == len(identities)
