"""Whether what the settings promise fits into what this machine or container grants."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from app.core.apart import apart
from app.doctor.database_judge import connections_needed
from app.doctor.finding import Finding, fine, note, problem, warning
from app.settings import MIB, SHUTDOWN_MARGIN_S

if TYPE_CHECKING:
    from app.doctor.patient import Patient

TOPIC: Final = "budgets"
CGROUP: Final = Path("/sys/fs/cgroup")
FILES_BESIDE: Final = 128  # Redis, logs, libraries, requests
IDLE_BYTES: Final = 150 * MIB
EMBEDDED_BYTES: Final = 400 * MIB  # 256 MB shared buffers, and its processes
ONE_CPU: Final = 1.0


@dataclass(frozen=True, slots=True)
class Machine:
    """None where there is no limit."""

    open_files: int
    memory_bytes: int | None
    cpus: float


async def check_budgets(patient: Patient) -> list[Finding]:
    return judge_budgets(await apart(machine), patient)


def machine() -> Machine:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Machine(soft, _cgroup_memory(), _cgroup_cpus() or float(os.cpu_count() or 1))


def _cgroup_memory() -> int | None:
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        if (CGROUP / name).is_file():
            said = (CGROUP / name).read_text().strip()
            return int(said) if said.isdigit() and int(said) < 1 << 60 else None
    return None


def _cgroup_cpus() -> float | None:
    if not (CGROUP / "cpu.max").is_file():
        return None
    quota, period = (CGROUP / "cpu.max").read_text().split()
    return None if quota == "max" else int(quota) / int(period)


def files_needed(patient: Patient) -> int:
    settings = patient.settings
    return settings.ws_max_sensors + settings.ws_max_dashboards + connections_needed(patient) + FILES_BESIDE


def memory_needed(patient: Patient) -> int:
    """What the bounds add up to when all are reached at once."""
    settings = patient.settings
    groups = settings.database_writers * settings.ingest_group_bytes * 2  # as they came, and as they are sent
    held = settings.ingest_queue_bytes + settings.cache_max_bytes + groups
    return IDLE_BYTES + held + (EMBEDDED_BYTES if patient.embedded else 0)


def judge_budgets(granted: Machine, patient: Patient) -> list[Finding]:
    found = [*_files(granted, patient), *_memory(granted, patient)]
    if granted.cpus < ONE_CPU:
        follows = "grading and answering share it: acks come later, and probes may time out"
        found.append(
            note(TOPIC, f"there is {granted.cpus:g} of a CPU", follows, "resources.limits.cpu: 1 or more, or none")
        )
    settings = patient.settings
    room = settings.termination_grace_period_s - settings.shutdown_budget_s
    if room < 2 * SHUTDOWN_MARGIN_S:
        what = f"a shutdown may take {settings.shutdown_budget_s:g} of {settings.termination_grace_period_s:g} s"
        found.append(
            note(TOPIC, what, "little is left for a slow machine", "TERMINATION_GRACE_PERIOD_S, and the pod's too")
        )
    return found or [_fits(granted, patient)]


def _fits(granted: Machine, patient: Patient) -> Finding:
    settings = patient.settings
    memory = "no limit of memory" if granted.memory_bytes is None else f"{granted.memory_bytes // MIB} MiB"
    return fine(
        TOPIC,
        f"{granted.open_files:,} files for {files_needed(patient):,} wanted,"
        f" {memory} for {memory_needed(patient) // MIB} MiB, {granted.cpus:g} CPUs;"
        f" a shutdown takes {settings.shutdown_budget_s:g} of {settings.termination_grace_period_s:g} s",
    )


def _files(granted: Machine, patient: Patient) -> list[Finding]:
    wanted = files_needed(patient)
    if granted.open_files in (resource.RLIM_INFINITY, -1) or granted.open_files >= wanted:
        return []
    what = f"{granted.open_files:,} files may be open; WS_MAX_SENSORS and the pools may want {wanted:,}"
    follows = "then sockets and connections are refused in disorder"
    sensors = max(1, granted.open_files - (wanted - patient.settings.ws_max_sensors))
    do = f"ulimit -n {wanted} (LimitNOFILE= in systemd), or WS_MAX_SENSORS={sensors}"
    return [warning(TOPIC, what, follows, do)]


def _memory(granted: Machine, patient: Patient) -> list[Finding]:
    wanted = memory_needed(patient)
    if granted.memory_bytes is None or granted.memory_bytes >= wanted:
        return []
    limit = f"the memory limit is {granted.memory_bytes // MIB} MiB"
    what = f"{limit}; the bounds of queue, cache and commits add up to {wanted // MIB}"
    follows = "in a jam the kernel ends the process: nothing acknowledged is lost, but all devices reconnect"
    do = "raise the limit, or lower INGEST_QUEUE_BYTES and CACHE_MAX_BYTES"
    if granted.memory_bytes < IDLE_BYTES + (EMBEDDED_BYTES if patient.embedded else 0):
        return [problem(TOPIC, what, "it may not even start", do)]
    return [warning(TOPIC, what, follows, do)]
