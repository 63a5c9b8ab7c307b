"""The spans, measurements and lines of a worker, on TorchServe's real loader and service."""

from __future__ import annotations

import importlib
import logging
import sys
import textwrap
import types
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import propagate
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from in_process import load_model, make_request, predict
from ts_otel_logging import _diagnostics, request_scope, span
from ts_otel_logging._torchserve._seams import SEAMS

if TYPE_CHECKING:
    from in_memory_worker import Worker

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE_ID}-{CALLER}-01"

PHASES = """
    import logging
    from ts.torch_handler.base_handler import BaseHandler

    logger = logging.getLogger("acme.model")

    class Handler(BaseHandler):
        def initialize(self, context):
            logger.info("initializing")
            self.initialized = True
        def preprocess(self, data):
            logger.info("in preprocess")
            return data
        def inference(self, data):
            logger.info("in inference", extra={"inference_latency": 0.25})
            return data
        def postprocess(self, data):
            logger.info("in postprocess")
            return [row.get("body").decode() for row in data]
        def handle(self, data, context):
            logger.info("in handle")
            return super().handle(data, context)
"""


def failing(error: str, phase: str = "inference") -> str:
    return (
        PHASES
        + f"""
        def {phase}(self, data):
            {error}
    """
    )


class TestOneRequest:
    def test_it_is_a_server_span_below_the_caller_with_its_phases_once_each(self, worker: Worker) -> None:
        with worker.patched():
            service = load_model(PHASES, model_name="digits", model_version="2.1")
            (reply,) = predict(service, make_request(b"x", {"TraceParent": TRACEPARENT}, request_id="request-1"))
        assert (reply.status_code, reply.body) == (200, b"x")
        root = worker.span("predict digits")
        assert root.kind is SpanKind.SERVER
        assert format(root.context.trace_id, "032x") == TRACE_ID
        assert format(root.parent.span_id, "016x") == CALLER
        assert dict(root.attributes) == {
            "torchserve.model.name": "digits",
            "torchserve.model.version": "2.1",
            "torchserve.device": "cpu",
            "torchserve.worker.id": "9000",
            "torchserve.batch.size": 1,
            "torchserve.request.id": "request-1",
            "torchserve.response.status_code": 200,
        }
        assert root.status.status_code is StatusCode.UNSET
        children = worker.children(root)
        assert [child.name for child in children] == ["preprocess", "inference", "postprocess"]
        assert all(child.kind is SpanKind.INTERNAL for child in children)
        times = [time for child in children for time in (child.start_time, child.end_time)]
        assert times == sorted(times)
        assert root.start_time <= times[0]
        assert times[-1] <= root.end_time

    def test_its_lines_carry_the_ids_of_the_phase_they_were_made_in(self, worker: Worker) -> None:
        with worker.patched():
            service = load_model(PHASES, model_name="digits")
            predict(service, make_request(b"x", {"traceparent": TRACEPARENT, "X-Request-ID": "mine"}, request_id="r1"))
        spans = {span.name: format(span.context.span_id, "016x") for span in worker.spans}
        lines = {line["event"]: line for line in worker.lines.objects}
        assert lines["in handle"]["span_id"] == spans["predict digits"]
        for phase in ("preprocess", "inference", "postprocess"):
            line = lines[f"in {phase}"]
            assert (line["trace_id"], line["span_id"]) == (TRACE_ID, spans[phase])
            assert (line["request_id"], line["client_request_id"]) == ("r1", "mine")
            assert (line["model_name"], line["model_version"], line["worker_id"]) == ("digits", "1.0", "9000")

    @pytest.mark.parametrize(
        "header", [None, "", "rubbish", f"00-{'0' * 32}-{CALLER}-01", f"ff-{TRACE_ID}-{CALLER}-01"]
    )
    def test_without_a_usable_context_it_starts_a_trace(self, worker: Worker, header: Any) -> None:
        with worker.patched():
            predict(load_model(PHASES), make_request(b"x", {} if header is None else {"traceparent": header}))
        root = worker.span("predict tiny")
        assert root.parent is None
        assert format(root.context.trace_id, "032x") not in (TRACE_ID, "0" * 32)

    def test_an_unsampled_caller_makes_no_spans_but_its_ids_are_on_the_lines(self, worker: Worker) -> None:
        with worker.patched():
            service = load_model(PHASES)
            predict(service, make_request(b"x", {"traceparent": f"00-{TRACE_ID}-{CALLER}-00"}))
        assert [span.name for span in worker.spans] == ["load tiny"]
        line = next(line for line in worker.lines.objects if line["event"] == "in inference")
        assert (line["trace_id"], line["trace_flags"]) == (TRACE_ID, "00")

    def test_nothing_of_it_is_left_for_the_next(self, worker: Worker) -> None:
        with worker.patched():
            service = load_model(PHASES)
            for _ in range(2):
                predict(service, make_request(b"x"))
        first, second = (span for span in worker.spans if span.name == "predict tiny")
        assert first.context.trace_id != second.context.trace_id


