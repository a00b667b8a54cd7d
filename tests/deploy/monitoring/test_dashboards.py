"""The dashboards: as the code makes them, and never empty on a real Prometheus. *Engine*: tests/engine."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.monitoring import dashboards
from tests.deploy.monitoring.prometheus import ROOT, Prometheus
from tests.sdks import environments
from tests.server.conftest import eventually

SOURCE = ROOT / "deploy" / "grafana" / "source"
SHADOW = {"slhf_win_rate_low", "slhf_win_rate_high"} | {
    f"slhf_shadow_{rest}" for rest in ("total", "tokens_total", "queue")
}
"""What only a model in shadow mode has."""
UNNAMED_LABELS = {"job", "instance", "le", "position", "version", "revision", "finished_reason"}


@pytest.fixture(scope="session")
def sdk() -> Path:
    """The environment with Grafana's SDK, made on first use."""
    try:
        return environments.ensure(ROOT / "deploy" / "grafana" / "requirements.txt")
    except subprocess.CalledProcessError as exc:
        pytest.skip(f"Grafana's SDK cannot be installed: {exc.stdout}")


def all_panels() -> list[Any]:
    return [
        pytest.param(panel, id=f"{name}: {panel['title']}")
        for name in dashboards.NAMES
        for panel in dashboards.panels(name)
    ]


def test_the_committed_dashboards_are_those_that_the_code_makes(sdk: Path, tmp_path: Path) -> None:
    subprocess.run([sdk / "bin" / "python", SOURCE, tmp_path], check=True, timeout=60)
    made = {file.name: file.read_text(encoding="utf-8") for file in tmp_path.iterdir()}
    committed = {file.name: file.read_text(encoding="utf-8") for file in dashboards.FOLDER.iterdir()}
    assert made == committed, "run scripts/dashboards"


@pytest.mark.parametrize("panel", all_panels())
def test_every_panel_says_what_it_shows_and_in_which_unit(panel: dict[str, Any]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    assert panel["description"].endswith(".")
    assert defaults["unit"]
    assert panel["targets"]
    assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])


@pytest.mark.parametrize("name", dashboards.NAMES)
def test_panels_have_numbers_of_their_own_and_do_not_overlap(name: str) -> None:
    everything = dashboards.dashboard(name)["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in everything)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_the_dashboards_link_to_each_other_and_keep_what_was_chosen() -> None:
    uids = {name: dashboards.dashboard(name)["uid"] for name in dashboards.NAMES}
    for name in dashboards.NAMES:
        links = dashboards.dashboard(name)["links"]
        assert {link["url"] for link in links} == {f"/d/{uid}" for other, uid in uids.items() if other != name}
        assert all(link["keepTime"] and link["includeVars"] for link in links)


def test_there_is_a_variable_for_every_label_that_is_ours(watched: Prometheus) -> None:
    ours = {label for name, labels in watched.labels().items() if name.startswith("slhf_") for label in labels}
    assert ours - UNNAMED_LABELS == {variable.label for variable in dashboards.variables("refinement")} - UNNAMED_LABELS


def test_no_panel_is_empty(watched: Prometheus) -> None:
    assert eventually(lambda: not dashboards.empty(watched, "refinement")), dashboards.empty(watched, "refinement")


def test_no_metric_and_no_filtered_label_is_unknown(watched: Prometheus) -> None:
    exprs = [*dashboards.marks("refinement"), *(expr for _, expr in dashboards.queries("refinement"))]
    assert dashboards.unknown(watched, exprs) == set()


def test_every_variable_offers_values(watched: Prometheus) -> None:
    for variable in dashboards.variables("refinement"):
        metric = dashboards.filled_in(variable.metric)
        assert watched.values(variable.label, metric), variable


@pytest.mark.parametrize(("model", "in_shadow"), [("plain", False), ("shaded", True)])
def test_a_chosen_model_empties_no_panel(watched: Prometheus, model: str, in_shadow: bool) -> None:
    """A model in shadow mode has the panels of the shadow, any other one all the others."""
    every = dashboards.queries("refinement")
    due = {f"{title}: {expr}" for title, expr in every if bool(dashboards.metrics(expr) & SHADOW) is in_shadow}

    def missing() -> set[str]:
        return due & {*dashboards.empty(watched, "refinement", {"model_name": model})}

    assert eventually(lambda: not missing()), missing()
