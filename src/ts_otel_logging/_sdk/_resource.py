"""Who sends: the resource of all three signals."""

from __future__ import annotations

import os
import socket
import uuid
from typing import TYPE_CHECKING, Final, Optional

from opentelemetry.sdk.resources import OTELResourceDetector, Resource

from ts_otel_logging import _names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.util.types import AttributeValue

# The namespace that the semantic conventions give for this:
# https://opentelemetry.io/docs/specs/semconv/registry/attributes/service/#service-instance-id
_INSTANCE_NAMESPACE: Final = uuid.UUID("4d63009a-8d0f-11ee-aad7-4c796ed8e320")


def build_resource(attributes: Mapping[str, AttributeValue], worker_name: Optional[str]) -> Resource:
    """Return the resource; what the environment says (``OTEL_SERVICE_NAME``, ``OTEL_RESOURCE_ATTRIBUTES``) wins.

    Args:
        attributes: What is known about the process beside its name and id.
        worker_name: What tells this worker from others of the host and stays after a restart; None for a process that
            is no worker, whose pid then does.
    """
    environment = OTELResourceDetector().detect().attributes
    host = environment.get("k8s.pod.uid") or environment.get("host.id") or socket.gethostname()
    name = f"{host}/pid {os.getpid()}" if worker_name is None else f"{host}/{worker_name}"
    created = Resource.create(
        {
            _names.ATTR_SERVICE_NAME: _names.SERVICE_NAME,
            _names.ATTR_SERVICE_INSTANCE_ID: str(uuid.uuid5(_INSTANCE_NAMESPACE, name)),
            _names.ATTR_PROCESS_PID: os.getpid(),
            **attributes,
            **environment,
        }
    )
    return _HashedResource(created.attributes, created.schema_url)


class _HashedResource(Resource):
    """A resource that computes its hash once: the SDK's makes JSON of itself for every item that is encoded."""

    _hash: Optional[int] = None

    def __eq__(self, other: object) -> bool:
        return other is self or super().__eq__(other)

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = super().__hash__()
        return self._hash
