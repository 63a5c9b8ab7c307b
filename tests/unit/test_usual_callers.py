"""What is read of a caller's headers without asking the propagators is what they would say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry import baggage, propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ts_otel_logging._callers import Callers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.propagators.textmap import TextMapPropagator

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"


def hexadecimal(size: int) -> Any:
    return st.one_of(
        st.text("0123456789abcdef", min_size=size, max_size=size),
        st.just("0" * size),
        st.text("0123456789abcdefABCDEF٣ ", min_size=size - 1, max_size=size + 1),
    )


traceparents = st.builds(
    lambda before, version, parts, after: before + "-".join([version, *parts]) + after,
    st.sampled_from(["", " "]),
    st.sampled_from(["00", "01", "ff", "0"]),
    st.tuples(hexadecimal(32), hexadecimal(16), hexadecimal(2)),
    st.sampled_from(["", " ", "-", "-more"]),
)
headers = st.fixed_dictionaries(
    {},
    optional={
        "traceparent": traceparents,
        "tracestate": st.sampled_from(["a=1", "a=1,b=2", ""]),
        "baggage": st.sampled_from(["tenant=7", ""]),
        "x-request-id": st.just("7"),
    },
)


def seen(context: Context) -> tuple[Any, dict[str, Any]]:
    return trace.get_current_span(context).get_span_context(), dict(baggage.get_all(context))


@given(headers=headers)
@example(headers={"traceparent": TRACEPARENT})
@example(headers={"traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-ff"})
@example(headers={"traceparent": f"00-{TRACE_ID}-{'0' * 16}-01"})
@example(headers={"traceparent": f"00-{'0' * 32}-b7ad6b7169203331-01"})
@example(headers={"traceparent": TRACEPARENT, "tracestate": "a=1"})
@example(headers={"traceparent": TRACEPARENT, "baggage": "tenant=7"})
@example(headers={"traceparent": TRACEPARENT.upper()})
@example(headers={"traceparent": f"ff{TRACEPARENT[2:]}"})
def test_the_caller_is_whom_the_propagators_find(headers: dict[str, str]) -> None:
    assert seen(Callers().origin(headers).context) == seen(propagate.extract(headers, Context()))


class Nobody(TraceContextTextMapPropagator):
    def extract(self, _carrier: Any, context: Any = None, *_: Any, **__: Any) -> Context:
        return context or Context()


class TestOtherPropagators:
    @pytest.fixture(autouse=True)
    def _restored(self) -> Iterator[None]:
        before = propagate.get_global_textmap()
        yield
        propagate.set_global_textmap(before)

    @pytest.mark.parametrize(
        "propagator", [Nobody(), CompositePropagator([]), CompositePropagator([Nobody(), W3CBaggagePropagator()])]
    )
    def test_are_asked_from_the_moment_they_are_set(self, propagator: TextMapPropagator) -> None:
        callers = Callers()
        assert seen(callers.origin({"traceparent": TRACEPARENT}).context)[0].is_valid
        propagate.set_global_textmap(propagator)
        assert not seen(callers.origin({"traceparent": TRACEPARENT}).context)[0].is_valid
