"""Rules and alerts: they fire when they should (alerts.yml), and know no metric that the server does not show."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from slhf_server import errors
from tests.deploy.monitoring import dashboards
from tests.deploy.monitoring.prometheus import CONFIGURATION, ROOT, RULES, Prometheus, promtool
from tests.server.conftest import eventually

FILES = sorted(RULES.glob("*.yml"))
CASES = [Path(__file__).with_name(name) for name in ("alerts.yml", "alerts_of_days.yml")]
GUIDE = ROOT / "docs" / "monitoring.md"


def rules(kind: str) -> list[dict[str, Any]]:
    """All of a kind: `record` or `alert`."""
    groups = [group for file in FILES for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def failures(kind: type[errors.RequestError] = errors.RequestError) -> Iterator[type[errors.RequestError]]:
    yield kind
    for narrower in kind.__subclasses__():
        yield from failures(narrower)


def test_prometheus_accepts_the_configuration_and_the_rules() -> None:
    checked = promtool("check", "config", str(CONFIGURATION))
    assert checked.returncode == 0, checked.stderr
    checked = promtool("check", "rules", "--lint-fatal", *map(str, FILES))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_alerts_fire_when_they_should_and_are_silent_otherwise() -> None:
    tested = promtool("test", "rules", *map(str, CASES))
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_is_tested_both_ways() -> None:
    cases = [case for file in CASES for case in yaml.safe_load(file.read_text(encoding="utf-8"))["tests"]]
    expected = [(check["alertname"], bool(check["exp_alerts"])) for case in cases for check in case["alert_rule_test"]]
    names = {rule["alert"] for rule in rules("alert")}
    assert set(expected) == {(name, fires) for name in names for fires in (True, False)}


@pytest.mark.parametrize("rule", rules("alert"), ids=lambda rule: str(rule["alert"]))
def test_every_alert_says_how_urgent_it_is_what_is_wrong_and_where_to_read_on(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"].keys() == {"summary", "description"}
    assert f"### {rule['alert']}\n" in GUIDE.read_text(encoding="utf-8")


def test_errors_of_ours_are_those_with_status_500_and_above() -> None:
    """In the rules and in the dashboard."""
    ours = {kind.code or kind.type for kind in failures() if kind.status >= 500}
    exprs = [rule["expr"] for rule in rules("record")] + [expr for _, expr in dashboards.queries("refinement")]
    lists = {found for expr in exprs for found in re.findall(r'error_type=~"([a-z_|]+)"', expr)}
    assert [set(one.split("|")) for one in lists] == [ours]


def test_every_recording_rule_records_something(watched: Prometheus) -> None:
    def missing() -> list[str]:
        return [rule["record"] for rule in rules("record") if not watched.query(rule["record"])]

    assert eventually(lambda: not missing()), missing()


def test_no_rule_knows_a_metric_that_is_not_there(watched: Prometheus) -> None:
    assert eventually(lambda: bool(watched.query("slhf:draft_length_ratio:mean1d")))
    every = [*rules("record"), *rules("alert")]
    assert dashboards.unknown(watched, (rule["expr"] for rule in every)) == set()


def test_prometheus_evaluates_every_rule(watched: Prometheus) -> None:
    loaded = [rule for group in watched.get("rules")["groups"] for rule in group["rules"]]
    assert len(loaded) == len(rules("record")) + len(rules("alert"))
    assert {rule["health"] for rule in loaded} <= {"ok", "unknown"}
    assert not [rule for rule in loaded if rule.get("lastError")]


def test_an_open_breaker_is_on_its_way_to_wake_somebody(watched: Prometheus) -> None:
    def pending() -> bool:
        return bool(watched.query('ALERTS{alertname="SlhfUpstreamBreakerOpen", upstream="broken"}'))

    assert eventually(pending)
