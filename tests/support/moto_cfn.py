"""CloudFormation on moto, mended where it leaves out what a template says. Seen with moto 5.2.5:

- Of ``AWS::S3::Bucket`` it takes name, tags and encryption. What else is said (versions, Object
  Lock, lifecycle, public access) is put through S3's own API here, and so checked as there.
- ``AWS::S3::BucketPolicy`` is not known: here it is, through the API as well.
- ``AWS::NoValue`` stays in lists as an empty item: here it goes, as CloudFormation says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3

from catalog.s3 import S3Location, make_client


class Cloud:
    """Clients for one moto server."""

    def __init__(self, endpoint_url: str) -> None:
        self.endpoint_url = endpoint_url
        self._session = boto3.session.Session()
        self._clients: dict[str, Any] = {}

    def client(self, service: str) -> Any:
        """Made once: reading a service's model takes a quarter of a second."""
        if service not in self._clients:
            made = self._session.client(service, endpoint_url=self.endpoint_url)
            self._clients[service] = made
        return self._clients[service]

    @contextmanager
    def stack(self, template: Path, **parameters: str) -> Iterator[dict[str, str]]:
        """Create a stack from a template with parameters; gives its outputs. Removed at the end,
        but for what it retains."""
        formation = self.client("cloudformation")
        name = f"s-{parameters['BucketName']}"
        with mended(self.endpoint_url):
            formation.create_stack(
                StackName=name,
                TemplateBody=template.read_text("utf-8"),
                Parameters=[
                    {"ParameterKey": key, "ParameterValue": value}
                    for key, value in parameters.items()
                ],
                Capabilities=["CAPABILITY_NAMED_IAM"],
            )
        (made,) = formation.describe_stacks(StackName=name)["Stacks"]
        assert made["StackStatus"] == "CREATE_COMPLETE", made
        outputs = {one["OutputKey"]: one["OutputValue"] for one in made.get("Outputs", [])}
        yield outputs


@contextmanager
def mended(endpoint_url: str) -> Iterator[None]:
    """Let stacks be made with everything that their template says."""
    from moto.cloudformation import parsing
    from moto.s3.models import FakeBucket

    clean, class_of = parsing.clean_json, parsing.resource_class_from_type

    def bucket(name: str, resource: Any, *rest: Any, **more: Any) -> Any:
        made = FakeBucket.create_from_cloudformation_json(name, resource, *rest, **more)
        _finish(endpoint_url, made, resource["Properties"])
        return made

    def bucket_policy(name: str, resource: Any, *rest: Any, **more: Any) -> Any:
        properties = resource["Properties"]
        client = make_client(S3Location(properties["Bucket"], "", endpoint_url))
        document = json.dumps(properties["PolicyDocument"])
        client.put_bucket_policy(Bucket=properties["Bucket"], Policy=document)
        client.close()
        return SimpleNamespace(
            physical_resource_id=properties["Bucket"], is_created=lambda: True, type=""
        )

    ours = {
        name: SimpleNamespace(create_from_cloudformation_json=make)
        for name, make in (("AWS::S3::Bucket", bucket), ("AWS::S3::BucketPolicy", bucket_policy))
    }

    def cleaned(value: Any, resources: Any) -> Any:
        found = clean(value, resources)
        if isinstance(value, list):
            return [one for one in found if one is not None]
        return found

    parsing.clean_json = cleaned  # type: ignore[assignment]
    parsing.resource_class_from_type = lambda name: ours.get(name) or class_of(name)  # type: ignore
    try:
        yield
    finally:
        parsing.clean_json, parsing.resource_class_from_type = clean, class_of


def _finish(endpoint_url: str, bucket: Any, properties: dict[str, Any]) -> None:
    client = make_client(S3Location(bucket.name, "", endpoint_url))
    name = {"Bucket": bucket.name}
    if properties.get("ObjectLockEnabled") in (True, "true"):
        bucket.object_lock_enabled = True  # only a request that makes the bucket can say so
        bucket.versioning_status = "Enabled"
    if "VersioningConfiguration" in properties:
        client.put_bucket_versioning(
            **name, VersioningConfiguration=properties["VersioningConfiguration"]
        )
    if "PublicAccessBlockConfiguration" in properties:
        client.put_public_access_block(
            **name,
            PublicAccessBlockConfiguration={
                key: value in (True, "true")
                for key, value in properties["PublicAccessBlockConfiguration"].items()
            },  # type: ignore[arg-type]
        )
    if "LifecycleConfiguration" in properties:
        rules = [_rule(rule) for rule in properties["LifecycleConfiguration"]["Rules"]]
        client.put_bucket_lifecycle_configuration(
            **name,
            LifecycleConfiguration={"Rules": rules},  # type: ignore[typeddict-item]
        )
    client.close()


def _rule(rule: dict[str, Any]) -> dict[str, Any]:
    """A lifecycle rule of CloudFormation in S3's words."""
    told = {key: value for key, value in rule.items() if key not in ("Id", "Prefix")}
    abort = told.get("AbortIncompleteMultipartUpload")
    if abort:
        days = int(abort["DaysAfterInitiation"])
        told["AbortIncompleteMultipartUpload"] = {"DaysAfterInitiation": days}
    return {"ID": rule["Id"], "Filter": {"Prefix": rule.get("Prefix", "")}, **told}


@contextmanager
def enforced_rights() -> Iterator[None]:
    """Have moto check signatures and IAM policies of every request until the end."""
    from moto import settings
    from moto.core.authorization import ActionAuthenticatorMixin

    before = settings.INITIAL_NO_AUTH_ACTION_COUNT, ActionAuthenticatorMixin.request_count
    settings.INITIAL_NO_AUTH_ACTION_COUNT, ActionAuthenticatorMixin.request_count = 0, 0
    try:
        yield
    finally:
        settings.INITIAL_NO_AUTH_ACTION_COUNT, ActionAuthenticatorMixin.request_count = before