class TestHandlerForms:
    def test_a_class_of_its_own_without_phases_is_one_phase(self, worker: Worker) -> None:
        handler = """
            import logging
            class Handler:
                def initialize(self, context): pass
                def handle(self, data, context):
                    logging.info("in handle")
                    return ["ok"] * len(data)
        """
        with worker.patched():
            predict(load_model(handler), make_request())
        assert [child.name for child in worker.children(worker.span("predict tiny"))] == ["handle"]
        line = next(line for line in worker.lines.objects if line["event"] == "in handle")
        assert line["span_id"] == format(worker.span("handle").context.span_id, "016x")

    def test_a_class_of_its_own_with_phases_has_those(self, worker: Worker) -> None:
        handler = """
            class Handler:
                def initialize(self, context): pass
                @staticmethod
                def preprocess(data): return data
                @classmethod
                def inference(cls, data): return data
                def handle(self, data, context): return ["ok"] * len(self.inference(self.preprocess(data)))
        """
        with worker.patched():
            (reply,) = predict(load_model(handler), make_request())
        assert reply.body == b"ok"
        assert [child.name for child in worker.children(worker.span("predict tiny"))] == ["preprocess", "inference"]

    def test_a_function_is_one_phase(self, worker: Worker) -> None:
        handler = """
            def handle(data, context):
                return None if data is None else ["ok"] * len(data)
        """
        with worker.patched():
            predict(load_model(handler), make_request())
        assert [child.name for child in worker.children(worker.span("predict tiny"))] == ["handle"]

    def test_a_handle_that_uses_no_phase_is_the_phase(self, worker: Worker) -> None:
        handler = """
            from ts.torch_handler.base_handler import BaseHandler
            class Handler(BaseHandler):
                def initialize(self, context): pass
                def handle(self, data, context): return ["ok"] * len(data)
        """
        with worker.patched():
            predict(load_model(handler), make_request())
        root = worker.span("predict tiny")
        (child,) = worker.children(root)
        assert child.name == "handle"
        assert root.start_time <= child.start_time <= child.end_time <= root.end_time

    def test_a_phase_that_calls_its_base_is_still_one(self, worker: Worker) -> None:
        handler = """
            from ts.torch_handler.base_handler import BaseHandler
            class Handler(BaseHandler):
                def initialize(self, context): pass
                def preprocess(self, data): return data
                def inference(self, data): return torch.tensor([7])
                def postprocess(self, data): return super().postprocess(data)
        """
        with worker.patched():
            (reply,) = predict(load_model("import torch\n" + textwrap.dedent(handler)), make_request(b"x"))
        assert reply.body == b"7"
        names = [child.name for child in worker.children(worker.span("predict tiny"))]
        assert names == ["preprocess", "inference", "postprocess"]


