"""From a decoded message to a reading that can be stored: checked, never clamped, packed into its frame."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from itertools import chain
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

import msgspec

from app.sqal.errors import Code, RefusalError
from app.sqal.flags import Flag
from app.sqal.frame import ABSENT, CHANNELS, MAX_VALUE, MICRO, Reported, encode_frame
from app.sqal.wire import Encoding, Matrices, SensorData, TofBlock, decode_defects

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.sqal.wire import FusionBlock, Matrix, SpectralBlock

MAX_DISTANCE_MM: Final = 4_000
MIN_DISTANCE_MM: Final = 20
MAX_STATUS: Final = 255
MAX_COUNTS: Final = 65_535
GAINS: Final = (0.5, 512.0)
MAX_INTEGRATION_MS: Final = 60_000
WEIGHT_TOLERANCE: Final = 0.001
MAX_TEXT: Final = 128
MAX_DEFECTS: Final = 30_000
AHEAD: Final = timedelta(minutes=5)
GRADES: Final = ("A+", "A", "B", "C", "REJECT")
NOT_GRADABLE: Final = "NOT_GRADABLE"
_DEVICE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:\-]{0,63}\Z")
_SITE = re.compile(r"[A-Z]{2}\Z")
_SITE_IN_ID = re.compile(r"[A-Za-z0-9]+[_-](?:(?:DEMO|DOCKER)[_-])?([A-Z]{2})(?:[_-]|\Z)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_UNIT = (0.0, 1.0)


class Reading(msgspec.Struct, frozen=True, gc=False):
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


def parse_time(text: str | None) -> datetime:
    """ISO 8601, naive means UTC. Raises RefusalError for a missing or unreadable one."""
    if not text:
        raise RefusalError(Code.MISSING_FIELD, "timestamp is missing")
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise RefusalError(Code.INVALID_TIMESTAMP, "timestamp is not an ISO 8601 date and time") from error


def is_plausible(device_time: datetime, now: datetime, retention: timedelta) -> bool:
    """Whether a device's time may be believed: from `now - retention` to `now` + 5 minutes."""
    return now - retention <= device_time <= now + AHEAD


def read_device_id(value: str | None) -> str:
    if not value:
        raise RefusalError(Code.MISSING_FIELD, "device_id is missing")
    if not _DEVICE_ID.match(value):
        raise RefusalError(Code.INVALID_IDENTITY, "device_id must be 1 to 64 letters, digits, or . _ : -")
    return value


def _read_sample_id(value: str | int | None) -> str:
    if value is None or value == "":
        raise RefusalError(Code.MISSING_FIELD, "sample_id is missing")
    text = str(value)
    if len(text) > MAX_TEXT or _CONTROL.search(text):
        raise RefusalError(Code.INVALID_IDENTITY, f"sample_id must be 1 to {MAX_TEXT} characters, none of them control")
    return text


def read_sample(message: SensorData, encoding: Encoding) -> Reading:
    """Check a `sensor_data` message and pack it. Raises RefusalError for what cannot be stored."""
    device_id = read_device_id(message.device_id)
    sample_id = _read_sample_id(message.sample_id)
    device_time = parse_time(message.timestamp)
    tof, spectral, fusion = message.vl53l8ch, message.as7341, message.fusion
    if tof is None:
        raise RefusalError(Code.MISSING_FIELD, "vl53l8ch is missing")
    if spectral is None:
        raise RefusalError(Code.MISSING_FIELD, "as7341 is missing")
    side, planes, flags = _read_matrices(tof)
    planes.append(_read_channels(spectral))
    gain, integration_ms = _read_exposure(spectral)
    if gain is None:
        flags |= Flag.MISSING_GAIN
    if fusion is not None:
        _check_fusion(fusion)
    reported, defect_flags = _read_reported(tof, spectral, fusion, encoding)
    flags |= defect_flags
    claimed_grade, claimed_compliant, claim_flags = _read_claim(fusion)
    flags |= claim_flags
    meta = message.meta
    temperature = _bounded("meta.temperature_c", meta.temperature_c if meta else None, -273.15, 1_000)
    humidity = _bounded("meta.humidity_percent", meta.humidity_percent if meta else None, 0, 100)
    texts, text_flags = _read_texts(message)
    site_code, site_sent = _read_site(message.site_code, device_id)
    return Reading(
        device_id=device_id,
        sample_id=sample_id,
        timestamp=message.timestamp or "",
        device_time=device_time,
        frame=encode_frame(side, gain, integration_ms, reported, planes),
        flags=int(flags | text_flags),
        claimed_score=fusion.final_score if fusion else None,
        claimed_grade=claimed_grade,
        claimed_compliant=claimed_compliant,
        volume_mm3=_bounded("vl53l8ch.volume_mm3", tof.volume_mm3, 0, 1e12),
        temperature_c=temperature,
        humidity_percent=humidity,
        site_code=site_code,
        site_sent=site_sent,
        **texts,
    )


