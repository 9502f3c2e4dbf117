"""Terraform: it parses, what is referred to exists, and the policy permits what is needed and no more."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import hcl2
import pytest

from dropmill.config import load_config

_FOLDER = Path(__file__).resolve().parents[2] / "infra" / "terraform"
_FILES = sorted(_FOLDER.glob("*.tf"))


@pytest.fixture(scope="module")
def parsed():
    """Kind of block to ((labels), content), of all files."""
    found: dict[str, list[tuple[tuple[str, ...], dict]]] = {}
    for path in _FILES:
        for kind, blocks in hcl2.loads(path.read_text()).items():
            for block in blocks if isinstance(blocks, list) else ():
                labels = []
                depth = {"resource": 2, "data": 2, "variable": 1, "output": 1}.get(kind, 0)
                for _ in range(depth):
                    ((name, block),) = block.items()  # noqa: PLW2901
                    labels.append(_text(name))
                found.setdefault(kind, []).append((tuple(labels), block))
    return found


def _text(value):
    return value[1:-1] if isinstance(value, str) and value.startswith('"') else value


def _statements(parsed, name):
    ((content,),) = [[c for labels, c in parsed["data"] if labels == ("aws_iam_policy_document", name)]]
    return {_text(statement["sid"]): statement for statement in content["statement"]}


def test_every_reference_has_a_block(parsed):
    text = "\n".join(re.sub(r"#.*", "", path.read_text()) for path in _FILES)
    resources = {".".join(labels) for labels, _ in parsed["resource"]}
    data = {".".join(labels) for labels, _ in parsed["data"]}
    variables = {labels[0] for labels, _ in parsed["variable"]}
    used = set(re.findall(r"(?<![\w.\"])(aws_\w+\.\w+)", text))
    assert set(re.findall(r"(?<!data\.)\b(aws_\w+\.[a-z_]\w*)", text)) - data <= resources
    assert used - data <= resources
    assert set(re.findall(r"data\.(aws_\w+\.\w+)", text)) == data
    assert set(re.findall(r"var\.(\w+)", text)) == variables
    local = {name for _, content in parsed["locals"] for name in content if not name.startswith("__")}
    assert set(re.findall(r"local\.(\w+)", text)) == local


def test_variables_and_outputs_are_described(parsed):
    for kind in ("variable", "output"):
        for labels, content in parsed[kind]:
            assert len(_text(content["description"])) > 10, labels


def test_the_service_may_read_drops_write_the_lake_and_take_messages_and_nothing_else(parsed):
    permitted = {
        (_text(action), _text(resource))
        for statement in _statements(parsed, "service").values()
        for action in statement["actions"]
        for resource in statement["resources"]
    }
    drops, lake = ('${aws_s3_bucket.this["%s"].arn}' % name for name in ("drops", "lake"))  # noqa: UP031
    assert permitted == {
        ("s3:ListBucket", drops),
        ("s3:GetObject", drops + "/${var.prefix}*"),
        ("s3:ListBucket", lake),
        *((f"s3:{what}", lake + "/*") for what in
          ("GetObject", "PutObject", "DeleteObject", "AbortMultipartUpload")),
        *((f"sqs:{what}", "${aws_sqs_queue.events.arn}") for what in
          ("ReceiveMessage", "DeleteMessage", "ChangeMessageVisibility", "GetQueueAttributes")),
        ("sqs:SendMessage", "${aws_sqs_queue.dead_letters.arn}"),
    }  # fmt: skip


def test_only_the_bucket_of_the_account_may_send_to_the_queue(parsed):
    (statement,) = _statements(parsed, "queue").values()
    assert [_text(name) for name in statement["principals"][0]["identifiers"]] == ["s3.amazonaws.com"]
    conditions = {_text(c["variable"]): _text(c["values"][0]) for c in statement["condition"]}
    assert conditions == {
        "aws:SourceArn": '${aws_s3_bucket.this["drops"].arn}',
        "aws:SourceAccount": "${data.aws_caller_identity.current.account_id}",
    }


def test_the_queue_takes_whatever_the_bucket_tells(parsed):
    contents = dict(parsed["resource"])
    queue = contents["aws_sqs_queue", "events"]
    assert queue["max_message_size"] == 262_144
    assert "aws_sqs_queue.dead_letters.arn" in queue["redrive_policy"]
    notification = contents["aws_s3_bucket_notification", "drops"]
    events = {_text(event) for event in notification["queue"][0]["events"]}
    assert events == {"s3:ObjectCreated:*", "s3:ObjectRemoved:*"}
    assert "aws_sqs_queue_policy.events" in str(notification["depends_on"])


def test_the_service_gives_up_a_message_before_the_queue_does(parsed):
    variables = {labels[0]: content for labels, content in parsed["variable"]}
    sqs = load_config(_FOLDER.parent / "kuberay" / "dropmill.yaml").sources.sqs
    # So a dead letter has the reason with it.
    assert sqs.most_receives < variables["max_receive_count"]["default"]
    assert sqs.visibility_s == variables["visibility_timeout_s"]["default"]


def test_both_buckets_are_closed_and_encrypted(parsed):
    contents = dict(parsed["resource"])
    block = contents["aws_s3_bucket_public_access_block", "this"]
    assert block["for_each"] == "${local.buckets}"
    switches = ("block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets")
    assert all(block[name] is True for name in switches)
    assert (
        contents["aws_s3_bucket_server_side_encryption_configuration", "this"]["for_each"]
        == "${local.buckets}"
    )


def test_files_are_formatted_as_terraform_does():
    terraform = shutil.which("terraform")
    if terraform is None:
        pytest.skip("terraform is not installed")
    done = subprocess.run(
        [terraform, "fmt", "-check", "-diff", str(_FOLDER)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