class TestFailure:
    def test_an_exception_that_torchserve_swallows_fails_the_span(self, worker: Worker) -> None:
        with worker.patched():
            (reply,) = predict(load_model(failing("raise ValueError('no such digit')")), make_request(b"x"))
        assert reply.status_code == 503
        root, phase = worker.span("predict tiny"), worker.span("inference")
        for failed in (root, phase):
            assert failed.status.status_code is StatusCode.ERROR
            assert failed.attributes["error.type"] == "ValueError"
        assert root.attributes["torchserve.response.status_code"] == 503
        (event,) = [event for span in worker.spans for event in span.events]
        assert event.name == "exception"
        assert event.attributes["exception.message"] == "no such digit"
        assert root.events, "the event is on the request's span"
        (line,) = [line for line in worker.lines.objects if "exception" in line]
        assert line["exception"]["type"] == "ValueError"
        assert line["span_id"] == format(root.context.span_id, "016x")

    def test_events_can_be_left_to_the_log(self, worker: Worker) -> None:
        with worker.patched(exception_events=False):
            predict(load_model(failing("raise ValueError")), make_request(b"x"))
        assert not [event for span in worker.spans for event in span.events]
        assert worker.span("predict tiny").status.status_code is StatusCode.ERROR

    def test_a_clients_mistake_is_no_error(self, worker: Worker) -> None:
        handler = failing("from ts.utils.util import PredictionException; raise PredictionException('bad body', 400)")
        with worker.patched():
            (reply,) = predict(load_model(handler), make_request(b"x"))
        assert reply.status_code == 400
        root = worker.span("predict tiny")
        assert root.status.status_code is StatusCode.UNSET
        assert root.attributes["torchserve.response.status_code"] == 400
        assert "error.type" not in root.attributes
        assert worker.span("inference").status.status_code is StatusCode.UNSET

    def test_out_of_memory_is_507(self, worker: Worker) -> None:
        with worker.patched():
            predict(load_model(failing("raise MemoryError")), make_request(b"x"))
        root = worker.span("predict tiny")
        assert root.attributes["torchserve.response.status_code"] == 507
        assert root.attributes["error.type"] == "MemoryError"

    @pytest.mark.parametrize("result", ["'text'", "[]"])
    def test_an_answer_of_the_wrong_form_is_an_error_by_its_code(self, worker: Worker, result: str) -> None:
        with worker.patched():
            predict(load_model(failing(f"return {result}", "postprocess")), make_request(b"x"))
        root = worker.span("predict tiny")
        assert root.status.status_code is StatusCode.ERROR
        assert root.attributes["error.type"] == "503"

    def test_a_code_that_the_handler_sets_is_the_requests(self, worker: Worker) -> None:
        handler = failing("self.context.set_response_status(500, 'broken'); return ['x']", "postprocess")
        with worker.patched():
            predict(load_model(handler), make_request(b"x"))
        root = worker.span("predict tiny")
        assert root.attributes["torchserve.response.status_code"] == 500
        assert root.status.status_code is StatusCode.ERROR

    def test_a_failed_load_is_an_error_of_its_span(self, worker: Worker) -> None:
        with worker.patched(), pytest.raises(RuntimeError, match="no weights"):
            load_model(failing("raise RuntimeError('no weights')", "__init__").replace("(self, data)", "(self)"))
        load = worker.span("load tiny")
        assert load.status.status_code is StatusCode.ERROR
        assert load.attributes["error.type"] == "RuntimeError"
        assert [event.name for event in load.events] == ["exception"]
        assert worker.points("torchserve.model.load.duration")[0].attributes["error.type"] == "RuntimeError"


class TestLoad:
    def test_it_is_a_span_that_its_lines_belong_to(self, worker: Worker) -> None:
        with worker.patched():
            load_model(PHASES, model_name="digits", model_version="2.1", gpu_id=-1)
        load = worker.span("load digits")
        assert load.kind is SpanKind.INTERNAL
        assert load.attributes["torchserve.device"] == "cpu"
        assert load.attributes["torchserve.model.version"] == "2.1"
        line = next(line for line in worker.lines.objects if line["event"] == "initializing")
        assert line["span_id"] == format(load.context.span_id, "016x")
        assert line["model_version"] == "2.1"
        assert worker.loads == 1

    def test_the_phases_that_a_load_runs_make_no_spans(self, worker: Worker) -> None:
        handler = failing("self.preprocess([]); self.initialized = True", "initialize")
        with worker.patched():
            load_model(handler)
        assert [span.name for span in worker.spans] == ["load tiny"]