def _bounded(name: str, value: float | None, low: float, high: float) -> float | None:
    """`value` when it is absent or within low..high. NaN compares false, so it is refused here too."""
    if value is None or low <= value <= high:
        return value
    if not isfinite(value):
        raise RefusalError(Code.NOT_FINITE, f"{name} is not a finite number")
    raise RefusalError(Code.OUT_OF_RANGE, f"{name} must be within {low:g} and {high:g}")


def _find(tof: TofBlock, name: str) -> Matrix | None:
    places: tuple[Matrices | None, ...] = (tof, tof.raw, tof.analysis)
    for place in places:
        if place is not None and (matrix := getattr(place, name)) is not None:
            return matrix  # type: ignore[no-any-return]
    return None


def _flatten(name: str, matrix: Matrix, side: int) -> list[float]:
    flat = list(chain.from_iterable(matrix))
    if len(matrix) != side or len(flat) != side * side or any(len(row) != side for row in matrix):
        raise RefusalError(Code.INVALID_MATRIX, f"vl53l8ch.{name} must be {side} rows of {side}")
    return flat


def _check_range(name: str, values: list[float], high: float) -> None:
    # A NaN hides from min and max, but not from a sum; the second look is for a sum that overflowed.
    if not isfinite(sum(values)) and not all(map(isfinite, values)):
        raise RefusalError(Code.NOT_FINITE, f"{name} holds a value that is not a finite number")
    if min(values) < 0 or max(values) > high:
        raise RefusalError(Code.OUT_OF_RANGE, f"{name} holds a value outside 0..{high}")


def _read_matrices(tof: TofBlock) -> tuple[int, list[list[float] | None], Flag]:
    distance = _find(tof, "distance_matrix")
    if distance is None:
        raise RefusalError(Code.MISSING_FIELD, "vl53l8ch.distance_matrix is missing")
    side = 4 if len(distance) == 4 else 8  # noqa: PLR2004
    zones = _flatten("distance_matrix", distance, side)
    _check_range("vl53l8ch.distance_matrix", zones, MAX_DISTANCE_MM)
    flags = Flag.DISTANCE_BELOW_RANGE if min(zones) < MIN_DISTANCE_MM else Flag(0)
    planes: list[list[float] | None] = [zones]
    for name, high, missing in (
        ("reflectance_matrix", MAX_VALUE, Flag.MISSING_REFLECTANCE),
        ("amplitude_matrix", MAX_VALUE, Flag.MISSING_AMPLITUDE),
        ("ambient_matrix", MAX_VALUE, Flag.MISSING_AMBIENT),
        ("status_matrix", MAX_STATUS, Flag.STATUS_UNKNOWN),
    ):
        matrix = _find(tof, name)
        if matrix is None:
            flags |= missing
            planes.append(None)
            continue
        values = _flatten(name, matrix, side)
        _check_range(f"vl53l8ch.{name}", values, high)
        planes.append(values)
    status = planes[-1]
    if status is not None:
        if any(value % 1 for value in status):
            raise RefusalError(Code.INVALID_TYPE, "vl53l8ch.status_matrix must hold whole numbers")
        if not any(status):
            flags |= Flag.STATUS_UNKNOWN
    return side, planes, flags


def _read_channels(spectral: SpectralBlock) -> list[float]:
    if spectral.channels is None:
        raise RefusalError(Code.MISSING_FIELD, "as7341.channels is missing")
    try:
        counts = [spectral.channels[name] for name in CHANNELS]
    except KeyError as error:
        raise RefusalError(Code.MISSING_FIELD, f"as7341.channels.{error.args[0]} is missing") from error
    _check_range("as7341.channels", counts, MAX_COUNTS)
    return counts


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


def _check_fusion(fusion: FusionBlock) -> None:
    for name in ("final_score", "vl53l8ch_score", "as7341_score", "confidence_level"):
        _bounded(f"fusion.{name}", getattr(fusion, name), *_UNIT)
    for first, second in (("weight_tof", "weight_spectral"), ("tof_contribution", "spectral_contribution")):
        one = _bounded(f"fusion.{first}", getattr(fusion, first), *_UNIT)
        other = _bounded(f"fusion.{second}", getattr(fusion, second), *_UNIT)
        if one is not None and other is not None and abs(one + other - 1.0) > WEIGHT_TOLERANCE:
            raise RefusalError(Code.INVALID_WEIGHTS, f"fusion.{first} and fusion.{second} must add up to 1")


