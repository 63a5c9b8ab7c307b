"""What waits is bounded, the oldest go first, and every loss is counted."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import time
import tracemalloc
import weakref

import pytest
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider

from otlp_receiver import Answer, OtlpReceiver, unused_endpoint
from sdk_room import export_threads, room
from time_limit import time_limit_within
from ts_otel_logging import _diagnostics
from ts_otel_logging._sdk._lanes import Lane

TRACES_ONLY = {"OTEL_LOGS_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}


@pytest.fixture
def receiver():
    with OtlpReceiver() as receiver:
        yield receiver


def over_http(receiver, **more):
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint, **more}


class TestQueue:
    def test_beyond_the_queue_size_the_oldest_go_and_are_told(self, receiver):
        # One batch is under way, so nobody empties the queue.
        receiver.script(Answer(status_code=503, retry_after="200"))
        with room(over_http(receiver, **TRACES_ONLY, OTEL_BSP_MAX_QUEUE_SIZE="5")) as sdk:
            sdk.span("first")
            sdk.flush()
            for number in range(8):
                sdk.span(str(number))
            assert sdk.flush()
            assert [item.span.name for item in receiver.spans] == ["3", "4", "5", "6", "7"]
        assert sdk.events() == ["export failed", "export works again"]
        assert [report.fields.get("dropped_spans") for report in sdk.reports] == [None, 4]

    def test_what_is_lost_although_export_works_is_told(self, receiver):
        with room(over_http(receiver, **TRACES_ONLY), queue_bytes=10_000) as sdk:
            sdk.span("huge", text="x" * 20_000)
            sdk.flush()
        [report] = sdk.reports
        assert (report.event, report.fields["reason"], report.fields["dropped_spans"]) == (
            "telemetry dropped",
            "queue full",
            1,
        )

    def test_that_the_queue_was_full_does_not_hide_why(self, receiver):
        with room(over_http(receiver, **TRACES_ONLY), queue_bytes=10_000) as sdk:
            sdk.span("huge", text="x" * 20_000)
            sdk.flush()
            receiver.script(Answer(status_code=400))
            sdk.span("refused")
            sdk.flush()
            assert sdk.events() == ["telemetry dropped", "export failed"]

    def test_beyond_the_bytes_the_oldest_of_all_signals_go(self, receiver):
        receiver.script(Answer(status_code=503, retry_after="200"), Answer(status_code=503, retry_after="200"))
        with room(over_http(receiver, OTEL_METRICS_EXPORTER="none"), queue_bytes=100_000) as sdk:
            sdk.span("old")
            sdk.log("old")
            sdk.flush()
            for name in ("large", "larger"):
                sdk.span(name, text="x" * 23_500)
            for _ in range(3):
                sdk.log("y" * 23_500)
            sdk.flush()
        assert [item.span.name for item in receiver.spans] == ["larger"]
        assert [len(item.record.body.string_value) for item in receiver.log_records] == [23_500] * 3

    @pytest.mark.parametrize("characters", [25_000, 90_000, 200_000])
    def test_an_item_above_a_quarter_of_the_bytes_goes_alone(self, receiver, characters):
        # One batch is under way, so nobody empties the queues.
        receiver.script(Answer(status_code=503, retry_after="200"), Answer(status_code=503, retry_after="200"))
        with room(over_http(receiver, OTEL_METRICS_EXPORTER="none"), queue_bytes=100_000) as sdk:
            sdk.span("first")
            sdk.log("first")
            sdk.flush()
            for _ in range(4):
                sdk.log("y" * 15_000)
            sdk.span("huge", text="x" * characters)
            sdk.span("small")
            assert sdk.flush()
        assert [item.span.name for item in receiver.spans] == ["first", "small"]
        assert len(receiver.log_records) == 5
        dropped = [{name: n for name, n in report.fields.items() if "dropped" in name} for report in sdk.reports]
        assert dropped == [{}, {"dropped_spans": 1}]

    def test_a_lost_item_is_told_though_nothing_else_waits(self, receiver):
        with room(over_http(receiver, **TRACES_ONLY, OTEL_BSP_SCHEDULE_DELAY="20"), queue_bytes=100_000) as sdk:
            sdk.span("huge", text="x" * 200_000)
            deadline = time.monotonic() + 10
            while not sdk.reports and time.monotonic() < deadline:
                time.sleep(0.01)
            assert sdk.events() == ["telemetry dropped"]

    def test_what_a_finalizer_logs_while_a_batch_is_taken_is_in_the_next(self, receiver):
        logged = []

        # The garbage collector may run between any two steps of the export thread: let something be logged at each.
        def log(frame, _event, _argument):
            if frame.f_code is Lane.take.__code__ and len(logged) < 9:
                logged.append(f"finalizer {len(logged)}")
                sdk.log(logged[-1])

        threading.setprofile(log)
        try:
            with room(over_http(receiver, OTEL_TRACES_EXPORTER="none", OTEL_METRICS_EXPORTER="none")) as sdk:
                sdk.log("first")
                assert sdk.flush()
        finally:
            threading.setprofile(None)
        assert logged
        assert [item.record.body.string_value for item in receiver.log_records] == ["first", *logged]

    def test_a_finalizer_may_log_while_the_thread_is_being_started(self, receiver):
        logged = []

        def log(frame, event, _argument):
            # Making a thread may set off the garbage collector.
            if event == "call" and frame.f_code is threading.Thread.__init__.__code__ and not logged:
                logged.append(True)
                sdk.log("of a finalizer")

        def log_first():
            sys.setprofile(log)
            sdk.log("first")
            sys.setprofile(None)

        with room(over_http(receiver, OTEL_TRACES_EXPORTER="none", OTEL_METRICS_EXPORTER="none")) as sdk:
            thread = threading.Thread(target=log_first, daemon=True)
            thread.start()
            thread.join(10)
            assert not thread.is_alive()
            assert sdk.flush()
        assert logged
        assert {item.record.body.string_value for item in receiver.log_records} == {"first", "of a finalizer"}

    def test_a_signals_handler_that_raises_leaves_no_lock_behind(self, receiver):
        with room(over_http(receiver, **TRACES_ONLY)) as sdk:
            with time_limit_within(Lane.put):
                sdk.span("interrupted")
            sdk.span("next")
            assert sdk.flush(5)
        assert receiver.spans[-1].span.name == "next"

    def test_a_stack_trace_weighs(self, receiver):
        with room(over_http(receiver, **TRACES_ONLY), queue_bytes=100_000) as sdk:
            span = sdk.providers.tracer_provider.get_tracer("test").start_span("failed")
            span.record_exception(ValueError("x" * 100_000))
            span.end()
            sdk.flush()
        assert receiver.spans == []

    def test_nested_values_weigh(self, receiver):
        environ = over_http(receiver, OTEL_METRICS_EXPORTER="none", OTEL_TRACES_EXPORTER="none")
        with room(environ, queue_bytes=100_000) as sdk:
            sdk.log({"deep": ["x" * 60_000, {"deeper": "y" * 60_000}]})
            sdk.log("small", tokens=["a", "b"])
            sdk.flush()
        assert [item.record.body.string_value for item in receiver.log_records] == ["small"]

    def test_half_of_the_bytes_wake_the_thread_before_the_delay(self, receiver):
        with room(over_http(receiver, **TRACES_ONLY), queue_bytes=100_000) as sdk:
            for _ in range(3):
                sdk.span("large", text="x" * 20_000)
            receiver.wait_for(lambda got: got.spans)

    def test_memory_stays_flat_while_nobody_listens(self):
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": unused_endpoint(), "OTEL_METRICS_EXPORTER": "none"}

        def load(sdk, count):
            for number in range(count):
                sdk.span(text="x" * 200)
                sdk.log("y" * 1_000, number=number)

        with room(environ, queue_bytes=1_000_000, shutdown_seconds=0) as sdk:
            load(sdk, 3_000)
            sdk.flush()
            gc.collect()
            tracemalloc.start()
            try:
                before, _ = tracemalloc.get_traced_memory()
                load(sdk, 3_000)
                gc.collect()
                after, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        # What waits was replaced by as much that is traced now.
        assert after - before < 2_000_000
        # Nobody has waited for its end: the next tests count threads.
        for thread in export_threads():
            thread.join(10)

    def test_a_queued_record_does_not_keep_its_span_alive(self, receiver):
        from opentelemetry import context, trace

        class Marker:
            alive = 0

            def __init__(self):
                Marker.alive += 1

            def __del__(self):
                Marker.alive -= 1

        with room(over_http(receiver, OTEL_METRICS_EXPORTER="none")) as sdk:
            span = sdk.providers.tracer_provider.get_tracer("test").start_span("current")
            span_id = span.get_span_context().span_id
            scope = context.set_value("marker", Marker(), trace.set_span_in_context(span))
            token = context.attach(scope)
            sdk.log()
            context.detach(token)
            del scope, token
            gc.collect()
            assert Marker.alive == 0
            sdk.flush()
        assert int.from_bytes(receiver.log_records[0].record.span_id, "big") == span_id

    def test_after_the_end_nothing_is_taken(self, receiver):
        with room(over_http(receiver)) as sdk:
            sdk.providers.shutdown(5)

            class Body(str):
                __slots__ = ("__weakref__",)

            body = Body("a line")
            reference = weakref.ref(body)
            sdk.log(body)
            del body
            gc.collect()
            assert reference() is None
            sdk.span()
            assert sdk.flush()
            assert sdk.providers.shutdown(5)
        assert receiver.spans == []
        assert export_threads() == []


class TestProcess:
    def test_there_is_one_thread_and_only_when_there_is_something_to_do(self, receiver):
        with room(over_http(receiver)) as sdk:
            assert export_threads() == []
            sdk.span()
            sdk.log()
            sdk.measure()
            assert sdk.flush()
            assert len(export_threads()) == 1
            assert export_threads()[0].daemon

    def test_nothing_that_a_callback_raises_ends_it(self, receiver, monkeypatch):
        monkeypatch.setattr(_diagnostics, "reraise", False)
        asked = threading.Event()

        def callback(_options):
            asked.set()
            raise asyncio.CancelledError

        environ = over_http(receiver, OTEL_METRIC_EXPORT_INTERVAL="20", OTEL_BLRP_SCHEDULE_DELAY="20")
        with room(environ) as sdk:
            sdk.providers.meter_provider.get_meter("test").create_observable_gauge("test.gauge", [callback])
            sdk.log("before")
            assert asked.wait(10)
            assert not sdk.flush()
            sdk.log("after")
            receiver.wait_for(lambda got: len(got.log_records) == 2)
            assert len(export_threads()) == 1

    def test_four_descriptors_are_enough(self, receiver, tmp_path):
        environ = over_http(receiver)
        with room(environ) as warm_up:
            warm_up.span()
            assert warm_up.flush()

        def descriptors():
            return len(os.listdir("/proc/self/fd"))

        gc.collect()
        before = descriptors()
        with room(environ) as sdk:
            sdk.span()
            sdk.log()
            sdk.measure()
            assert sdk.flush()
            # The receiver's ends of the connections are in this process, too.
            assert descriptors() - before <= 4 + 3

    # CPython 3.12 and newer: what can go wrong is what is tested here.
    @pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
    def test_a_forked_child_exports_its_own_and_not_the_parents(self, receiver):
        with room(over_http(receiver)) as sdk:
            sdk.span("before")
            sdk.flush()
            sdk.span("parent's")
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    sdk.span("child's")
                    code = 0 if sdk.flush() else 2
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            sdk.flush()
        names = [item.span.name for item in receiver.spans]
        assert sorted(names) == ["before", "child's", "parent's"]
        assert len({item.span.trace_id for item in receiver.spans}) == 3

    def test_our_requests_are_not_instrumented(self, receiver, monkeypatch):
        from http.client import HTTPConnection

        from opentelemetry import context

        key = context._SUPPRESS_INSTRUMENTATION_KEY
        seen = []
        original = HTTPConnection.request

        def request(self, *args, **kwargs):
            seen.append(context.get_value(key))
            return original(self, *args, **kwargs)

        monkeypatch.setattr(HTTPConnection, "request", request)
        with room(over_http(receiver)) as sdk:
            sdk.span()
            sdk.flush()
            assert seen[0] is True
            assert context.get_value(key) is None


class TestOwnMetrics:
    def points(self, receiver, name):
        found = [item.metric for item in receiver.metrics if item.metric.name == name]
        return {
            tuple(sorted((pair.key, pair.value.string_value) for pair in point.attributes)): point.as_int
            for point in (found[-1].sum.data_points if found else ())
        }

    def test_processed_and_dropped_are_counted(self, receiver):
        component = (
            ("otel.component.name", "batching_span_processor/0"),
            ("otel.component.type", "batching_span_processor"),
        )
        with room(over_http(receiver, OTEL_BSP_MAX_QUEUE_SIZE="2", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="2")) as sdk:
            receiver.script(Answer(status_code=503, retry_after="200"))
            sdk.span()
            sdk.flush()
            for _ in range(4):
                sdk.span()
            sdk.flush()
            sdk.flush()
            assert self.points(receiver, "otel.sdk.processor.span.processed") == {
                component: 2,
                (("error.type", "queue_full"), *component): 3,
            }
            assert self.points(receiver, "otel.sdk.processor.span.queue.capacity") == {component: 2}
            assert self.points(receiver, "otel.sdk.processor.span.queue.size") == {component: 0}

    def test_a_failed_export_is_counted_by_its_reason(self, receiver):
        component = (
            ("otel.component.name", "otlp_http_log_exporter/0"),
            ("otel.component.type", "otlp_http_log_exporter"),
        )
        with room(over_http(receiver)) as sdk:
            sdk.log()
            sdk.flush()
            receiver.script(Answer(status_code=400))
            sdk.log()
            sdk.log()
            sdk.flush()
            assert self.points(receiver, "otel.sdk.exporter.log.exported") == {
                component: 1,
                (("error.type", "400"), *component): 2,
            }

    def test_what_the_sdk_counts_of_every_item_is_there_when_asked_for(self, receiver, monkeypatch):
        for asked in ("", "true"):
            # Newer releases of the SDK read it from the process by themselves.
            monkeypatch.setenv("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", asked)
            with room(over_http(receiver, OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED=asked)) as sdk:
                sdk.span()
                sdk.log()
                sdk.flush()
            names = {item.metric.name for item in receiver.metrics}
            assert ({"otel.sdk.span.started", "otel.sdk.log.created"} <= names) == bool(asked)

    def test_the_apis_own_provider_has_no_part_in_it(self, receiver, monkeypatch):
        ended = MeterProvider(shutdown_on_exit=False)
        ended.shutdown()
        monkeypatch.setattr(metrics._internal, "_METER_PROVIDER", ended)
        with room(over_http(receiver)) as sdk:
            sdk.span()
            sdk.log()
            sdk.flush()
        assert sdk.reports == []
