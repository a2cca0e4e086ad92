// What a report says before anybody has typed: of an alert, a device, a liver; with the figures. Pure.
const CATEGORIES = {
  reject: "quality", low_score: "quality", oxidation: "quality", freshness: "quality", device_offline: "hardware", devices_offline: "hardware",
  site_offline: "hardware", all_offline: "backend", clock_off: "firmware", quarantine_growing: "firmware",
};
const MOST_NAMES = 50;
const MOST_TITLE = 300;

const isSaid = ([, value]) => value !== null && value !== undefined && value !== "";
const lines = (rows, { colon }) => rows.filter(isSaid).map(([name, value]) => `${name}${colon}${value}`).join("\n");

const tidy = (title) => title.slice(0, MOST_TITLE);

// The firmware is the one that measured, where the sample says it; else the device's of now: as the service's own reports have it.
export function draftOfAlert(alert, device, sample, text) {
  const { figures } = text;
  const names = alert.devices.length ? alert.devices.slice(0, MOST_NAMES).join(", ") : alert.device_id;
  const rule = text.rules[alert.rule] ?? alert.rule;
  const critical = alert.severity === "critical";
  return {
    title: tidy([rule, names ?? alert.site_code].filter(Boolean).join(text.colon)),
    description: lines([
      [figures.alert, `${rule} (${alert.rule}, ${alert.severity}), ${alert.id}`], [figures.devices, names],
      [figures.since, alert.opened_at], [figures.last, alert.last_at], [figures.times, alert.occurrences],
      [figures.value, alert.value], [figures.worst, alert.worst], [figures.sample, alert.sample_id],
    ], text),
    severity: critical ? "critical" : "medium", priority: critical ? "urgent" : "medium", category: CATEGORIES[alert.rule] ?? "",
    deviceId: alert.device_id ?? "", firmwareVersion: sample?.firmware_version ?? device?.firmware_version ?? "",
    siteCode: alert.site_code ?? "", tags: ["alert", alert.rule],
    sample: alert.device_id && alert.sample_id ? { deviceId: alert.device_id, sampleId: alert.sample_id, deviceTime: alert.sample_time } : null,
  };
}

export function draftOfDevice(device, text) {
  const { figures } = text;
  return {
    title: tidy(text.titleOfDevice(device.device_id, text.states[device.state])),
    description: lines([
      [figures.state, text.states[device.state]], [figures.lastSeen, device.last_seen], [figures.firmware, device.firmware_version],
      [figures.uptime, device.uptime_s], [figures.boots, device.boots], [figures.clock, device.clock_offset_s],
    ], text),
    severity: "medium", priority: "medium", category: "hardware", deviceId: device.device_id,
    firmwareVersion: device.firmware_version ?? "", siteCode: device.site_code ?? "", tags: ["device"], sample: null,
  };
}

export function draftOfSample({ sample, explanation }, text, format) {
  const { figures } = text;
  const grade = text[sample.grade] ?? sample.grade;
  const reasons = (explanation?.reasons ?? []).map((one) => text.reasons[one.code]?.(one, format) ?? one.code);
  return {
    title: tidy(text.titleOfSample(grade, `${sample.device_id}, ${sample.sample_id}`)),
    description: lines([
      [figures.sample, [sample.sample_id, sample.device_time].join(", ")], [figures.lot, sample.lot], [figures.grade, grade],
      [figures.score, sample.score], [figures.shape, sample.tof_score], [figures.colour, sample.spectral_score], [figures.recipe, sample.recipe],
      [figures.reasons, reasons.join("; ")], [figures.flags, sample.flags.join(", ")],
    ], text),
    severity: "low", priority: "medium", category: "quality", deviceId: sample.device_id, firmwareVersion: sample.firmware_version ?? "",
    siteCode: sample.site_code ?? "", tags: ["sample", sample.grade],
    sample: { deviceId: sample.device_id, sampleId: sample.sample_id, deviceTime: sample.device_time },
  };
}
