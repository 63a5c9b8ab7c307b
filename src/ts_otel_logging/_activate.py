"""Switches everything on: in the worker, the launcher, or a program that calls `configure`."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Optional, TextIO, Union

from ts_otel_logging import _config, _diagnostics, _globals, _settings_file
from ts_otel_logging._activation import (
    CHECKED,
    SHUTDOWN_SECONDS,
    Activation,
    accepted_processors,
    read_settings_file,
    tell_problems,
    usable_processors,
)

if TYPE_CHECKING:
    from structlog.typing import Processor

    from ts_otel_logging._sdk._in_memory import InMemoryProviders
    from ts_otel_logging._tracing import Tracing

_LISTS = frozenset({"response_headers", "headers", "redact", "latency_fields"})

_lock = threading.Lock()
_active: Optional[Activation] = None


def start_launcher() -> None:
    """Let TorchServe's launcher check the settings, and start the JVM with JSON on its console."""
    from ts_otel_logging._torchserve._launch import JavaStart, watch_java

    def before_java(command: list[str]) -> JavaStart:
        from ts_otel_logging import _launcher

        settings = _config.load(os.environ)
        folder = os.getcwd()
        file = read_settings_file(settings, folder)
        people = settings["FORMAT"] == "console"
        colors = _config.is_coloured(os.environ, sys.stdout) if people else None
        with _on_console(sys.stderr, settings["FORMAT"]):
            tell_problems([*_config.all_problems(settings), *file.problems, *_settings_file.unreachable_sinks(file)])
            if not settings.values[_config.SWITCH]:
                return JavaStart(command)
            os.environ.update(_config.with_absolute_paths(os.environ, folder))
            os.environ[CHECKED] = f"{file.digest}:{folder}"
            if people:
                os.environ[_config.CONSOLE_COLORS] = str(colors).lower()
            java = _launcher.java_command(
                command, os.environ, folder, frontend=settings["FRONTEND"], level=settings["LEVEL"], colors=colors
            )
            relay = None
            # The relay makes events of what is none; people read the lines as they come.
            if java.decision is _launcher.FrontendDecision.JSON and not people:
                start_relay = _diagnostics.shielded("console relay")(_launcher.Relay)
                relay = start_relay(settings["MAX_RECORD_BYTES"], settings["REDACT"])
        return JavaStart(java.command, relay)

    def tell(text: str) -> bool:
        settings = _config.load(os.environ)
        if not settings.values[_config.SWITCH] or settings["FRONTEND"] == "off":
            return False
        from ts_otel_logging._bridge import BridgeHandler

        record = logging.LogRecord("ts.model_server", logging.INFO, "", 0, "%s", (text,), None)
        BridgeHandler(renderer=settings["FORMAT"], stream=sys.stdout).handle(record)
        return True

    watch_java(before_java, tell)


@contextmanager
def _on_console(stream: TextIO, shape: str) -> Iterator[None]:
    """Give our reports somewhere to go: TorchServe's launcher has no logging of its own."""
    from ts_otel_logging._bridge import BridgeHandler

    logger = logging.getLogger(_diagnostics.LOGGER_NAME)
    handler = BridgeHandler(renderer=shape, stream=stream)
    logger.addHandler(handler)
    propagate, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.propagate = propagate
        logger.removeHandler(handler)


def start_worker() -> None:
    """Activate a worker, if the switch is on.

    Raises:
        Exception: A step failed; all is as it was.
    """
    global _active  # noqa: PLW0603 - one activation a process
    settings = _config.load(os.environ)
    if not settings.values[_config.SWITCH]:
        return
    worker_id = _worker_id(sys.argv)
    # The launcher has told them; here they must only do no harm to the SDK, which reads the environment by itself.
    for problem in settings.problems:
        os.environ.pop(problem.variable, None)
        if problem.variable in settings.environ:
            os.environ[problem.variable] = settings.environ[problem.variable]
    activation = Activation(settings, worker_id)
    try:
        activation.set_root_handler()
        activation.patch_torchserve()
        # Last, because the API takes a provider only once: everything before can be undone.
        activation.set_globals()
        activation.watch_settings_file()
        activation.announce()
    except BaseException:
        activation.close(timeout_seconds=0.0)
        raise
    _active = activation


