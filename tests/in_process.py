"""TorchServe's real model loader and ``Service.predict`` inside the test process, without a frontend.

The first call imports torch (about 5 s); a batch then takes less than a millisecond::

    service = load_model(Path("handlers/phases.py"), model_name="tiny")
    [reply] = predict(service, make_request(b'{"answer": 1}', {"traceparent": "00-…"}))
"""

from __future__ import annotations

import atexit
import importlib
import itertools
import json
import struct
import sys
import tempfile
import textwrap
import uuid
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ts.service import Service

HANDLERS = Path(__file__).parent / "handlers"
_numbers = itertools.count()
_models = tempfile.TemporaryDirectory(prefix="models-")
atexit.register(_models.cleanup)


class Reply(NamedTuple):
    """What the frontend would make of one request's part of the worker's answer."""

    request_id: str
    status_code: int
    headers: dict[str, str]
    body: bytes


class Answer(NamedTuple):
    """The worker's whole answer to a batch: the batch's own code and message, then one reply a request."""

    status_code: int
    message: str
    replies: list[Reply]


class FakeFrontend:
    """Stands for the worker's socket: keeps what a streaming handler sends."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def sendall(self, data: bytes) -> None:
        self.sent.append(bytes(data))


def load_model(  # noqa: PLR0913 - what the frontend says in a load command
    handler: str | Path,
    *,
    model_name: str = "tiny",
    model_version: str = "1.0",
    batch_size: int = 1,
    gpu_id: int | None = None,
    envelope: str | None = None,
    model_config: str | None = None,
    manifest: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
) -> Service:
    """Load a model with TorchServe's own loader.

    Args:
        handler: A handler file, or a handler's source text.
        model_name: What the frontend would call the model.
        model_version: The version in the archive's manifest.
        batch_size: The batch size that the frontend would announce.
        gpu_id: The device number that the frontend would assign, None for the CPU.
        envelope: The name of one of TorchServe's request envelopes.
        model_config: Text of the archive's ``model-config.yaml``, if it has one.
        manifest: More about the model, or something else, for the archive's manifest.
        files: Texts of further files of the archive, by name.

    Returns:
        The service, ready for ``predict``. Its ``cl_socket`` is a `FakeFrontend`.

    Raises:
        Exception: Whatever the loader or the handler raises.
    """
    with warnings.catch_warnings():
        # Importing torch and TorchServe warns of many things that are not ours.
        warnings.simplefilter("ignore")
        model_loader = importlib.import_module("ts.model_loader")
        metric_cache = importlib.import_module("ts.metrics.metric_cache_yaml_impl")
        importlib.import_module("ts.torch_handler.base_handler")

    source = handler.read_text(encoding="utf-8") if isinstance(handler, Path) else textwrap.dedent(handler)
    # TorchServe imports the handler by its module name: a name of its own for each, so that no cached one is taken.
    module_name = f"handler_under_test_{next(_numbers)}"
    # It stays until the tests end: tracebacks quote the handler's source.
    model_dir = Path(_models.name) / module_name
    model_dir.mkdir()
    model: dict[str, Any] = {"modelName": model_name, "modelVersion": model_version, "handler": f"{module_name}.py"}
    if model_config is not None:
        (model_dir / "model-config.yaml").write_text(textwrap.dedent(model_config), encoding="utf-8")
        model["configFile"] = "model-config.yaml"
    model.update(manifest or {})
    for name, text in (files or {}).items():
        (model_dir / name).write_text(textwrap.dedent(text), encoding="utf-8")
    (model_dir / "MAR-INF").mkdir()
    (model_dir / "MAR-INF" / "MANIFEST.json").write_text(json.dumps({"model": model}), encoding="utf-8")
    (model_dir / f"{module_name}.py").write_text(source, encoding="utf-8")

    metrics = metric_cache.MetricsCacheYamlImpl(
        config_file_path=str(Path(model_loader.__file__).parent / "configs" / "metrics.yaml")
    )
    metrics.initialize_cache()
    metrics.model_name = model_name
    search_path = [str(model_dir), str(HANDLERS)]
    sys.path[:0] = search_path
    importlib.invalidate_caches()
    try:
        # As the worker calls it: all eight positional.
        service = model_loader.ModelLoaderFactory.get_model_loader().load(
            model_name, str(model_dir), model["handler"], gpu_id, batch_size, envelope, True, metrics
        )
    finally:
        for entry in search_path:
            sys.path.remove(entry)
    service.set_cl_socket(FakeFrontend())
    return service


def make_request(
    body: Any = b"{}",
    headers: Mapping[str, str] | None = None,
    *,
    request_id: str | None = None,
    inputs: Mapping[str, bytes] | None = None,
) -> dict[str, Any]:
    """One request as ``ts.protocol.otf_message_handler.retrieve_msg`` hands it over.

    Args:
        body: The HTTP body; bytes as they are, anything else as the frontend's decoded JSON.
        headers: HTTP request headers, in the client's own casing.
        request_id: The frontend's id of the request; a new UUID if absent.
        inputs: More named inputs, as gRPC clients send them.
    """
    parameters = [{"name": "body", "contentType": "application/json", "value": body}] if body is not None else []
    parameters += [{"name": name, "contentType": "", "value": value} for name, value in (inputs or {}).items()]
    return {
        "requestId": bytearray((request_id or str(uuid.uuid4())).encode()),
        "headers": [
            {"name": bytearray(name.encode()), "value": bytearray(value.encode())}
            for name, value in (headers or {}).items()
        ],
        "parameters": parameters,
    }


def predict(service: Service, *requests: dict[str, Any]) -> list[Reply]:
    """Send a batch through ``Service.predict`` and give one reply a request."""
    return decode_answer(service.predict(list(requests))).replies


def decode_answer(message: bytes | bytearray) -> Answer:
    """Read a worker's answer as the frontend's ``ModelResponseDecoder`` does."""
    position = 0

    def integer() -> int:
        nonlocal position
        (value,) = struct.unpack_from("!i", message, position)
        position += 4
        return int(value)

    def chunk() -> bytes:
        nonlocal position
        size = integer()
        position += size
        return bytes(message[position - size : position])

    status_code, text = integer(), chunk().decode()
    replies = []
    while True:
        size = integer()
        if size < 0:
            return Answer(status_code, text, replies)
        request_id = bytes(message[position : position + size]).decode()
        position += size
        chunk()  # content type
        reply_code = integer()
        chunk()  # reason phrase
        headers = {}
        for _ in range(integer()):
            name = chunk().decode()
            headers[name] = chunk().decode()
        replies.append(Reply(request_id, reply_code, headers, chunk()))
