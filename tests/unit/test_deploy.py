"""The files of deploy/ use what is documented: metrics, labels, paths, options; and their numbers fit together."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from streamworker.cli.run import run

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
METRICS = (ROOT / "docs/metrics.md").read_text()
YAML = sorted(DEPLOY.rglob("*.yaml")) + sorted(DEPLOY.rglob("*.yml"))
TEXTS = sorted(path for path in DEPLOY.rglob("*") if path.is_file())

# What Prometheus adds to every series, and what it names itself.
TARGET_LABELS = {"job", "instance"}
BUILT_IN = {"up": TARGET_LABELS, "ALERTS": {"alertname", "alertstate", "severity", "stream", "group", "state"}}
# Words that stand before a bracket with labels in PromQL.
GROUPING = r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)"

ALERTS = {
    "BacklogGrowing",
    "OldestTooOld",
    "StuckPending",
    "DeadLetters",
    "PollStalled",
    "EntriesTrimmed",
    "PayloadGrew",
    "LagUnknown",
    "HandlerStuck",
    "NoSampler",
    "WorkersDown",
}

# systemd ignores a key that it does not know, so a misspelt one protects nothing.
UNIT_KEYS = {
    "Unit": "Description Documentation Wants After",
    "Service": """
        Type WorkingDirectory EnvironmentFile Environment LoadCredential ExecStart KillMode TimeoutStopSec Restart
        RestartSec RestartPreventExitStatus DynamicUser RuntimeDirectory RuntimeDirectoryMode UMask NoNewPrivileges
        CapabilityBoundingSet AmbientCapabilities ProtectSystem ProtectHome PrivateTmp PrivateDevices ProtectClock
        ProtectHostname ProtectKernelLogs ProtectKernelModules ProtectKernelTunables ProtectControlGroups ProtectProc
        LockPersonality RemoveIPC RestrictAddressFamilies RestrictNamespaces RestrictRealtime RestrictSUIDSGID
        SystemCallArchitectures SystemCallFilter SystemCallErrorNumber
    """,
    "Install": "WantedBy",
}


def documented() -> dict[str, set[str]]:
    """Every series of docs/metrics.md with its labels; a histogram is three."""
    series: dict[str, set[str]] = {}
    for section in METRICS.split("\n## "):
        common = {"stream", "group"} if section.startswith("Of this worker") else set[str]()
        for name, kind, labels in re.findall(r"^\| `(streamworker_\w+)` \| (\w+) \| ([^|]*)\|", section, re.MULTILINE):
            found = common | set(re.findall(r"`(\w+)`", labels))
            if kind == "histogram":
                series |= {f"{name}_bucket": found | {"le"}, f"{name}_sum": found, f"{name}_count": found}
            else:
                series[name] = found
    return series


SERIES = documented()


@dataclass(frozen=True, slots=True)
class Query:
    where: str
    text: str
    shown: str  # what is said about its result, with names of labels in {{ }}

    def __str__(self) -> str:
        return self.where


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "prometheus/alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DEPLOY / "grafana/dashboard.json").read_text())
    return found


def queries() -> Iterator[Query]:
    for rule in alerts():
        yield Query(f"alert {rule['alert']}", rule["expr"], " ".join(rule["annotations"].values()))
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            text = target["expr"].replace("$__rate_interval", "5m")
            yield Query(f"panel {panel['title']} {target['refId']}", text, target["legendFormat"])
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
            assert found, variable
            yield Query(f"variable {variable['name']}", found[1], f"{{{{{found[2]}}}}}")
    for test in yaml.safe_load((DEPLOY / "prometheus/alerts_test.yaml").read_text())["tests"]:
        for series in test["input_series"]:
            yield Query(f"test {test['name']}: {series['series']}", series["series"], "")


QUERIES = list(queries())


def labels_of(name: str) -> set[str]:
    """The labels that a series may have.

    Raises:
        KeyError: it is not documented.
    """
    if name.startswith("process_") and "`process_…`" in METRICS:
        return TARGET_LABELS
    return BUILT_IN[name] if name in BUILT_IN else SERIES[name] | TARGET_LABELS


def used_names(text: str) -> set[str]:
    return set(re.findall(r"\b(?:(?:streamworker|process)_\w+|up\b|ALERTS\b)", text))


def test_the_documentation_is_read() -> None:
    assert len(SERIES) > 50
    assert SERIES["streamworker_group_lag"] == {"stream", "group"}
    assert SERIES["streamworker_process_duration_seconds_bucket"] == {"stream", "group", "handler", "le"}
    assert SERIES["streamworker_stream_length"] == {"stream"}
    assert SERIES["streamworker_event_loop_lag_seconds"] == set()


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_each_query_is_promql(query: Query) -> None:
    promql_parser.parse(query.text)


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_each_query_asks_only_for_documented_metrics_and_labels(query: Query) -> None:
    names = used_names(query.text)
    assert names or "__name__" in query.text
    known = set.union(TARGET_LABELS, *map(labels_of, names))
    for name, matchers in re.findall(r"([a-zA-Z_:]\w*)?\s*\{([^}]*)\}", query.text):
        wanted = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
        if "__name__" in wanted:
            assert wanted - {"__name__"} <= set.intersection(*map(labels_of, used_names(matchers)))
        else:
            assert wanted <= labels_of(name), name
    grouped = {label.strip() for labels in re.findall(GROUPING, query.text) for label in labels.split(",")} - {""}
    assert grouped <= known
    shown = set(re.findall(r"\{\{\s*(\w+)\s*\}\}", query.shown)) | set(re.findall(r"\$labels\.(\w+)", query.shown))
    assert shown <= known


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_each_metric_that_is_named_anywhere_is_documented(path: Path) -> None:
    named = set(re.findall(r"(?<![\w/-])streamworker_[a-z_]+", path.read_text()))
    assert named <= set(SERIES)


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_each_yaml_file_parses(path: Path) -> None:
    assert all(yaml.safe_load_all(path.read_text()))


def test_each_alert_says_when_how_bad_and_what_to_do() -> None:
    assert {rule["alert"] for rule in alerts()} == ALERTS
    for rule in alerts():
        assert re.fullmatch(r"\d+m", rule["for"]), rule["alert"]
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert set(rule["annotations"]) == {"summary", "description"}
        # What is shown of a series must have survived the query.
        kept = {label.strip() for labels in re.findall(r"by \(([^)]*)\)", rule["expr"]) for label in labels.split(",")}
        assert set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))) <= kept


def test_for_each_alert_a_test_lets_it_fire_and_one_lets_it_not() -> None:
    fired, silent = set[str](), set[str]()
    for test in yaml.safe_load((DEPLOY / "prometheus/alerts_test.yaml").read_text())["tests"]:
        about = {name for name in ALERTS if name in test["name"]}
        for look in test["promql_expr_test"]:
            if "exp_samples" in look:
                fired |= set(re.findall(r'alertname="(\w+)"', str(look["exp_samples"])))
            else:
                silent |= about
    assert fired == silent == ALERTS


def test_the_dashboard_can_be_imported_anywhere() -> None:
    board = dashboard()
    assert board["id"] is None  # a number would be that of another dashboard
    assert [variable["name"] for variable in board["templating"]["list"]] == ["datasource", "stream", "group"]
    rows = [panel["title"] for panel in board["panels"] if panel["type"] == "row"]
    assert rows == ["How far behind", "Speed", "Handlers", "Failures", "Redis", "Process"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    taken = set[tuple[int, int]]()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        for source in [panel, *panel.get("targets", ())]:
            assert source.get("datasource", {}).get("uid", "${datasource}") == "${datasource}"


def kubernetes(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes" / name).read_text()))


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = kubernetes("deployment.yaml")[0]["spec"]["template"]["spec"]
    return spec


def documented_paths() -> set[str]:
    return set(re.findall(r"^\| `(/\w+)", METRICS, re.MULTILINE))


def test_probes_and_scrapers_ask_for_documented_paths_on_the_port_that_listens() -> None:
    container = pod()["containers"][0]
    args = container["args"]
    port = container["ports"][0]
    assert args[args.index("--http") + 1] == f"0.0.0.0:{port['containerPort']}"
    probes = {name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startupProbe": "/livez",
        "livenessProbe": "/livez",
        "readinessProbe": "/readyz",
    }
    monitor = kubernetes("podmonitor.yaml")[0]["spec"]["podMetricsEndpoints"][0]
    assert {probe["port"] for probe in [*probes.values(), monitor]} == {port["name"]}
    asked = {probe["path"] for probe in probes.values()} | {monitor["path"]}
    for path in TEXTS:
        asked |= set(re.findall(r":80\d\d(/\w+)", path.read_text()))
    assert asked == documented_paths()


def test_the_number_that_keda_may_ask_a_worker_for_is_in_its_documented_answer() -> None:
    answer = re.search(r"`/scale[^`]*` \| `([^`]*)`", METRICS)
    wanted = re.search(r"valueLocation: (\w+)", (DEPLOY / "kubernetes/keda.yaml").read_text())
    assert answer
    assert wanted
    assert wanted[1] in json.loads(answer[1])


def test_a_drain_ends_before_the_worker_is_killed() -> None:
    args = pod()["containers"][0]["args"]
    assert pod()["terminationGracePeriodSeconds"] >= int(args[args.index("--shutdown-timeout") + 1]) + 5
    service = dict(unit()["Service"])
    timeout = re.search(r"--shutdown-timeout (\d+)", service["ExecStart"])
    assert timeout
    assert int(service["TimeoutStopSec"]) >= int(timeout[1]) + 5


def test_the_start_may_wait_for_redis_as_long_as_the_worker_does() -> None:
    probe = pod()["containers"][0]["startupProbe"]
    wait = next(option.default for option in run.params if "--connect-timeout" in option.opts)
    assert probe["periodSeconds"] * probe["failureThreshold"] > wait


def test_the_pod_may_do_as_little_as_possible() -> None:
    container = pod()["containers"][0]
    user = re.findall(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert user == [(str(pod()["securityContext"]["runAsUser"]), str(pod()["securityContext"]["runAsGroup"]))]
    assert pod()["securityContext"]["runAsNonRoot"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/tmp"]
    assert "value" not in container["env"][0]  # the URL comes from the Secret


def test_the_kubernetes_files_mean_the_same_workers() -> None:
    deployment = kubernetes("deployment.yaml")[0]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert kubernetes("pdb.yaml")[0]["spec"]["selector"]["matchLabels"] == labels
    monitor = kubernetes("podmonitor.yaml")[0]["spec"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    # The job of the alert WorkersDown.
    assert labels[monitor["jobLabel"]] == "streamworker"
    scrapes = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    assert [scrape["job_name"] for scrape in scrapes] == ["streamworker"]
    authentication, scaled = kubernetes("keda.yaml")
    assert scaled["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    for trigger in scaled["spec"]["triggers"]:
        assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]
    listed = (DEPLOY / "kubernetes/kustomization.yaml").read_text()
    here = {path.name for path in (DEPLOY / "kubernetes").iterdir()} - {"kustomization.yaml"}
    assert set(re.findall(r"- (\S+\.yaml)", listed)) == here


def test_keda_counts_what_waits_and_what_runs() -> None:
    known = {"address", "stream", "consumerGroup", "lagCount", "activationLagCount", "pendingEntriesCount"}
    scaled = kubernetes("keda.yaml")[1]["spec"]
    lag, pending = (trigger["metadata"] for trigger in scaled["triggers"])
    assert {trigger["type"] for trigger in scaled["triggers"]} == {"redis-streams"}
    assert lag.keys() | pending.keys() == known
    assert all(isinstance(value, str) for value in [*lag.values(), *pending.values()])  # KEDA refuses numbers
    assert lag["activationLagCount"] == "0"
    assert "lagCount" not in pending  # with it KEDA would look at the lag again


def unit() -> dict[str, list[tuple[str, str]]]:
    """The sections of the unit, each with its keys in order."""
    sections: dict[str, list[tuple[str, str]]] = {}
    text = (DEPLOY / "systemd/streamworker@.service").read_text().replace("\\\n", " ")
    for line in filter(None, text.splitlines()):
        if line.startswith("["):
            sections[line.strip("[]")] = keys = []
        elif not line.startswith("#"):
            key, _, value = line.partition("=")
            keys.append((key, value))
    return sections


def test_systemd_knows_each_key_of_the_unit() -> None:
    assert list(unit()) == list(UNIT_KEYS)
    for section, keys in unit().items():
        assert {key for key, _ in keys} == set(UNIT_KEYS[section].split())


def test_systemd_starts_again_unless_that_is_hopeless() -> None:
    service = dict(unit()["Service"])
    assert service["Restart"] == "on-failure"
    codes = dict(re.findall(r"^ +(\d)  +(.*)$", run.help or "", re.MULTILINE))
    assert "cannot be imported" in codes[service["RestartPreventExitStatus"]]
    assert service["KillMode"] == "mixed"
    assert service["Type"] == "exec"


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_each_option_and_variable_exists(path: Path) -> None:
    # docs/metrics.md documents --http.
    options = {name for option in run.params for name in option.opts} | set(re.findall(r"--[a-z-]+", METRICS))
    variables = {str(option.envvar) for option in run.params} | {"STREAMWORKER_REDIS_URL", "STREAMWORKER_EMBEDDED"}
    variables |= {"STREAMWORKER_" + name[2:].replace("-", "_").upper() for name in options}
    text = path.read_text()
    assert set(re.findall(r"\bSTREAMWORKER_[A-Z_]*[A-Z]\b", text)) <= variables
    words = text if path.suffix == ".service" else " ".join(pod()["containers"][0]["args"])
    assert set(re.findall(r"(?<=\s)--[a-z-]+", words)) <= options | {"--now"}
