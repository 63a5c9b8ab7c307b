"""Everything that is on in one process: its parts, built and wired, and what of them changes while it runs.

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
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Callable, Optional, TextIO, Union

from ts_otel_logging import _config, _diagnostics, _globals, _names, _scope, _settings_file
from ts_otel_logging._import_hook import after_import
from ts_otel_logging._levels import LoggerLevels
from ts_otel_logging._settings_file import FileProblem, SettingsFile, Switches
from ts_otel_logging._version import __version__
from ts_otel_logging._watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from structlog.typing import Processor

    from ts_otel_logging._pipeline import Output
    from ts_otel_logging._sdk import Providers
    from ts_otel_logging._stdio import Capture
    from ts_otel_logging._tracing import Tracing

SHUTDOWN_SECONDS = 5.0
_LOOK_SECONDS = 2.0
# What a failed load may take longer where no collector answers.
_LAST_WORDS_SECONDS = 1.0
# Set by the launcher for its workers: what it has checked, and told about, and where it was started.
CHECKED = "_TS_OTEL_LOGGING_CHECKED"

Problem = Union[_config.Problem, FileProblem]


def read_settings_file(settings: _config.Settings, folder: str) -> SettingsFile:
    """Return what the settings file says; nothing, if no setting names one.

    Args:
        settings: The settings.
        folder: What a relative path starts from.
    """
    path = settings["CONFIG"]
    return _settings_file.read_settings_file(os.path.join(folder, path), folder) if path else SettingsFile()


def tell_problems(problems: Iterable[Problem], event: str = "setting ignored") -> None:
    """Report what is wrong with settings.

    Args:
        problems: What, where, and what is accepted.
        event: What was done about it.
    """
    for problem in problems:
        _diagnostics.report(event, level=logging.ERROR, **problem._asdict())


def usable_processors(named: Union[Iterable[Processor], str]) -> tuple[Processor, ...]:
    """Return structlog processors.

    Args:
        named: The processors, or ``package.module:name`` of a list of them.

    Raises:
        Exception: Whatever importing them raised, or TypeError where one cannot be called.
    """
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


def accepted_processors(error: Exception) -> str:
    """Return what is accepted in the place of processors that cannot be used.

    Args:
        error: Why they cannot.
    """
    return f"a list of structlog processors; this one raised {type(error).__name__}: {error}"


class Activation:
    """Everything that is on in this process, built but not yet patched in; `close` undoes what was.

    Args:
        settings: The settings.
        worker_id: The worker's port, in one of TorchServe's.
        processors: The user's, in place of those that the settings name.
        providers: Those to go on with, or None for new ones.
        capture: Takes the lines in place of stdout, in a test; then no provider of the application's is looked for.

    Attributes:
        late_problems: What only this process could find wrong with the settings.
        model: What the model's own configuration says.
        redaction: Masks secrets.
        providers: Our providers.
        tracer_provider: What makes spans, ours or the application's, or None.
        logger_provider: The same for log records.
        metrics: Our instruments, or None.
        model_metrics: TorchServe's metrics as OpenTelemetry's, or None.
        handler: What is on the root logger.
    """

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
        self._paused: list[str] = []
        self._console = ""
        self._switching = threading.RLock()
        self._tracing: Optional[Tracing] = None
        self._levels = LoggerLevels(is_worker=worker_id is not None)
        self.model = Switches()
        self._undo_structlog: Optional[Callable[[], None]] = None
        checked, _, folder = os.environ.get(CHECKED, "").partition(":")
        self._folder = folder or os.getcwd()
        path = settings["CONFIG"]
        # Before the file is read: a change from here on is seen.
        self._watcher = Watcher(os.path.join(self._folder, path), self.reread) if path else None
        self._file = read_settings_file(settings, self._folder)
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
            report=partial(self._report, logger_name=_diagnostics.EXPORT_LOGGER_NAME),
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
        from ts_otel_logging._bridge import BridgeHandler
        from ts_otel_logging._file_sinks import FileSinks
        from ts_otel_logging._metrics import Metrics
        from ts_otel_logging._model_metrics import ModelMetrics
        from ts_otel_logging._root_logger import RootLogger

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
        self._root = RootLogger(self.handler, self._report)
        self._sinks = FileSinks()
        self._undo.callback(self._sinks.thread.shutdown, SHUTDOWN_SECONDS)
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
            return usable_processors(path)
        except Exception as error:  # noqa: BLE001 - importing the user's module may raise anything
            self.late_problems.append(_config.Problem(f"{_config.PREFIX}PROCESSORS", path, accepted_processors(error)))
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
        self._undo.callback(self._root.remove_handler)
        # A worker's two streams end on the frontend's one console.
        self._root.add_handler(
            ("stdout", "__stdout__") if self._worker_id is None else ("stdout", "__stdout__", "stderr", "__stderr__")
        )
        self._undo.callback(logging.captureWarnings, capture=False)
        logging.captureWarnings(capture=True)
        if self._settings["CAPTURE"]:
            from ts_otel_logging._stdio import Capture

            self._capture = Capture(self.handler.handle)
            self._undo.callback(self._capture.undo)
        self._root.look_at_other_output()

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
        self._root.protocol_loggers = metric_loggers()
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
            self._after_load,
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
        tell_problems(self.late_problems)

    @_diagnostics.shielded("log handlers")
    def _look_at_logging(self) -> None:
        """See what the model's code has made of the process's logging."""
        if self._closed:
            return
        with self._switching:
            told = None if self._closed else self._root.restore_handler(is_on=self._console != "off")
        self._root.look_at_other_output()
        # What is printed to a captured stream becomes an event: nobody's protocol leaves that way as it is.
        self._root.leave_protocol_lines(
            (sys.__stdout__,) if self._capture is not None else (sys.stdout, sys.__stdout__)
        )
        # Last, when no other handler prints it, too.
        if told is not None:
            _diagnostics.report(told)

    def _after_load(self) -> None:
        # What `initialize` printed is no request's.
        if self._capture is not None:
            self._capture.end_lines()
        self._look_at_logging()

    def _before_request_ends(self) -> None:
        if self._capture is not None:
            self._capture.end_lines()
        # A handler that imports a library as it serves may find its logging configured anew.
        if self._root.has_lost_handler:
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
            self._root.come_back()
        else:
            self.handler.switch_to_stock()
            self.handler.set_thresholds(logging.NOTSET, {})
            # As TorchServe's worker sets it.
            self._levels.set({} if self._worker_id is None else {"root": logging.INFO})
            self._root.step_aside()
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
            file = read_settings_file(self._settings, self._folder)
            mistakes = [problem for problem in file.problems if problem not in self._file.problems]
            if mistakes or not file.is_readable:
                tell_problems(mistakes or file.problems, "settings file refused, what held before holds")
                return
            if file.digest == self._file.digest:
                return
            self._file = file
            late = self._sinks.take(file)
            self._switch()
            _diagnostics.report("settings file taken", level=logging.INFO, file=file.path)
            tell_problems(late)

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
        tell_problems(problems)

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
