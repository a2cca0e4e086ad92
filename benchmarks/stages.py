"""What each stage of a sample costs, on varied messages and in groups as the server forms them."""

from __future__ import annotations

import hashlib
import timeit
from typing import TYPE_CHECKING, Any

from app.core.clock import SystemClock
from app.sqal import wire
from app.sqal.codec import MessageCodec
from app.sqal.prepare import Preparer
from app.sqal.reading import finish_drafts, read_sample
from app.sqal.recipes import DeviceProfile, ReportedRecipe
from app.sqal.wire import Encoding
from benchmarks.load import templates

if TYPE_CHECKING:
    from collections.abc import Callable


def each(work: Callable[[], Any], count: int) -> float:
    """Microseconds a sample: the best of five runs over all."""
    return min(timeit.repeat(work, number=1, repeat=5)) / count * 1e6


class Nobody:
    def deliver(self, work: Any, verdict: Any) -> None: ...


def report() -> None:
    """Print a row a stage."""
    codec = MessageCodec()
    preparer = Preparer(codec, SystemClock())
    recipe, profile, nobody = ReportedRecipe(), DeviceProfile(), Nobody()
    print("\n| stage, us a sample | 16 kB | 2.2 kB |\n|---|---|---|")
    columns: list[dict[str, float]] = []
    for kind in ("fleet", "compact"):
        raws = [raw for raw, _, _ in templates(kind)]
        messages = [wire.decode_as("sensor_data", raw, Encoding.JSON) for raw in raws]
        drafts = [read_sample(message, Encoding.JSON) for message in messages]
        count = len(raws)

        def prepare(raws: list[bytes] = raws) -> None:
            works = [preparer.sample(raw, Encoding.JSON, nobody, None) for raw in raws]
            for start in range(0, len(works), 32):
                preparer.prepare(works[start : start + 32])

        stages: dict[str, Callable[[], Any]] = {
            "decode (msgspec)": lambda raws=raws: [wire.decode_as("sensor_data", r, Encoding.JSON) for r in raws],
            "check fields": lambda messages=messages: [read_sample(m, Encoding.JSON) for m in messages],
            "pack frames": lambda drafts=drafts: finish_drafts(drafts),
            "hash (SHA-256)": lambda raws=raws: [hashlib.sha256(r).digest() for r in raws],
            "compress (zstd)": lambda raws=raws: [codec.compress(r) for r in raws],
            "grade": lambda d=drafts: recipe.grade([x.reading.frame for x in d], [profile] * len(d)),
            "all of these but grade": prepare,
        }
        columns.append({name: each(work, count) for name, work in stages.items()})
    for name in columns[0]:
        print(f"| {name} | {columns[0][name]:.1f} | {columns[1][name]:.1f} |")
