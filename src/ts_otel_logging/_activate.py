"""The one wiring place: composes every part, in the worker, the launcher, or a program that calls `configure`.

Everything is built before anything is changed, and every change pushes its undoing on one stack: a step that raises
leaves the process as it was.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Callable, Optional, TextIO, Union

from ts_otel_logging import _config, _diagnostics, _globals, _names, _scope, _settings_file
from ts_otel_logging._import_hook import after_import
from ts_otel_logging._levels import LoggerLevels
from ts_otel_logging._settings_file import FileProblem, SettingsFile, Switches
from ts_otel_logging._version import __version__
from ts_otel_logging._watcher import Watcher

if TYPE_CHECKING:
    from structlog.typing import Processor

    from ts_otel_logging._pipeline import Output
    from ts_otel_logging._sdk import Providers
    from ts_otel_logging._sdk._in_memory import InMemoryProviders
    from ts_otel_logging._stdio import Capture
    from ts_otel_logging._tracing import Tracing

_SHUTDOWN_SECONDS = 5.0
_LOOK_SECONDS = 2.0
# What a failed load may take longer where no collector answers.
_LAST_WORDS_SECONDS = 1.0
# Set by the launcher for its workers: what it has checked, and told about, and where it was started.
_CHECKED = "_TS_OTEL_LOGGING_CHECKED"
_LISTS = frozenset({"response_headers", "headers", "redact", "latency_fields"})

Problem = Union[_config.Problem, FileProblem]

_lock = threading.Lock()
_active: Optional[_Activation] = None


def start_launcher() -> None:
    """Let TorchServe's launcher check the settings, and start the JVM with JSON on its console."""
    from ts_otel_logging._torchserve._launch import JavaStart, watch_java

    def before_java(command: list[str]) -> JavaStart:
        from ts_otel_logging import _launcher

        settings = _config.load(os.environ)
        folder = os.getcwd()
        file = _read_settings_file(settings, folder)
        people = settings["FORMAT"] == "console"
        colors = _config.is_coloured(os.environ, sys.stdout) if people else None
        with _on_console(sys.stderr, settings["FORMAT"]):
            _tell([*_config.all_problems(settings), *file.problems, *_settings_file.unreachable_sinks(file)])
            if not settings.values[_config.SWITCH]:
                return JavaStart(command)
            os.environ.update(_config.with_absolute_paths(os.environ, folder))
            os.environ[_CHECKED] = f"{file.digest}:{folder}"
            if people:
                os.environ[_config.CONSOLE_COLORS] = str(colors).lower()
            java = _launcher.java_command(
                command, os.environ, folder, frontend=settings["FRONTEND"], level=settings["LEVEL"], colors=colors
            )
            relay = None
            # The relay makes events of what is none; people read the lines as they come.
            if java.decision is _launcher.FrontendDecision.JSON and not people:
                relay = _diagnostics.shielded("console relay")(_launcher.Relay)(settings["REDACT"])
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


def _read_settings_file(settings: _config.Settings, folder: str) -> SettingsFile:
    path = settings["CONFIG"]
    return _settings_file.read_settings_file(os.path.join(folder, path), folder) if path else SettingsFile()


