"""The policy of infra/terraform suffices for a drop that becomes rows, on a server that enforces policies."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import hcl2
import pytest
from botocore.exceptions import ClientError

from ingest.batch import Committer
from ingest.events import DatasetRule
from ingest.micro_batch import micro_batch
from ingest.parse import Limits, parse_objects
from ingest.sources.gathered import Gathered
from ingest.sources.sqs import SqsSource
from storage.lake import Lake
from storage.object_store import ObjectStore
from storage.s3_options import aws_client
from tests.ingest.mill import KITTI_CAR, picture

pytest.importorskip("moto.server", reason="moto is not installed")
pytestmark = pytest.mark.slow

_TERRAFORM = Path(__file__).resolve().parents[2] / "infra" / "terraform"
_ARNS = {
    'aws_s3_bucket.this["drops"].arn': "arn:aws:s3:::example-drops",
    'aws_s3_bucket.this["lake"].arn': "arn:aws:s3:::example-lake",
    "aws_sqs_queue.events.arn": "arn:aws:sqs:us-east-1:123456789012:events",
    "aws_sqs_queue.dead_letters.arn": "arn:aws:sqs:us-east-1:123456789012:dead-letters",
    "var.prefix": "",
}
_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
_FREE_ACTIONS = 11


def _policy() -> str:
    """The service's policy document as AWS gets it."""
    data = hcl2.loads((_TERRAFORM / "access.tf").read_text())["data"]
    ((document,),) = [
        [inner['"service"']] for block in data for inner in block.values() if '"service"' in inner
    ]

    def text(value: str) -> str:
        return re.sub(
            r"\$\{([^}]+)\}", lambda found: _ARNS[found[1]], value.removeprefix('"').removesuffix('"')
        )

    statements = [
        {
            "Effect": "Allow",
            "Action": [text(action) for action in one["actions"]],
            "Resource": [text(resource) for resource in one["resources"]],
        }
        for one in document["statement"]
    ]
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


@contextmanager
def _enforcing_server() -> Iterator[str]:
    """S3, SQS and IAM that ask who one is after so many requests."""
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": str(_FREE_ACTIONS)},
    ) as process:
        assert process.stdin
        assert process.stdout
        port = next(int(line) for line in process.stdout if line.strip().isdigit())
        yield f"http://127.0.0.1:{port}"
        process.stdin.close()
        process.terminate()


@pytest.fixture(scope="module")
def account():
    with _enforcing_server() as url:
        options = {
            "key": "any",
            "secret": "any",
            "endpoint_url": url,
            "client_kwargs": {"region_name": "us-east-1"},
        }
        s3, sqs, iam = (aws_client(service, options) for service in ("s3", "sqs", "iam"))
        s3.create_bucket(Bucket="example-drops")
        s3.create_bucket(Bucket="example-lake")
        queue, dead = (sqs.create_queue(QueueName=n)["QueueUrl"] for n in ("events", "dead-letters"))
        s3.put_bucket_notification_configuration(
            Bucket="example-drops",
            NotificationConfiguration={
                "QueueConfigurations": [
                    {"QueueArn": _ARNS["aws_sqs_queue.events.arn"], "Events": ["s3:ObjectCreated:*"]}
                ]
            },
        )
        s3.put_object(Bucket="example-drops", Key="d/images/a.png", Body=picture(100, 50))
        s3.put_object(Bucket="example-drops", Key="d/labels/a.txt", Body=KITTI_CAR.format(1, 1, 50, 9))
        sqs.send_message(QueueUrl=queue, MessageBody="no notification")
        iam.create_user(UserName="dropmill")
        iam.put_user_policy(UserName="dropmill", PolicyName="service", PolicyDocument=_policy())
        key = iam.create_access_key(UserName="dropmill")["AccessKey"]
        mine = {**options, "key": key["AccessKeyId"], "secret": key["SecretAccessKey"]}
        yield SimpleNamespace(options=mine, queue=queue, dead=dead)


def test_a_drop_becomes_rows_with_the_rights_of_the_policy(account):
    store = ObjectStore.at("s3://example-drops", account.options)
    lake = Lake.create("s3://example-lake", account.options)
    rule = DatasetRule(bucket="example-drops")
    committer = Committer(lake, lambda events: parse_objects(store, events, rule, Limits()), rule=rule)
    source = SqsSource(
        account.queue,
        account.options,
        bucket="example-drops",
        visibility_s=10,
        poll_s=1,
        dead_letters=account.dead,
    )
    source.start()
    try:
        gathered = Gathered([source])
        for _ in range(100):
            micro_batch(gathered, committer, store, rule)
            if lake.read("annotations").num_rows and not source.pending():
                break
        assert source.failing is None
    finally:
        source.stop()
    assert lake.sql("SELECT category FROM annotations").to_pylist() == [{"category": "Car"}]
    assert store.head("d/images/gone.png") is None


@pytest.mark.parametrize(
    ("service", "action", "arguments"),
    [
        ("s3", "put_object", {"Bucket": "example-drops", "Key": "d/x.txt", "Body": b"x"}),
        ("s3", "delete_object", {"Bucket": "example-drops", "Key": "d/images/a.png"}),
        ("s3", "delete_bucket", {"Bucket": "example-lake"}),
        ("s3", "list_buckets", {}),
        ("sqs", "purge_queue", {"QueueUrl": "queue"}),
        ("sqs", "receive_message", {"QueueUrl": "dead"}),
        ("iam", "list_users", {}),
    ],
)
def test_what_the_service_does_not_need_is_refused(account, service, action, arguments):
    if "QueueUrl" in arguments:
        arguments = {"QueueUrl": getattr(account, arguments["QueueUrl"])}
    with pytest.raises(ClientError) as refusal:
        getattr(aws_client(service, account.options), action)(**arguments)
    assert refusal.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