def _micro(name: str, value: float | None) -> int:
    if _bounded(name, value, *_UNIT) is None or value is None:
        return ABSENT
    return round(value * MICRO)


def _read_reported(
    tof: TofBlock, spectral: SpectralBlock, fusion: FusionBlock | None, encoding: Encoding
) -> tuple[Reported, Flag]:
    """What the device derived: `fusion`'s sub-scores first, else each sensor block's own."""
    tof_block = _micro("vl53l8ch.quality_score", tof.quality_score)
    spectral_block = _micro("as7341.quality_score", spectral.quality_score)
    tof_fused = _micro("fusion.tof_score", fusion.tof_score) if fusion else ABSENT
    spectral_fused = _micro("fusion.spectral_score", fusion.spectral_score) if fusion else ABSENT
    worst, number, flags = _read_defects(tof, fusion, encoding)
    reported = Reported(
        tof=tof_fused if tof_fused != ABSENT else tof_block,
        spectral=spectral_fused if spectral_fused != ABSENT else spectral_block,
        freshness=_micro("as7341.freshness_index", spectral.freshness_index),
        fat_quality=_micro("as7341.fat_quality_index", spectral.fat_quality_index),
        oxidation=_micro("as7341.oxidation_index", spectral.oxidation_index),
        color_uniformity=_micro("as7341.color_uniformity", spectral.color_uniformity),
        worst_severity=worst,
        defects=number,
    )
    return reported, flags


def _read_defects(tof: TofBlock, fusion: FusionBlock | None, encoding: Encoding) -> tuple[int, int, Flag]:
    """(worst severity in 1e-6, number, flags) of the first list present; an unreadable list is flagged, not refused."""
    places = (fusion.defects, fusion.combined_defects, tof.defects) if fusion else (tof.defects,)
    try:
        defects = next((found for raw in places if (found := decode_defects(raw, encoding)) is not None), None)
    except (msgspec.DecodeError, RecursionError):
        return ABSENT, ABSENT, Flag.UNREADABLE_DEFECTS
    if defects is None:
        return ABSENT, ABSENT, Flag(0)
    severities = [defect.severity for defect in defects if defect.severity is not None]
    if len(defects) > MAX_DEFECTS or not all(0 <= severity <= 1 for severity in severities):
        return ABSENT, ABSENT, Flag.UNREADABLE_DEFECTS
    return round(max(severities, default=0.0) * MICRO), len(defects), Flag(0)


def _read_claim(fusion: FusionBlock | None) -> tuple[str | None, bool | None, Flag]:
    """The claimed grade as text and compliance; an unknown label is kept and flagged, never read as one of ours."""
    if fusion is None:
        return None, None, Flag(0)
    compliant = fusion.is_compliant
    if compliant is None and fusion.foie_gras_metrics is not None:
        compliant = fusion.foie_gras_metrics.is_compliant
    grade, odd = _text(fusion.final_grade)
    odd = odd or (grade is not None and grade not in GRADES and grade != NOT_GRADABLE)
    if compliant is not None and not isinstance(compliant, bool):
        compliant, odd = None, True
    return grade, compliant, Flag.ODD_CLAIM if odd else Flag(0)


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
    pairs = [_text(value) for value in values]
    return [text for text, _ in pairs], any(odd for _, odd in pairs)


def _read_texts(message: SensorData) -> tuple[dict[str, str | None], Flag]:
    meta = message.meta
    firmware = message.firmware_version
    if firmware is None and meta is not None:
        firmware = meta.firmware_version
    names = ("lot", "lot_id", "farmer", "origin", "location", "firmware_version", "profile")
    texts, odd = read_texts(
        (
            message.lot_abattage,
            message.lot_id,
            message.eleveur,
            message.provenance,
            message.location,
            firmware,
            meta.config_profile if meta else None,
        )
    )
    if texts[0] is None:
        texts[0] = texts[1]
    return dict(zip(names, texts, strict=True)), Flag.ODD_TEXT if odd else Flag(0)


def _read_site(sent: Any, device_id: str) -> tuple[str | None, bool]:
    """(site, whether it was sent). A sent value that is no site code means unknown, never something else."""
    if sent is not None and sent != "":
        return (sent if isinstance(sent, str) and _SITE.match(sent) else None), True
    return site_in_id(device_id), False


def is_site_code(text: str) -> bool:
    return _SITE.match(text) is not None


def site_in_id(device_id: str) -> str | None:
    """The second part of a device id (the third, after DEMO or DOCKER) when that is two capital letters."""
    match = _SITE_IN_ID.match(device_id)
    return match[1] if match else None


def resolve_site(site_code: str | None, configured: str | None, *, sent: bool) -> str | None:
    """The site as sent, else as the device record says, else as the device's id says."""
    return site_code if sent else (configured or site_code)