def configure(  # noqa: PLR0913 - one keyword a setting
    *,
    config: Optional[str] = None,
    format: Optional[str] = None,  # noqa: A002 - the setting's name
    level: Union[int, str, None] = None,
    levels: Union[Mapping[str, Union[int, str]], str, None] = None,
    processors: Union[Iterable[Processor], str, None] = None,
    response_headers: Union[Iterable[str], str, None] = None,
    headers: Union[Iterable[str], str, None] = None,
    trust: Optional[str] = None,
    sample_errors: Optional[float] = None,
    capture: Optional[bool] = None,
    max_record_bytes: Optional[int] = None,
    queue_bytes: Optional[int] = None,
    redact: Union[Iterable[str], str, None] = None,
    latency_fields: Union[Iterable[str], str, None] = None,
    file_dir: Optional[str] = None,
) -> None:
    """Switch the pipeline on in this process: the root logger writes JSON lines, and telemetry is exported.

    A keyword wins over its ``TS_OTEL_LOGGING_…`` variable; OpenTelemetry's own variables hold as they are. A provider
    that already exists is used as it is. A second call replaces the first but for the providers, which OpenTelemetry's
    API takes only once: with them `queue_bytes`, `sample_errors` and `file_dir` stay. In a worker that the start-up
    file does not reach (a model with ``useVenv``) a handler's module may call this: its requests become spans then too.

    Args:
        config: The path of a settings file; what it says wins over keywords and variables, and is read again when it
            changes. Mistakes in it are told, not raised; so is that it is not there: it is taken when it comes.
        format: The shape of a line: ``structlog``, ``otel``, ``ecs``, ``gcp``, ``datadog`` or ``console``.
        level: The level of the outputs, and of the root logger.
        levels: Levels of loggers by name.
        processors: structlog processors, or ``package.module:name`` of a list of them.
        response_headers: Headers to put on answers; for TorchServe's workers.
        headers: Names of request headers to put on lines and spans, each value cut at 256 bytes; for the same.
        trust: What a caller's trace context may do: ``parent``, ``link`` or ``ignore``.
        sample_errors: Failed requests a second whose spans are kept though they are not sampled.
        capture: Whether what is printed becomes events.
        max_record_bytes: The longest line.
        queue_bytes: What may wait for the collector, in bytes.
        redact: What is masked besides the built-in lists: names of keys, regular expressions in slashes, ``email``,
            ``card``.
        latency_fields: Names of ``extra`` fields that are latencies in seconds.
        file_dir: The folder of the ``otlp_json_file`` exporter.

    Raises:
        TypeError: An unknown keyword.
        ValueError: A value that is not accepted; the message says what is.
    """
    global _active  # noqa: PLW0603 - one activation a process
    given = {name: value for name, value in locals().items() if value is not None}
    settings = _settings_from(given, os.environ)
    processors_given = _processors_from(processors)
    with _lock:
        before, _active = _active, None
        if before is not None:
            before.undo()
        activation = Activation(
            settings, _worker_id(sys.argv), processors_given, None if before is None else before.providers
        )
        if before is not None:
            activation.model = before.model
        try:
            activation.set_root_handler()
            activation.expect_torchserve()
            activation.set_globals()
            activation.watch_settings_file()
        except BaseException:
            activation.close(timeout_seconds=0.0)
            raise
        activation.tell_early_reports()
        _active = activation
    tell_problems([*_config.all_problems(settings), *activation.late_problems])


def _settings_from(keywords: Mapping[str, Any], environ: Mapping[str, str]) -> _config.Settings:
    texts = {}
    wrong = []
    for name, value in keywords.items():
        # Objects are no setting's text: `_processors_from` looks at them.
        if name != "processors" or isinstance(value, str):
            try:
                texts[_config.PREFIX + name.upper()] = _as_text(name, value)
            except TypeError:
                wrong.append((name, value, _config.row_of(name.upper()).accepted))
    settings = _config.load({**environ, **texts})
    wrong += [
        (problem.variable[len(_config.PREFIX) :].lower(), problem.value, problem.accepted)
        for problem in settings.problems
        if problem.variable in texts
    ]
    if wrong:
        raise ValueError("; ".join(f"{name}={value!r}: accepted is {accepted}" for name, value, accepted in wrong))
    return settings


