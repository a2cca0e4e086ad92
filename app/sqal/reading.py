"""From a decoded message to a reading that can be stored: checked, never clamped, packed into its frame."""

from __future__ import annotations

import re
from datetime import MAXYEAR, MINYEAR, UTC, datetime, timedelta
from functools import lru_cache
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

import msgspec

from app.sqal.errors import Code, RefusalError
from app.sqal.flags import Flag
from app.sqal.frame import (
    ABSENT,
    CHANNELS,
    MICRO,
    Reported,
    encode_channels,
    encode_head,
    encode_matrices,
    stack_matrices,
)
from app.sqal.wire import (
    NOTHING_RAW,
    Encoding,
    FusionBlock,
    SampleMeta,
    SensorData,
    TofBlock,
    decode_defects,
)
from app.sqal.zones import blame, flags_of, read_matrices

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from app.sqal.wire import SpectralBlock

MAX_COUNTS: Final = 65_535
GAINS: Final = (0.5, 512.0)
MAX_INTEGRATION_MS: Final = 60_000
WEIGHT_TOLERANCE: Final = 0.001
MAX_TEXT: Final = 128
MAX_DEFECTS: Final = 30_000
AHEAD: Final = timedelta(minutes=5)
GRADES: Final = ("A+", "A", "B", "C", "REJECT")
NOT_GRADABLE: Final = "NOT_GRADABLE"
# Plain integers: an IntFlag's | costs more than the rest of a check.
MISSING_GAIN: Final = int(Flag.MISSING_GAIN)
ODD_CLAIM: Final = int(Flag.ODD_CLAIM)
ODD_TEXT: Final = int(Flag.ODD_TEXT)
UNREADABLE_DEFECTS: Final = int(Flag.UNREADABLE_DEFECTS)
_SCORE_NAMES: Final = (
    "fusion.final_score", "fusion.tof_score", "fusion.spectral_score", "fusion.vl53l8ch_score", "fusion.as7341_score",
    "fusion.confidence_level", "fusion.weight_tof", "fusion.weight_spectral", "fusion.tof_contribution",
    "fusion.spectral_contribution", "vl53l8ch.quality_score", "as7341.quality_score", "as7341.freshness_index",
    "as7341.fat_quality_index", "as7341.oxidation_index", "as7341.color_uniformity",
)  # fmt: skip
_NO_FUSION: Final = FusionBlock()
_NO_META: Final = SampleMeta()
_DEVICE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:\-]{0,63}\Z")
_SITE = re.compile(r"[A-Z]{2}\Z")
_SITE_IN_ID = re.compile(r"[A-Za-z0-9]+[_-](?:(?:DEMO|DOCKER)[_-])?([A-Z]{2})(?:[_-]|\Z)")
_TIME = re.compile(r"[0-9W:.,+\-TtZz ]+\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


class Reading(msgspec.Struct, gc=False):
    """One valid reading, as it will be stored; times in UTC, scores as the device claimed them (0..1)."""

    device_id: str
    sample_id: str
    timestamp: str
    device_time: datetime
    frame: bytes
    flags: int
    claimed_score: float | None
    claimed_grade: str | None
    claimed_compliant: bool | None
    volume_mm3: float | None
    temperature_c: float | None
    humidity_percent: float | None
    site_code: str | None
    site_sent: bool
    lot: str | None
    lot_id: str | None
    farmer: str | None
    origin: str | None
    location: str | None
    firmware_version: str | None
    profile: str | None


class Draft(msgspec.Struct, gc=False):
    """A reading whose matrices are not packed yet: that is done for many at once."""

    reading: Reading
    side: int
    mask: int
    zones: bytes
    channels: bytes


def parse_time(text: str | None) -> datetime:
    """ISO 8601, naive means UTC. Raises RefusalError for a missing or unreadable one."""
    if not text:
        raise RefusalError(Code.MISSING_FIELD, "timestamp is missing")
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not UTC:
            moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise RefusalError(Code.INVALID_TIMESTAMP, "timestamp is not an ISO 8601 date and time") from error
    # The parser takes any separator; the driver takes the calendar's two ends for infinity.
    if not _TIME.match(text) or not MINYEAR < moment.year < MAXYEAR:
        raise RefusalError(Code.INVALID_TIMESTAMP, "timestamp is not an ISO 8601 date and time")
    return moment


def is_plausible(device_time: datetime, now: datetime, retention: timedelta) -> bool:
    """Whether a device's time may be believed: from `now - retention` to `now` + 5 minutes."""
    return now - retention <= device_time <= now + AHEAD


def read_device_id(value: str | None) -> str:
    """A device's name, checked. Raises RefusalError for a missing or odd one."""
    if not value:
        raise RefusalError(Code.MISSING_FIELD, "device_id is missing")
    if not _is_device_id(value):
        raise RefusalError(Code.INVALID_IDENTITY, "device_id must be 1 to 64 letters, digits, or . _ : -")
    return value


@lru_cache(4_096)
def _is_device_id(value: str) -> bool:
    return _DEVICE_ID.match(value) is not None


def _read_sample_id(value: str | int | None) -> str:
    if value is None or value == "":
        raise RefusalError(Code.MISSING_FIELD, "sample_id is missing")
    text = str(value)
    if len(text) > MAX_TEXT or (not text.isprintable() and _CONTROL.search(text)):
        raise RefusalError(Code.INVALID_IDENTITY, f"sample_id must be 1 to {MAX_TEXT} characters, none of them control")
    return text


def read_sample(message: SensorData, encoding: Encoding) -> Draft:
    """Check a `sensor_data` message, all but the values of its matrices. RefusalError for what cannot be stored."""
    device_id = read_device_id(message.device_id)
    sample_id = _read_sample_id(message.sample_id)
    device_time = parse_time(message.timestamp)
    tof, spectral, fusion = message.vl53l8ch, message.as7341, message.fusion or _NO_FUSION
    if tof is None:
        raise RefusalError(Code.MISSING_FIELD, "vl53l8ch is missing")
    if spectral is None:
        raise RefusalError(Code.MISSING_FIELD, "as7341 is missing")
    side, mask, zones, flags = read_matrices(tof)
    channels = _read_channels(spectral)
    gain, integration_ms = _read_exposure(spectral)
    if gain is None:
        flags |= MISSING_GAIN
    _check_scores(tof, spectral, fusion)
    reported, defect_flags = _read_reported(tof, spectral, fusion, encoding)
    claimed_grade, claimed_compliant, claim_flags = _read_claim(fusion)
    meta = message.meta or _NO_META
    texts, text_flags = _read_texts(message, meta)
    site_code, site_sent = _read_site(message.site_code, device_id)
    reading = Reading(
        device_id,
        sample_id,
        message.timestamp or "",
        device_time,
        encode_head(side, mask, gain, integration_ms, reported),
        flags | defect_flags | claim_flags | text_flags,
        fusion.final_score,
        claimed_grade,
        claimed_compliant,
        _bounded("vl53l8ch.volume_mm3", tof.volume_mm3, 0, 1e12),
        _bounded("meta.temperature_c", meta.temperature_c, -273.15, 1_000),
        _bounded("meta.humidity_percent", meta.humidity_percent, 0, 100),
        site_code,
        site_sent,
        *texts,
    )
    return Draft(reading, side, mask, zones, channels)


def finish_drafts(drafts: Sequence[Draft]) -> list[RefusalError | None]:
    """Check and pack the matrices of many drafts, completing their readings' frames; a refusal for each that is bad."""
    outcomes: list[RefusalError | None] = [None] * len(drafts)
    shapes: dict[tuple[int, int], list[int]] = {}
    for number, draft in enumerate(drafts):
        shapes.setdefault((draft.side, draft.mask), []).append(number)
    for (side, mask), numbers in shapes.items():
        values = stack_matrices([drafts[number].zones for number in numbers], mask, side)
        found = zip(numbers, encode_matrices(values, mask), flags_of(values, mask), strict=True)
        for number, planes, flags in found:
            draft = drafts[number]
            if planes is None or flags is None:
                outcomes[number] = blame(draft.zones, draft.side, draft.mask)
            else:
                draft.reading.flags |= flags
                draft.reading.frame += planes + draft.channels
    return outcomes


def _bounded(name: str, value: float | None, low: float, high: float) -> float | None:
    """`value` when it is absent or within low..high. NaN compares false, so it is refused here too."""
    if value is None or low <= value <= high:
        return value
    if not isfinite(value):
        raise RefusalError(Code.NOT_FINITE, f"{name} is not a finite number")
    raise RefusalError(Code.OUT_OF_RANGE, f"{name} must be within {low:g} and {high:g}")


def _read_channels(spectral: SpectralBlock) -> bytes:
    channels = spectral.channels
    if channels is None:
        raise RefusalError(Code.MISSING_FIELD, "as7341.channels is missing")
    try:
        counts = [channels[name] for name in CHANNELS]
    except KeyError as error:
        raise RefusalError(Code.MISSING_FIELD, f"as7341.channels.{error.args[0]} is missing") from error
    if not (min(counts) >= 0 and max(counts) <= MAX_COUNTS and isfinite(sum(counts))):
        for name, count in zip(CHANNELS, counts, strict=True):
            _bounded(f"as7341.channels.{name}", count, 0, MAX_COUNTS)
    return encode_channels(counts)


def _read_exposure(spectral: SpectralBlock) -> tuple[float | None, float | None]:
    """(gain, integration time in ms); the outer field wins over `meta`."""
    gain, integration_ms, meta = spectral.gain, spectral.integration_time, spectral.meta
    if meta is not None:
        gain = meta.gain if gain is None else gain
        integration_ms = meta.integration_time_ms if integration_ms is None else integration_ms
    return (
        _bounded("as7341.gain", gain, *GAINS),
        _bounded("as7341.integration_time", integration_ms, 0, MAX_INTEGRATION_MS),
    )


def _check_scores(tof: TofBlock, spectral: SpectralBlock, fusion: FusionBlock) -> None:
    """Every score, index and weight is within 0..1 or absent, and weights add up."""
    f, s = fusion, spectral
    values = (
        f.final_score, f.tof_score, f.spectral_score, f.vl53l8ch_score, f.as7341_score, f.confidence_level,
        f.weight_tof, f.weight_spectral, f.tof_contribution, f.spectral_contribution, tof.quality_score,
        s.quality_score, s.freshness_index, s.fat_quality_index, s.oxidation_index, s.color_uniformity,
    )  # fmt: skip
    for value in values:
        if value is not None and not 0.0 <= value <= 1.0:
            for name, one in zip(_SCORE_NAMES, values, strict=True):
                _bounded(name, one, 0, 1)
    for one, other in ((f.weight_tof, f.weight_spectral), (f.tof_contribution, f.spectral_contribution)):
        if one is not None and other is not None and abs(one + other - 1.0) > WEIGHT_TOLERANCE:
            raise RefusalError(Code.INVALID_WEIGHTS, "the weights of tof and spectral must add up to 1")


def _micro(value: float | None) -> int:
    return ABSENT if value is None else round(value * MICRO)


def _read_reported(
    tof: TofBlock, spectral: SpectralBlock, fusion: FusionBlock, encoding: Encoding
) -> tuple[Reported, int]:
    """What the device derived: `fusion`'s sub-scores first, else each sensor block's own; and flags."""
    worst, number, flags = _read_defects(tof, fusion, encoding)
    reported = Reported(
        _micro(tof.quality_score if fusion.tof_score is None else fusion.tof_score),
        _micro(spectral.quality_score if fusion.spectral_score is None else fusion.spectral_score),
        _micro(spectral.freshness_index),
        _micro(spectral.fat_quality_index),
        _micro(spectral.oxidation_index),
        _micro(spectral.color_uniformity),
        worst,
        number,
    )
    return reported, flags


def _read_defects(tof: TofBlock, fusion: FusionBlock, encoding: Encoding) -> tuple[int, int, int]:
    """(worst severity in 1e-6, number, flags) of the first list present; an unreadable list is flagged, not refused."""
    defects = None
    for raw in (fusion.defects, fusion.combined_defects, tof.defects):
        if raw is not NOTHING_RAW:
            try:
                defects = decode_defects(raw, encoding)
            except (msgspec.DecodeError, RecursionError):
                return ABSENT, ABSENT, UNREADABLE_DEFECTS
            if defects is not None:
                break
    if defects is None:
        return ABSENT, ABSENT, 0
    if not defects:
        return 0, 0, 0
    severities = [defect.severity for defect in defects if defect.severity is not None]
    if len(defects) > MAX_DEFECTS or not all(0 <= severity <= 1 for severity in severities):
        return ABSENT, ABSENT, UNREADABLE_DEFECTS
    return round(max(severities, default=0.0) * MICRO), len(defects), 0


def _read_claim(fusion: FusionBlock) -> tuple[str | None, bool | None, int]:
    """The claimed grade as text and compliance; an unknown label is kept and flagged, never read as one of ours."""
    compliant = fusion.is_compliant
    if compliant is None and fusion.foie_gras_metrics is not None:
        compliant = fusion.foie_gras_metrics.is_compliant
    grade, odd = _text(fusion.final_grade)
    odd = odd or (grade is not None and grade not in GRADES and grade != NOT_GRADABLE)
    if compliant is not None and not isinstance(compliant, bool):
        compliant, odd = None, True
    return grade, compliant, ODD_CLAIM if odd else 0


def _text(value: Any) -> tuple[str | None, bool]:
    """(text, odd): numbers become their decimal text, anything that is no short clean text becomes None and odd."""
    if value is None or value == "":
        return None, False
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None, True
    text = value if isinstance(value, str) else str(value)
    if len(text) > MAX_TEXT or _CONTROL.search(text):
        return None, True
    return text, False


def read_texts(values: Iterable[Any]) -> tuple[list[str | None], bool]:
    """Each value as a short clean text or None, and whether any was odd."""
    texts, odd = [], False
    for value in values:
        if value is None or (type(value) is str and 0 < len(value) <= MAX_TEXT and value.isprintable()):
            texts.append(value)
        else:
            text, strange = _text(value)
            texts.append(text)
            odd = odd or strange
    return texts, odd


def _read_texts(message: SensorData, meta: SampleMeta) -> tuple[list[str | None], int]:
    """Lot, lot id, farmer, origin, location, firmware, profile; and flags."""
    texts, odd = read_texts(
        (
            message.lot_abattage,
            message.lot_id,
            message.eleveur,
            message.provenance,
            message.location,
            meta.firmware_version if message.firmware_version is None else message.firmware_version,
            meta.config_profile,
        )
    )
    if texts[0] is None:
        texts[0] = texts[1]
    return texts, ODD_TEXT if odd else 0


def _read_site(sent: Any, device_id: str) -> tuple[str | None, bool]:
    """(site, whether it was sent). A sent value that is no site code means unknown, never something else."""
    if sent is not None and sent != "":
        return (sent if isinstance(sent, str) and is_site_code(sent) else None), True
    return site_in_id(device_id), False


def is_site_code(text: str) -> bool:
    return _SITE.match(text) is not None


@lru_cache(4_096)
def site_in_id(device_id: str) -> str | None:
    """The second part of a device id (the third, after DEMO or DOCKER) when that is two capital letters."""
    match = _SITE_IN_ID.match(device_id)
    return match[1] if match else None


def resolve_site(site_code: str | None, configured: str | None, *, sent: bool) -> str | None:
    """The site as sent, else as the device record says, else as the device's id says."""
    return site_code if sent else (configured or site_code)
