"""The compose files: what they mount is there, what they set exists, and what has to be locked is."""

import re
from pathlib import Path

import pytest
import yaml

from server.settings import setting_fields, variable_name

ROOT = Path(__file__).parent.parent
OVERLAYS = sorted((ROOT / "docker").glob("compose.*.yaml"))
FILES = [ROOT / "compose.yaml", *OVERLAYS]


def loaded(path):
    return yaml.safe_load(path.read_text())


SERVICES = [
    pytest.param(path, name, service, id=f"{path.name}:{name}")
    for path in FILES
    for name, service in loaded(path)["services"].items()
]


@pytest.mark.parametrize(("path", "name", "service"), SERVICES)
def test_what_a_service_mounts_is_here_or_a_volume_that_is_declared(path, name, service):
    declared = set(loaded(path).get("volumes") or {})
    for volume in service.get("volumes", ()):
        source = volume.split(":")[0]
        if source.startswith("./"):
            assert (ROOT / source).exists(), volume  # relative to the first file, compose.yaml
            assert volume.endswith(":ro"), volume
        else:
            assert source in declared, volume


@pytest.mark.parametrize(("path", "name", "service"), SERVICES)
def test_every_service_is_locked_in(path, name, service):
    if path in OVERLAYS and name == "twopass":  # more of the one in compose.yaml
        return
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert set(service.get("cap_add", ())) <= {"NET_BIND_SERVICE"}
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert service["restart"] == "unless-stopped"
    assert "privileged" not in service


@pytest.mark.parametrize(("path", "name", "service"), SERVICES)
def test_images_of_others_are_named_by_version_and_settings_of_ours_exist(path, name, service):
    known = {variable_name(key) for key in setting_fields()}
    if name == "twopass":
        assert set(service.get("environment", ())) <= known
    else:
        assert re.fullmatch(r"[a-z0-9./]+:v?\d+(\.\d+)+", service["image"])
        assert "build" not in service


def test_only_caddy_is_reachable_from_outside():
    ports = {name: service.get("ports", []) for path in FILES for name, service in loaded(path)["services"].items()
             if "ports" in service}  # fmt: skip
    assert ports.pop("caddy") == ["80:80", "443:443", "443:443/udp"]
    assert ports and all(port.startswith("127.0.0.1:") for each in ports.values() for port in each)


def test_the_key_comes_as_a_secret_and_never_in_the_environment():
    compose = loaded(ROOT / "compose.yaml")
    service = compose["services"]["twopass"]
    assert service["secrets"] == ["api_key"]
    assert compose["secrets"] == {"api_key": {"file": "${API_KEY_FILE:-/dev/null}"}}
    assert service["environment"]["TWOPASS_SERVER__API_KEY_FILE"] == "${API_KEY_FILE:+/run/secrets/api_key}"
    assert all("_KEY" not in name or name.endswith("_FILE") for name in service["environment"])


def test_commands_that_ask_the_server_bring_its_key_as_inside_a_container_it_always_asks_for_one():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "docker").glob("*.md")]
    text = "".join(page.read_text().replace("\\\n", " ") for page in pages)
    commands = re.findall(r"docker compose (?:exec|run)[^`\n]* twopass (?:twopass )?(\w+)[^`\n]*", text)
    told = re.findall(
        r"docker compose (?:exec|run)[^`\n]* twopass (?:twopass )?(?:search|backup|ingest)[^`\n]*", text
    )
    assert set(commands) >= {"search", "backup", "ingest", "key", "restore"} and len(told) >= 3
    assert [command for command in told if "TWOPASS_API_KEY" not in command] == []


def test_prometheus_asks_the_service_and_grafana_asks_prometheus():
    overlay = loaded(ROOT / "docker/compose.metrics.yaml")["services"]
    (job,) = loaded(ROOT / "docker/prometheus.yml")["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["twopass:8000"]}]
    (source,) = loaded(ROOT / "docker/grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090" and "prometheus" in overlay
    (provider,) = loaded(ROOT / "docker/grafana/provisioning/dashboards/twopass.yaml")["providers"]
    mounts = [volume.split(":")[:2] for volume in overlay["grafana"]["volumes"]]
    assert ["./docker/grafana/dashboards", provider["options"]["path"]] in mounts
    home = Path(overlay["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert home.parent == Path(provider["options"]["path"])
    dashboard = loaded(ROOT / "docker/grafana/dashboards" / home.name)  # JSON is YAML
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"] if "datasource" in panel} == {
        source["uid"]
    }


def test_caddy_hands_on_to_the_service_and_keeps_the_figures_inside():
    caddyfile = (ROOT / "docker/Caddyfile").read_text()
    assert "reverse_proxy twopass:8000" in caddyfile and "respond /metrics 404" in caddyfile


def stages():
    """The Dockerfile's stages by name: what each starts from, and its instructions."""
    found, name = {}, ""
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        if line.startswith("FROM "):
            _, base, _, name = line.split()
            found[name] = (base, [])
        elif name:
            found[name][1].append(line)
    return found


def test_both_images_are_alike_but_for_their_packages_and_the_full_one_is_the_default():
    found = stages()
    assert list(found)[-1] == "full"
    assert found["full"][0] == found["slim"][0] == "runtime"
    copies = [line for line in found["slim"][1] if line]
    assert [line.replace("--from=slim-builder", "--from=builder") for line in copies] == [
        line for line in found["full"][1] if line
    ]
    runtime = "\n".join(found["runtime"][1])
    assert "USER 10001:10001" in runtime and "HEALTHCHECK" in runtime and "VOLUME /data" in runtime


def test_what_the_image_copies_is_in_the_build_context():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    sent = {line[1:] for line in ignored if line.startswith("!")}
    for _, lines in stages().values():
        for line in lines:
            if line.startswith("COPY ") and "--from" not in line:
                *sources, _ = line.split()[1:]
                assert set(sources) <= sent, line