def _processors_from(keyword: Union[Iterable[Processor], str, None]) -> Optional[tuple[Processor, ...]]:
    try:
        return None if keyword in (None, "") else usable_processors(keyword)
    except Exception as error:
        raise ValueError(f"processors={keyword!r}: accepted is {accepted_processors(error)}") from error


@contextmanager
def captured(providers: InMemoryProviders, stream: TextIO, **keywords: Any) -> Iterator[Tracing]:
    """Switch the pipeline on for the tests of a block, whatever the environment says; errors of ours raise in it.

    Args:
        providers: Take what is traced and measured, also by OpenTelemetry's own API.
        stream: Takes the lines.
        **keywords: As for `configure`.

    Yields:
        What makes spans of requests.

    Raises:
        RuntimeError: The pipeline is on already.
        TypeError: An unknown keyword.
        ValueError: A value that is not accepted; the message says what is.
    """
    from ts_otel_logging import _sdk
    from ts_otel_logging._tracing import Tracing

    global _active  # noqa: PLW0603 - one activation a process
    unknown = keywords.keys() - (configure.__kwdefaults__ or {}).keys()
    if unknown:
        raise TypeError(f"unknown keyword: {', '.join(sorted(unknown))}")
    settings = _settings_from({name: value for name, value in keywords.items() if value is not None}, {})
    processors = _processors_from(keywords.get("processors"))
    with _lock:
        if _active is not None:
            raise RuntimeError("the pipeline is on already, by configure() or an outer capture")
        activation = _active = Activation(settings, None, processors, providers, stream)
    reraise, _diagnostics.reraise = _diagnostics.reraise, True
    try:
        with _globals.exchanged(providers.tracer_provider, providers.meter_provider):
            activation.set_root_handler()
            activation.expect_torchserve()
            activation.tell_early_reports()
            yield Tracing(providers.tracer_provider, activation.metrics, tracer_for_batch=_sdk.tracer_for_batch)
    finally:
        _diagnostics.reraise = reraise
        with _lock:
            _active = None
        activation.close(timeout_seconds=0.0)


def _as_text(name: str, value: Any) -> str:
    """Return a keyword's value as its variable would have it; raise TypeError where no text can be that."""
    if name == "levels" and isinstance(value, Mapping):
        return ",".join(f"{key}={item}" for key, item in value.items())
    if name not in _LISTS or isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        raise TypeError(value)
    # An empty list is a value; an empty text would be none.
    return ",".join(value) or ","


def shutdown(timeout_seconds: float = SHUTDOWN_SECONDS) -> bool:
    """Send what waits, stop the export thread, and put the root logger and TorchServe's classes back as they were.

    Args:
        timeout_seconds: The most that sending may take.

    Returns:
        Whether everything was sent in time; True when nothing was on.
    """
    global _active
    with _lock:
        activation, _active = _active, None
    return True if activation is None else activation.close(timeout_seconds)


def force_flush(timeout_seconds: float = SHUTDOWN_SECONDS) -> bool:
    """Send what waits.

    Args:
        timeout_seconds: The most that it may take.

    Returns:
        Whether everything was sent in time; True when nothing is on.
    """
    return True if _active is None else _active.flush(timeout_seconds)


def _worker_id(argv: list[str]) -> Optional[str]:
    # ts/arg_parser.py and ts/model_service_worker.py: --sock-name /tmp/.ts.sock.<port>, or --port; plus LOCAL_RANK.
    if os.path.basename(argv[0]) != "model_service_worker.py":
        return None
    for option, value in zip(argv, argv[1:]):
        port = value.rpartition(".")[2] if option == "--sock-name" else value if option == "--port" else ""
        if port.isdigit():
            return str(int(port) + int(os.environ.get("LOCAL_RANK") or 0))
    return None