class TestBatch:
    def test_it_has_a_span_of_its_own_linked_to_every_members(self, worker: Worker) -> None:
        with worker.patched():
            service = load_model(PHASES, batch_size=3)
            predict(
                service,
                make_request(b"a", {"traceparent": TRACEPARENT}, request_id="r0"),
                make_request(b"b", request_id="r1"),
                make_request(b"c", request_id="r2"),
            )
        batch = worker.span("batch tiny")
        members = [span for span in worker.spans if span.name == "predict tiny"]
        assert batch.parent is None
        assert [link.context.span_id for link in batch.links] == [member.context.span_id for member in members]
        assert [dict(link.attributes) for link in batch.links] == [
            {"torchserve.request.id": f"r{index}", "torchserve.batch.index": index} for index in range(3)
        ]
        assert format(members[0].context.trace_id, "032x") == TRACE_ID
        assert len({member.context.trace_id for member in members}) == 3
        assert all(member.links[0].context.span_id == batch.context.span_id for member in members)
        assert [child.name for child in worker.children(batch)] == ["preprocess", "inference", "postprocess"]
        line = next(line for line in worker.lines.objects if line["event"] == "in inference")
        assert line["request_ids"] == ["r0", "r1", "r2"]
        assert line["trace_ids"] == [format(member.context.trace_id, "032x") for member in members]
        assert line["trace_id"] == format(batch.context.trace_id, "032x")
        (point,) = worker.points("torchserve.request.duration")
        assert point.count == 3
        assert worker.points("torchserve.phase.duration")[0].count == 1


class TestMeasurements:
    def test_histograms_have_exemplars_of_the_trace(self, worker: Worker) -> None:
        with worker.patched():
            service = load_model(PHASES, model_name="digits")
            predict(service, make_request(b"x", {"traceparent": TRACEPARENT}))
        (request,) = worker.points("torchserve.request.duration")
        assert dict(request.attributes) == {"torchserve.model.name": "digits", "torchserve.model.version": "1.0"}
        assert request.explicit_bounds[0] == 0.0001
        assert request.explicit_bounds[-1] == 60.0
        (exemplar,) = request.exemplars
        assert format(exemplar.trace_id, "032x") == TRACE_ID
        assert exemplar.span_id == worker.span("predict digits").context.span_id
        phases = {
            point.attributes["torchserve.phase.name"]: point for point in worker.points("torchserve.phase.duration")
        }
        assert set(phases) == {"preprocess", "inference", "postprocess"}
        for name, point in phases.items():
            assert point.exemplars[0].span_id == worker.span(name).context.span_id
        (load,) = worker.points("torchserve.model.load.duration")
        assert load.exemplars[0].span_id == worker.span("load digits").context.span_id
        assert request.sum >= sum(point.sum for point in phases.values())

    def test_a_failure_is_told_apart(self, worker: Worker) -> None:
        with worker.patched():
            predict(load_model(failing("raise ValueError")), make_request(b"x"))
        (point,) = worker.points("torchserve.request.duration")
        assert point.attributes["error.type"] == "ValueError"


class TestResponseHeaders:
    def test_none_unless_asked_for(self, worker: Worker) -> None:
        with worker.patched():
            (reply,) = predict(load_model(PHASES), make_request(b"x"))
        assert reply.headers == {}

    def test_those_asked_for_name_the_trace_and_the_phases(self, worker: Worker) -> None:
        with worker.patched(response_headers=("server-timing", "traceresponse")):
            (reply,) = predict(load_model(PHASES), make_request(b"x", {"traceparent": TRACEPARENT}))
        root = worker.span("predict tiny")
        flags = format(root.context.trace_flags, "02x")
        parent = f"00-{TRACE_ID}-{root.context.span_id:016x}-{flags}"
        assert reply.headers["traceresponse"] == parent
        timings = reply.headers["server-timing"].split(", ")
        assert timings[0] == f'trace;desc="{parent}"'
        assert [timing.partition(";dur=")[0] for timing in timings[1:]] == ["preprocess", "inference", "postprocess"]
        assert all(float(timing.partition(";dur=")[2]) >= 0 for timing in timings[1:])
        assert "traceparent" not in reply.headers

    def test_what_the_handler_says_stays(self, worker: Worker) -> None:
        handler = failing(
            "self.context.set_response_header(0, 'Server-Timing', 'db;dur=5');"
            "self.context.set_response_header(0, 'Traceparent', 'mine'); return ['x']",
            "postprocess",
        )
        with worker.patched(response_headers=("server-timing", "traceparent")):
            (reply,) = predict(load_model(handler), make_request(b"x"))
        assert reply.headers["Traceparent"] == "mine"
        assert reply.headers["Server-Timing"].startswith("db;dur=5, trace;desc=")
        assert len(reply.headers) == 2


