"""The compose files: the schema of the Compose specification, and what their parts say to each other."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from fastapi.testclient import TestClient

from dropmill.commands import Commands
from dropmill.config import load_config
from dropmill.http_api import make_app
from dropmill.metrics import Health, Metrics
from ingest.sources.webhook import Webhook
from tests.infra.command_lines import check_dropmill, check_ray

_INFRA = Path(__file__).resolve().parents[2] / "infra"
_FILES = sorted(_INFRA.glob("compose*.yaml"))
_CONFIGS = sorted((_INFRA / "compose").glob("*.yaml"))


@pytest.fixture(scope="module")
def services():
    return yaml.safe_load((_INFRA / "compose.yaml").read_text())["services"]


def _plain(value, secret="s3cret"):
    """A value with its variables filled in."""
    value = re.sub(r"\$\{\w+:\?[^}]*\}", secret, str(value))
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)


def test_compose_files_follow_the_compose_specification():
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, *map(str, _FILES)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_overlays_only_change_services_that_there_are(services):
    for path in _FILES:
        assert set(yaml.safe_load(path.read_text())["services"]) <= set(services)


def test_command_lines_of_the_services_are_understood(services):
    check_dropmill(services["service"]["command"])
    for name in ("head", "worker"):
        assert services[name]["entrypoint"] == ["ray"]
        check_ray([_plain(word) for word in services[name]["command"]])
        check_ray(services[name]["healthcheck"]["test"][2:])


@pytest.mark.parametrize("path", _CONFIGS, ids=lambda path: path.name)
def test_configurations_load_and_fit_the_services(services, path):
    config = load_config(path)
    host, port = config.ray.address.removeprefix("ray://").split(":")
    assert host in services
    assert f"--ray-client-server-port={port}" in services[host]["command"]
    assert f"127.0.0.1:{config.http.port}:{config.http.port}" in services["service"]["ports"]
    secrets = services["service"]["environment"]
    assert {config.http.token_env, config.sources.webhook.secret_env} <= set(secrets)
    mounts = [volume.split(":")[1] for volume in services["service"]["volumes"]]
    assert any(config.sources.webhook.spool.is_relative_to(mount) for mount in mounts)
    made = services["buckets"]["command"][0]
    for url in (config.bucket, config.lake):
        assert f"store/{url.removeprefix('s3://')}" in made


def test_only_the_overlay_that_brings_torch_has_a_pipeline():
    pipelines = {path.name: load_config(path).pipelines for path in _CONFIGS}
    assert not pipelines["dropmill.yaml"]
    assert pipelines["dropmill.train.yaml"]
    train = yaml.safe_load((_INFRA / "compose.train.yaml").read_text())["services"]
    assert {service["build"]["target"] for service in train.values()} == {"gpu"}
    assert train["service"]["volumes"] == ["./compose/dropmill.train.yaml:/etc/dropmill/dropmill.yaml:ro"]


def test_a_notification_of_minio_as_configured_is_accepted(services, tmp_path):
    minio = services["minio"]["environment"]
    endpoint = minio["MINIO_NOTIFY_WEBHOOK_ENDPOINT_DROPMILL"]
    host, port, route = re.fullmatch(r"http://(\w+):(\d+)(/\w+)", endpoint).groups()
    config = load_config(_CONFIGS[0])
    assert host == "service"
    assert int(port) == config.http.port
    webhook = Webhook(tmp_path, secret="s3cret", bucket="drops")
    client = TestClient(make_app(Health(), Metrics(), Commands(), webhook=webhook, token="t"))
    event = {
        "EventName": "s3:ObjectCreated:Put",
        "Key": "drops/cells/a+b.png",
        "Records": [
            {
                "eventSource": "minio:s3",
                "eventName": "s3:ObjectCreated:Put",
                "s3": {"bucket": {"name": "drops"}, "object": {"key": "cells%2Fa+b.png", "size": 3}},
            }
        ],
    }
    token = _plain(minio["MINIO_NOTIFY_WEBHOOK_AUTH_TOKEN_DROPMILL"])
    assert client.post(route, json=event, headers={"Authorization": token}).json() == {"noted": 1}
    assert [hint.key for hint in webhook.take(10)] == ["cells/a b.png"]
    assert client.post(route, json=event, headers={"Authorization": "Bearer other"}).status_code == 401


def test_health_is_asked_where_the_service_answers(services):
    client = TestClient(make_app(Health(), Metrics(), Commands()))
    url = services["service"]["healthcheck"]["test"][-1]
    assert client.get(url.removeprefix("http://127.0.0.1:8080")).status_code == 200


def test_no_secret_stands_in_the_files_and_none_has_a_default():
    for path in _FILES:
        for name, value in re.findall(r"(\w*(?:PASSWORD|SECRET|TOKEN)\w*): (.+)", path.read_text()):
            assert "${" in value, f"{path.name}: {name}"
            assert ":?" in value, f"{path.name}: {name} has a default"


def test_nothing_is_published_beyond_the_machine(services):
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_nodes_of_a_training_share_the_folder_of_its_run(services):
    assert services["head"]["volumes"] == services["worker"]["volumes"] == ["runs:/var/lib/dropmill/runs"]


def test_images_have_tags_that_do_not_float(services):
    for service in services.values():
        tag = service["image"].rpartition(":")[2]
        assert re.search(r"\d", tag)
        assert tag != "latest"
