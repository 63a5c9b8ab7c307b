"""A client of TorchServe's own gRPC interface, made from the `inference.proto` that TorchServe brings."""

from __future__ import annotations

import importlib.util
import sys
import zipfile
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from grpc_tools import protoc

if TYPE_CHECKING:
    from collections.abc import Iterator


class InferenceClient:
    """What a user's client does; ``folder`` is for the generated modules."""

    def __init__(self, address: str, folder: Path) -> None:
        self._messages, stubs = _generated(folder)
        # Loopback never goes through a proxy.
        self._channel = grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])
        self._stub = stubs.InferenceAPIsServiceStub(self._channel)

    def predict(self, model: str, **inputs: bytes) -> bytes:
        """The answer to one request."""
        answer = self._stub.Predictions(self._request(model, inputs), timeout=30)
        return bytes(answer.prediction)

    def stream(self, model: str, **inputs: bytes) -> list[bytes]:
        """The parts of the answer to one request."""
        parts: Iterator[Any] = self._stub.StreamPredictions(self._request(model, inputs), timeout=30)
        return [bytes(part.prediction) for part in parts]

    def _request(self, model: str, inputs: dict[str, bytes]) -> Any:
        return self._messages.PredictionsRequest(model_name=model, input=inputs)

    def close(self) -> None:
        self._channel.close()


def _generated(folder: Path) -> tuple[Any, Any]:
    torchserve, google_rpc = (_folder_of(name) for name in ("ts", "google.rpc"))
    with zipfile.ZipFile(torchserve / "frontend" / "model-server.jar") as jar:
        (folder / "inference.proto").write_bytes(jar.read("proto/inference.proto"))
    includes = [folder, google_rpc.parent.parent, _folder_of("grpc_tools") / "_proto"]
    arguments = [f"--{kind}_out={folder}" for kind in ("python", "grpc_python")]
    assert protoc.main(["protoc", *(f"-I{include}" for include in includes), *arguments, "inference.proto"]) == 0
    sys.path.insert(0, str(folder))
    try:
        return import_module("inference_pb2"), import_module("inference_pb2_grpc")
    finally:
        sys.path.remove(str(folder))


def _folder_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations)))