def _tell(problems: Iterable[Problem], event: str = "setting ignored") -> None:
    for problem in problems:
        _diagnostics.report(event, level=logging.ERROR, **problem._asdict())


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
    activation = _Activation(settings, worker_id)
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
        activation = _Activation(
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
    _tell([*_config.all_problems(settings), *activation.late_problems])


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
        return None if keyword in (None, "") else _usable_processors(keyword)
    except Exception as error:
        raise ValueError(f"processors={keyword!r}: accepted is {_accepted_processors(error)}") from error


def _usable_processors(named: Union[Iterable[Processor], str]) -> tuple[Processor, ...]:
    target: Any = named
    if isinstance(named, str):
        from importlib import import_module

        module, _, name = named.partition(":")
        target = import_module(module)
        for part in name.split("."):
            target = getattr(target, part)
    chosen = tuple(target)
    if not all(callable(processor) for processor in chosen):
        raise TypeError("not every item can be called")
    return chosen


def _accepted_processors(error: Exception) -> str:
    return f"a list of structlog processors; this one raised {type(error).__name__}: {error}"


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
        activation = _active = _Activation(settings, None, processors, providers, stream)
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


def shutdown(timeout_seconds: float = _SHUTDOWN_SECONDS) -> bool:
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


def force_flush(timeout_seconds: float = _SHUTDOWN_SECONDS) -> bool:
    """Send what waits.

    Args:
        timeout_seconds: The most that it may take.

    Returns:
        Whether everything was sent in time; True when nothing is on.
    """
    return True if _active is None else _active.flush(timeout_seconds)


class _Activation:
    """Everything that is on in this process, built but not yet patched in; `close` undoes what was."""

    def __init__(
        self,
        settings: _config.Settings,
        worker_id: Optional[str],
        processors: Optional[tuple[Processor, ...]] = None,
        providers: Optional[Providers] = None,
        capture: Optional[TextIO] = None,
    ) -> None:
        from ts_otel_logging import _sdk
        from ts_otel_logging._redaction import Redaction

        self._settings = settings
        self._worker_id = worker_id
        self._undo = ExitStack()
        self.late_problems: list[Problem] = []
        self._capture: Optional[Capture] = None
        # How often the model's code has removed our handler from the root, and whether it stays away for now.
        self._removals = 0
        self._stays_away = False
        self._metric_loggers: tuple[str, ...] = ()
        self._told_rendering = False
        self._paused: list[str] = []
        self._console = ""
        self._switching = threading.RLock()
        self._tracing: Optional[Tracing] = None
        self._levels = LoggerLevels(is_worker=worker_id is not None)
        self.model = Switches()
        self._undo_structlog: Optional[Callable[[], None]] = None
        checked, _, folder = os.environ.get(_CHECKED, "").partition(":")
        self._folder = folder or os.getcwd()
        path = settings["CONFIG"]
        # Before the file is read: a change from here on is seen.
        self._watcher = Watcher(os.path.join(self._folder, path), self.reread) if path else None
        self._file = _read_settings_file(settings, self._folder)
        # The launcher has told about the file as it was then.
        if self._file.digest != checked or not checked:
            self.late_problems.extend(self._file.problems)
        self._closed = False
        # What is told while the parts are built has no handler to go to yet.
        self._early_reports: Optional[list[tuple[str, dict[str, Any]]]] = []
        self._stream = capture
        existing = _globals.existing_providers() if capture is None else {}
        self.redaction = Redaction(settings["REDACT"])
        self.providers = providers or _sdk.build_providers(
            # No second exporter beside a provider that the application, or the Operator, has set up.
            {**settings.environ, **{f"OTEL_{signal.upper()}_EXPORTER": "none" for signal in existing}},
            resource_attributes=_resource_attributes(),
            queue_bytes=settings["QUEUE_BYTES"],
            file_dir=settings.file_dir,
            worker_name=worker_id,
            report=self._report,
            error_samples_per_second=settings["SAMPLE_ERRORS"],
        )
        self.providers.set_redaction(self.redaction)
        try:
            self._build(existing, processors)
        except BaseException:
            self._undo.close()
            if providers is None:
                self.providers.shutdown(0.0)
            raise

    def _build(self, existing: Mapping[str, Any], processors: Optional[tuple[Processor, ...]]) -> None:
        from ts_otel_logging._bridge import BridgeHandler, ProtocolHandler
        from ts_otel_logging._file_sinks import FileSinks
        from ts_otel_logging._metrics import Metrics
        from ts_otel_logging._model_metrics import ModelMetrics

        settings = self._settings
        self.tracer_provider = existing.get("traces") or self.providers.tracer_provider
        self.logger_provider = existing.get("logs") or self.providers.logger_provider
        meter_provider = existing.get("metrics") or self.providers.meter_provider
        self._paths = {**self.providers.describe(), **dict.fromkeys(existing, "the application's own provider")}
        self.metrics = None if meter_provider is None else Metrics(meter_provider)
        self.model_metrics = None if meter_provider is None else ModelMetrics(meter_provider)
        self._new_providers = {
            "traces": self.providers.tracer_provider,
            "logs": self.providers.logger_provider,
            "metrics": self.providers.meter_provider,
        }
        for signal in existing:
            del self._new_providers[signal]
        self.handler = BridgeHandler(
            processors=self._load_processors() if processors is None else processors,
            renderer=settings["FORMAT"],
            stream=self._stream,
            logger_provider=None if _globals.has_stock_log_handler() else self.logger_provider,
            max_record_bytes=settings["MAX_RECORD_BYTES"],
            resource=self._resource(),
        )
        self._protocol = ProtocolHandler(self.handler)
        self._sinks = FileSinks()
        self._undo.callback(self._sinks.thread.shutdown, _SHUTDOWN_SECONDS)
        self.late_problems.extend(self._sinks.take(self._file))

    def _resource(self) -> Mapping[str, Any]:
        for provider in (self.tracer_provider, self.logger_provider):
            attributes = getattr(getattr(provider, "resource", None), "attributes", None)
            if attributes:
                return dict(attributes)
        return {"service.name": _names.SERVICE_NAME, **_config.resource_attributes(os.environ)}

    def _load_processors(self) -> tuple[Processor, ...]:
        path = self._settings["PROCESSORS"]
        # The launcher has told about a module that does not exist.
        if path is None or _config.check_processors(self._settings) is not None:
            return ()
        try:
            return _usable_processors(path)
        except Exception as error:  # noqa: BLE001 - importing the user's module may raise anything
            self.late_problems.append(_config.Problem(f"{_config.PREFIX}PROCESSORS", path, _accepted_processors(error)))
            return ()

    def _report(self, event: str, **fields: Any) -> None:
        if self._early_reports is None:
            _diagnostics.report(event, **fields)
        else:
            self._early_reports.append((event, fields))

    def set_globals(self) -> None:
        """Make our providers those that OpenTelemetry's API hands out, where the application has none."""
        _globals.set_providers(self._new_providers)

    def set_root_handler(self) -> None:
        """Let every logger of this process end in our handler."""
        self._undo.callback(self._levels.set, {})
        self._undo.callback(self._set_structlog, enabled=False)
        self._switch()
        root = logging.getLogger()
        self._undo.callback(root.removeHandler, self.handler)
        root.addHandler(self.handler)
        self._undo.callback(logging.captureWarnings, capture=False)
        logging.captureWarnings(capture=True)
        # A worker's two streams end on the frontend's one console.
        names = (
            ("stdout", "__stdout__") if self._worker_id is None else ("stdout", "__stdout__", "stderr", "__stderr__")
        )
        self._console_streams = {name: getattr(sys, name) for name in names}
        if self._settings["CAPTURE"]:
            from ts_otel_logging._stdio import Capture

            self._capture = Capture(self.handler.handle)
            self._undo.callback(self._capture.undo)
        self._undo.callback(self.handler.unmute)
        self._undo.callback(self._leave_small_loggers)
        self._look_at_other_output()

    def tell_early_reports(self) -> None:
        """Tell what was found while everything was built."""
        early, self._early_reports = self._early_reports or [], None
        for event, fields in early:
            _diagnostics.report(event, **fields)

    def expect_torchserve(self) -> None:
        """Patch TorchServe's classes if this process has them, or gets them later; they are not imported for it."""
        # Shielded: it may run inside the user's own import of TorchServe.
        patch = _diagnostics.shielded("patch of TorchServe")(self.patch_torchserve)
        self._undo.callback(after_import("ts.model_loader", patch))

    def patch_torchserve(self) -> None:
        """Let loads and requests be spans, and the control lines leave as they are."""
        from opentelemetry import trace

        from ts_otel_logging import _sdk
        from ts_otel_logging._requests import ShownHeaders
        from ts_otel_logging._torchserve._control_lines import build_control_line_filter, metric_loggers
        from ts_otel_logging._torchserve._seams import patch_worker
        from ts_otel_logging._tracing import Tracing

        self.handler.passthrough = build_control_line_filter(sys.argv[0])
        self._metric_loggers = metric_loggers()
        tracing = self._tracing = Tracing(
            # Without a tracer of ours the caller's ids still belong on the lines: this one hands them on.
            self.tracer_provider or trace.NoOpTracerProvider(),
            self.metrics,
            exception_events=self._settings.exception_events,
            response_headers=self._settings["RESPONSE_HEADERS"],
            shown_headers=ShownHeaders(self._settings["HEADERS"], self._masked),
            trust=self._settings["TRUST"],
            # What is recorded for another provider would be that one's to export.
            errors=self.providers.errors if self.tracer_provider is self.providers.tracer_provider else None,
            tracer_for_batch=_sdk.tracer_for_batch,
        )
        self._switch()
        patches = patch_worker(
            tracing,
            self._worker_id,
            self._look_at_logging,
            self._before_request_ends,
            on_model_config=self._set_model,
            # The frontend kills the worker within milliseconds; nobody waits for an answer of it any more.
            on_load_failed=lambda: self.flush(_LAST_WORDS_SECONDS),
            on_metric=None if self.model_metrics is None else self.model_metrics.record,
            write_unrecorded=self.handler.write_unrecorded,
        )
        self._undo.callback(patches.undo)
        # What a handler prints comes out at once, between the lines it belongs to: Python holds it back in a pipe, and
        # stock logging flushed it with every record.
        if self._capture is None and isinstance(sys.stdout, io.TextIOWrapper):
            self._undo.callback(_set_line_buffering, sys.stdout, sys.stdout.line_buffering)
            _set_line_buffering(sys.stdout, value=True)

    def _masked(self, fields: dict[str, str]) -> Mapping[str, str]:
        # By what holds now: a model's own settings may have tightened it.
        return self.redaction.mapping(fields)

    def announce(self) -> None:
        """Say in the worker's first line which paths are on, and what only this process could find wrong."""
        paths = {**self._paths, **dict.fromkeys(self._paused, "off")}
        if self._file.path:
            paths["settings_file"] = self._file.path
        event = "telemetry on" if self._console != "off" else "telemetry off, as the settings file says"
        _diagnostics.report(event, level=logging.INFO, version=__version__, console=self._console, **paths)
        self.tell_early_reports()
        _tell(self.late_problems)

    def _look_at_other_output(self) -> None:
        """See what the program's own logging does to our lines; said once for each thing that is found."""
        from ts_otel_logging import _structlog

        # Those from before the capture, and those that hold now.
        streams = [*self._console_streams.values(), *(getattr(sys, name) for name in self._console_streams)]
        muted = {} if self._stays_away else self.handler.mute_doubles(streams)
        if muted:
            self._report(
                "console handlers muted: their records are lines of this package already",
                level=logging.INFO,
                loggers=list(muted.values()),
            )
        if _structlog.is_rendering() and not self._told_rendering:
            self._told_rendering = True
            self._report(
                "structlog is configured to render text, which is the event now: for fields let its last processor be "
                "structlog.stdlib.render_to_log_kwargs or structlog.stdlib.ProcessorFormatter.wrap_for_formatter"
            )

    @_diagnostics.shielded("log handlers")
    def _look_at_logging(self) -> None:
        """See what the model's code has made of the process's logging."""
        if self._closed:
            return
        told = self._restore_handler()
        self._look_at_other_output()
        # What is printed to a captured stream becomes an event: nobody's protocol leaves that way as it is.
        streams = (sys.__stdout__,) if self._capture is not None else (sys.stdout, sys.__stdout__)
        self.handler.leave_passthrough_to(
            (handler for handler in logging.getLogger().handlers if handler is not self.handler), streams
        )
        # Last, when no other handler prints it, too.
        if told is not None:
            _diagnostics.report(told)

    def _before_request_ends(self) -> None:
        if self._capture is not None:
            self._capture.end_lines()
        # A handler that imports a library as it serves may find its logging configured anew.
        if self.handler not in logging.root.handlers and not self._stays_away:
            self._look_at_logging()

    def _switch(self) -> None:
        """Let the pipeline, the levels and the spans be what variables, model and settings file say together."""
        settings = self._settings
        variables = Switches(
            enabled=True,
            traces=True,
            otlp_logs=True,
            level=settings["LEVEL"],
            levels=settings["LEVELS"],
            format=settings["FORMAT"],
        )
        now = self._file.switches.over(self.model.over(variables))
        redaction = self.redaction.tightened(now.redact)
        self.handler.set_redaction(redaction)
        self.providers.set_redaction(redaction)
        enabled, traces, otlp_logs = bool(now.enabled), bool(now.traces), bool(now.otlp_logs)
        level = logging.INFO if now.level is None else now.level
        if enabled:
            outputs = [*self._latency_outputs(traces=traces), *self._sinks.outputs]
            self.handler.switch(now.format, otlp_logs=otlp_logs, outputs=outputs)
            self.handler.set_thresholds(level, now.levels)
            self._levels.set({"root": level, **now.levels})
            if self._stays_away and self._removals == 1:
                self._come_back()
        else:
            self.handler.switch_to_stock()
            self.handler.set_thresholds(logging.NOTSET, {})
            # As TorchServe's worker sets it.
            self._levels.set({} if self._worker_id is None else {"root": logging.INFO})
            if self._removals:
                # As TorchServe's own handler, which the model's code would have removed.
                self._stay_away()
        self._set_structlog(enabled=enabled)
        if self._tracing is not None:
            self._tracing.switch(enabled=enabled, traces=traces)
        flows = {"traces": enabled and traces, "logs": enabled and otlp_logs, "metrics": enabled}
        self._paused = [signal for signal, flow in flows.items() if not flow]
        self.providers.pause(self._paused)
        self._console = str(now.format) if enabled else "off"

    def _set_structlog(self, *, enabled: bool) -> None:
        from ts_otel_logging import _structlog

        if enabled and self._undo_structlog is None:
            self._undo_structlog = _structlog.configure()
        elif not enabled and self._undo_structlog is not None:
            self._undo_structlog()
            self._undo_structlog = None

    def _latency_outputs(self, *, traces: bool) -> Iterator[Output]:
        fields = self._settings["LATENCY_FIELDS"]
        tracer_provider = self.tracer_provider if traces else None
        if fields and (tracer_provider is not None or self.metrics is not None):
            from ts_otel_logging._latency import LatencyOutput

            yield LatencyOutput(fields, tracer_provider, self.metrics)

    def watch_settings_file(self) -> None:
        """Look every two seconds whether the settings file has changed."""
        if self._watcher is not None:
            self._sinks.thread.every(_LOOK_SECONDS, self._watcher.look)

    def reread(self) -> None:
        """Take the settings file as it is now; one that brings new mistakes changes nothing, and they are told."""
        with self._switching:
            if self._closed:
                return
            file = _read_settings_file(self._settings, self._folder)
            mistakes = [problem for problem in file.problems if problem not in self._file.problems]
            if mistakes or not file.is_readable:
                _tell(mistakes or file.problems, "settings file refused, what held before holds")
                return
            if file.digest == self._file.digest:
                return
            self._file = file
            late = self._sinks.take(file)
            self._switch()
            _diagnostics.report("settings file taken", level=logging.INFO, file=file.path)
            _tell(late)

    def _set_model(self, path: str, config: Any) -> None:
        """Take what a model's own configuration says about us."""
        if not isinstance(config, dict) or _settings_file.MODEL_SECTION not in config:
            return
        switches, problems = _settings_file.read_model_section(config[_settings_file.MODEL_SECTION], path)
        with self._switching:
            if self._closed:
                return
            self.model = switches
            self._switch()
        _tell(problems)

    def _restore_handler(self) -> Optional[str]:
        """Put our handler back after a model's code removed it from the root; once, the second time is respected.

        Returns:
            What is to be told of it.
        """
        root = logging.getLogger()
        with self._switching:
            if self._closed or self._stays_away or self.handler in root.handlers:
                return None
            self._removals += 1
            if self._removals > 1 or self._console == "off":
                self._stay_away()
                return "log handler stays away: the model's code has removed it again" if self._removals > 1 else None
            root.addHandler(self.handler)
            root.setLevel(min(root.level, logging.INFO))
        return "log handler put back: the model's code had removed it"

    def _stay_away(self) -> None:
        """Leave the root logger to the model's code; reports of ours, and TorchServe's metrics, still get out."""
        self._stays_away = True
        logging.getLogger().removeHandler(self.handler)
        ours = logging.getLogger(_diagnostics.LOGGER_NAME)
        ours.addHandler(self.handler)
        ours.propagate = False
        for name in self._metric_loggers:
            logging.getLogger(name).addHandler(self._protocol)

    def _come_back(self) -> None:
        """Be on the root logger again."""
        self._stays_away = False
        self._leave_small_loggers()
        logging.getLogger().addHandler(self.handler)
        self._look_at_other_output()

    def _leave_small_loggers(self) -> None:
        ours = logging.getLogger(_diagnostics.LOGGER_NAME)
        if self.handler in ours.handlers:
            ours.removeHandler(self.handler)
            ours.propagate = True
        for name in self._metric_loggers:
            logging.getLogger(name).removeHandler(self._protocol)

    def flush(self, timeout_seconds: float) -> bool:
        """Send what waits, to sinks and by the providers, under one deadline."""
        deadline = time.monotonic() + timeout_seconds
        arrived = self._sinks.thread.flush(timeout_seconds)
        return self.providers.force_flush(max(deadline - time.monotonic(), 0.0)) and arrived

    def undo(self) -> None:
        """Undo every change but providers and wrapped handler classes: the next activation goes on with them."""
        with self._switching:
            self._closed = True
        # The sink thread may be waiting for its turn to switch.
        self._undo.close()

    def close(self, timeout_seconds: float) -> bool:
        """Flush under one deadline, then undo every change."""
        deadline = time.monotonic() + timeout_seconds
        try:
            arrived = self._sinks.thread.shutdown(timeout_seconds)
            return self.providers.shutdown(max(deadline - time.monotonic(), 0.0)) and arrived
        finally:
            self.undo()
            _scope.reset_process()
            phases = sys.modules.get("ts_otel_logging._torchserve._phases")
            if phases is not None:
                phases.unwrap_classes()
            if self._worker_id is not None and not logging.getLogger().handlers:
                # ts/model_service_worker.py found our handler and set none: its control lines must go on.
                logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)


def _set_line_buffering(stream: io.TextIOWrapper, value: bool) -> None:  # noqa: FBT001 - the stream's own attribute
    if not stream.closed:
        stream.reconfigure(line_buffering=value)


def _resource_attributes() -> dict[str, str]:
    torchserve = sys.modules.get("ts")
    return {} if torchserve is None else {_names.ATTR_TORCHSERVE_VERSION: str(torchserve.__version__)}


def _worker_id(argv: list[str]) -> Optional[str]:
    # ts/arg_parser.py and ts/model_service_worker.py: --sock-name /tmp/.ts.sock.<port>, or --port; plus LOCAL_RANK.
    if os.path.basename(argv[0]) != "model_service_worker.py":
        return None
    for option, value in zip(argv, argv[1:]):
        port = value.rpartition(".")[2] if option == "--sock-name" else value if option == "--port" else ""
        if port.isdigit():
            return str(int(port) + int(os.environ.get("LOCAL_RANK") or 0))
    return None
