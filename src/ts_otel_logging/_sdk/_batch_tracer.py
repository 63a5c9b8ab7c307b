"""The span of a batch follows its members, not the sampler: it is sampled if one of them is, and has a link to each."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Final

from opentelemetry.sdk.trace import Tracer
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.trace import SpanContext
    from opentelemetry.trace import Tracer as AnyTracer

# A sampler by ratio looks at the lowest 64 or 56 bits of a trace id. These are enough of them to agree with it; the
# rest is new, so that no two traces are taken for one where only 64 bits are looked at.
_DECISIVE_BITS: Final = 0xFFFF_FFFF_FF00_0000
# https://www.w3.org/TR/trace-context-2/#random-trace-id-flag
_RANDOM_FLAG: Final = 0x02


def tracer_for_batch(tracer: AnyTracer, members: Sequence[SpanContext]) -> AnyTracer:
    """Return a tracer whose next root span is that of a batch.

    It differs from the given one in three ways, which OpenTelemetry's API has no parameters for: its decision is that
    of the batch's members, it takes a link to each of them, and its trace ids are such that a sampler by ratio comes
    to the same decision for the spans below. The provider and all its other spans stay as they are.

    Args:
        tracer: A tracer of any provider; one that is not OpenTelemetry's SDK's is returned as it is.
        members: The spans of the batch's members, at least one.
    """
    if not isinstance(tracer, Tracer):
        return tracer
    decisive = next((member for member in members if member.trace_flags.sampled), members[0])
    changed = copy.copy(tracer)
    changed.sampler = ALWAYS_ON if decisive.trace_flags.sampled else ALWAYS_OFF
    changed.id_generator = _LikeMember(tracer.id_generator, decisive)
    limits = tracer._span_limits  # noqa: SLF001 - a tracer has no other way to its provider's
    if limits.max_links is not None and limits.max_links < len(members):
        changed._span_limits = copy.copy(limits)  # noqa: SLF001 - as above
        changed._span_limits.max_links = len(members)  # noqa: SLF001 - as above
    return changed


class _LikeMember(IdGenerator):
    """Makes trace ids for which a sampler by ratio decides as for a member's."""

    def __init__(self, generator: IdGenerator, member: SpanContext) -> None:
        self._generator = generator
        self._member = member

    def generate_span_id(self) -> int:
        return self._generator.generate_span_id()

    def generate_trace_id(self) -> int:
        return self._generator.generate_trace_id() & ~_DECISIVE_BITS | self._member.trace_id & _DECISIVE_BITS

    def is_trace_id_random(self) -> bool:
        return bool(self._member.trace_flags & _RANDOM_FLAG)