class TestUsersSpans:
    def test_a_span_is_a_child_of_the_phase(self, worker: Worker) -> None:
        handler = failing(
            """import ts_otel_logging
            with ts_otel_logging.span('tokenize', {'tokens': 3}): return data"""
        )
        with worker.patched():
            predict(load_model(handler), make_request(b"x"))
        child = worker.span("tokenize")
        assert child.parent.span_id == worker.span("inference").context.span_id
        assert child.attributes["tokens"] == 3

    def test_outside_a_request_it_does_nothing(self, worker: Worker) -> None:
        with worker.patched(), span("nothing"), request_scope(0):
            pass
        assert worker.spans == []


class TestUndo:
    def test_everything_is_put_back(self, worker: Worker) -> None:
        places = []
        for seam in SEAMS:
            *modules, owner, name = seam.split(".")
            module = importlib.import_module(".".join(modules if owner[0].isupper() else [*modules, owner]))
            places.append((getattr(module, owner) if owner[0].isupper() else module, name))
        before = [vars(owner)[name] for owner, name in places]
        with worker.patched():
            assert not [place for place, value in zip(places, before) if vars(place[0])[place[1]] is value]
        assert [vars(owner)[name] for owner, name in places] == before


class TestWhatHandlersMayDo:
    def test_a_phase_that_is_a_coroutine_function_stays_one(self, worker: Worker) -> None:
        handler = """
            import asyncio, inspect
            class Handler:
                def initialize(self, context): pass
                async def inference(self, data):
                    await asyncio.sleep(0.02)
                    return ["ok"]
                def handle(self, data, context):
                    assert inspect.iscoroutinefunction(self.inference)
                    return asyncio.run(self.inference(data))
        """
        with worker.patched():
            (reply,) = predict(load_model(handler), make_request())
        assert reply.body == b"ok"
        span = worker.span("inference")
        assert span.parent.span_id == worker.span("predict tiny").context.span_id
        assert span.end_time - span.start_time >= 20_000_000

    def test_a_phase_that_is_a_generator_is_left_alone(self, worker: Worker) -> None:
        handler = """
            class Handler:
                def initialize(self, context): pass
                def inference(self, data): yield "ok"
                def handle(self, data, context): return list(self.inference(data))
        """
        with worker.patched():
            (reply,) = predict(load_model(handler), make_request())
        assert reply.body == b"ok"
        assert [child.name for child in worker.children(worker.span("predict tiny"))] == ["handle"]

    def test_a_compiled_phase_is_traced_by_torch_without_us(self, worker: Worker) -> None:
        handler = """
            import torch
            class Handler:
                def initialize(self, context):
                    self.compiled = torch.compile(self.inference, backend="eager", fullgraph=True)
                def inference(self, data): return data + 1
                def handle(self, data, context): return self.compiled(torch.ones(1)).tolist()
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with worker.patched():
                (reply,) = predict(load_model(handler), make_request())
        assert (reply.status_code, reply.body) == (200, b"2.0")

    def test_a_class_that_is_loaded_twice_has_its_phases_once(self, worker: Worker) -> None:
        shared = types.ModuleType("shared_handler")
        exec(textwrap.dedent(PHASES), shared.__dict__)
        sys.modules["shared_handler"] = shared
        handler = "import shared_handler\nHandler = shared_handler.Handler\nHandler.__module__ = __name__\n"
        try:
            with worker.patched():
                load_model(handler)
                predict(load_model(handler), make_request(b"x"))
        finally:
            del sys.modules["shared_handler"]
        names = [child.name for child in worker.children(worker.span("predict tiny"))]
        assert names == ["preprocess", "inference", "postprocess"]

    def test_what_it_binds_for_one_request_is_not_on_the_next_ones_lines(self, worker: Worker) -> None:
        handler = """
            import logging, structlog
            def handle(data, context):
                if data:
                    logging.info("before")
                    structlog.contextvars.bind_contextvars(user=data[0]["body"].decode())
                    logging.info("after")
                return data
        """
        with worker.patched():
            service = load_model(handler)
            predict(service, make_request(b"alice"))
            predict(service, make_request(b"bob"))
        users = [line.get("user") for line in worker.lines.objects if line["event"] in ("before", "after")]
        assert users == [None, "alice", None, "bob"]


class TestOtherPeoplesCode:
    class Broken(SpanProcessor):
        """A processor that raises for spans of one name."""

        def __init__(self, name: str, method: str) -> None:
            self._name = name
            self._method = method

        def _check(self, span: Any, method: str) -> None:
            if (span.name, method) == (self._name, self._method):
                raise RuntimeError("broken processor")

        def on_start(self, span: Any, parent_context: Any = None) -> None:
            self._check(span, "start")

        def on_end(self, span: Any) -> None:
            self._check(span, "end")

    @pytest.mark.parametrize("method", ["start", "end"])
    @pytest.mark.parametrize("name", ["load tiny", "predict tiny", "inference", "handle"])
    def test_a_span_processor_that_raises_costs_no_prediction_and_leaks_nothing(
        self, worker: Worker, monkeypatch: pytest.MonkeyPatch, name: str, method: str
    ) -> None:
        monkeypatch.setattr(_diagnostics, "reraise", False)
        handler = PHASES if name != "handle" else "def handle(data, context): return data and ['x']"
        worker.tracer_provider.add_span_processor(self.Broken(name, method))
        with worker.patched():
            (reply,) = predict(load_model(handler), make_request(b"x"))
            logging.getLogger("acme").info("afterwards")
        assert (reply.status_code, reply.body) == (200, b"x")
        assert not {"trace_id", "request_id"} & set(worker.lines.last)

    def test_an_exception_that_cannot_be_printed_is_recorded_all_the_same(self, worker: Worker) -> None:
        handler = failing(
            """from ts.utils.util import PredictionException
            raise type("Odd", (PredictionException,), {"__str__": lambda self: 1 / 0})("x")"""
        )
        with worker.patched():
            (reply,) = predict(load_model(handler), make_request(b"x"))
        assert reply.status_code == 500
        root = worker.span("predict tiny")
        assert root.attributes["error.type"].endswith("Odd")
        assert root.events[0].attributes["exception.type"].endswith("Odd")

    def test_a_propagator_may_spell_its_header_as_it_likes(self, worker: Worker) -> None:
        class Vendor(TraceContextTextMapPropagator):
            def extract(self, carrier: Any, context: Any = None, getter: Any = None) -> Any:
                (value,) = getter.get(carrier, "X-Vendor-Trace")
                return super().extract({"traceparent": value}, context)

        before = propagate.get_global_textmap()
        propagate.set_global_textmap(Vendor())
        try:
            with worker.patched():
                predict(load_model(PHASES), make_request(b"x", {"x-vendor-TRACE": TRACEPARENT}))
        finally:
            propagate.set_global_textmap(before)
        assert format(worker.span("predict tiny").context.trace_id, "032x") == TRACE_ID

    def test_text_that_utf8_cannot_hold_is_safe_in_a_span(self, worker: Worker) -> None:
        with worker.patched():
            predict(load_model(failing("raise ValueError('\\ud83d')")), make_request(b"x"))
        (event,) = worker.span("predict tiny").events
        for value in event.attributes.values():
            str(value).encode("utf-8")


class TestLateSwitch:
    def test_a_service_that_was_loaded_before_is_adopted(self, worker: Worker) -> None:
        service = load_model(PHASES.replace("super().handle(data, context)", "[row['body'].decode() for row in data]"))
        with worker.patched():
            predict(service, make_request(b"x", {"traceparent": TRACEPARENT}))
        root = worker.span("predict tiny")
        assert format(root.context.trace_id, "032x") == TRACE_ID
        assert root.attributes["torchserve.model.version"] == "1.0"
        assert [child.name for child in worker.children(root)] == ["handle"]
