// The pictures: plain SVG, every value as text content or attribute, never as markup.
const SVG = "http://www.w3.org/2000/svg";
const SCALE = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]]; // low to high
const BANDS = [
  ["F1", "F1_415nm", "#7c3aed"], ["F2", "F2_445nm", "#4f46e5"], ["F3", "F3_480nm", "#0284c7"], ["F4", "F4_515nm", "#0d9488"],
  ["F5", "F5_555nm", "#65a30d"], ["F6", "F6_590nm", "#ca8a04"], ["F7", "F7_630nm", "#ea580c"], ["F8", "F8_680nm", "#b91c1c"],
  ["NIR", "NIR", "#78716c"],
];

function put(parent, name, attributes, text) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}

function shade(part) {
  const place = Math.min(Math.max(part, 0), 1) * (SCALE.length - 1);
  const low = Math.min(Math.floor(place), SCALE.length - 2);
  const mixed = SCALE[low].map((value, at) => Math.round(value + (SCALE[low + 1][at] - value) * (place - low)));
  return `rgb(${mixed.join(",")})`;
}

// 8 x 8 heights over the tray; zones of a defect are framed.
export function drawHeights(svg, heights, defects) {
  svg.replaceChildren();
  if (!heights) return;
  const most = Math.max(20, ...heights.flat());
  const side = 160 / heights.length;
  heights.forEach((row, y) => row.forEach((height, x) => {
    const place = { x: x * side, y: y * side, width: side - 1, height: side - 1, fill: shade(height / most) };
    put(put(svg, "rect", place), "title", {}, `${height} mm`);
  }));
  for (const [y, x] of defects.flatMap((defect) => defect.zones)) {
    put(svg, "rect", { x: x * side + 1, y: y * side + 1, width: side - 3, height: side - 3, fill: "none", stroke: "#ff2d55", "stroke-width": 3 });
  }
}

// Nine bands; the clear channel, which dwarfs them, is given as a number.
export function drawSpectrum(svg, channels) {
  svg.replaceChildren();
  if (!channels) return;
  const most = Math.max(1, ...BANDS.map(([, name]) => channels[name] ?? 0));
  BANDS.forEach(([label, name, color], at) => {
    const height = ((channels[name] ?? 0) / most) * 130;
    put(put(svg, "rect", { x: at * 29 + 2, y: 140 - height, width: 23, height, rx: 2, fill: color }), "title", {}, `${name}: ${channels[name]}`);
    put(svg, "text", { x: at * 29 + 13.5, y: 155, "text-anchor": "middle" }, label);
  });
}

// Conformity hour by hour; hours without livers are gaps.
export function drawTrend(svg, hours, now, format) {
  svg.replaceChildren();
  const [left, right, top, bottom] = [42, 474, 8, 126];
  const hour = 3_600_000;
  const end = Math.floor(now / hour) * hour;
  const x = (moment) => right - ((end - moment) / (23 * hour)) * (right - left);
  const known = hours.map((one) => [Date.parse(one.bucket), one.conformity]).filter(([moment, part]) => part !== null && moment > end - 24 * hour);
  const low = Math.min(0.9, ...known.map(([, part]) => Math.floor(part * 10) / 10));
  const y = (part) => bottom - ((part - low) / (1 - low)) * (bottom - top);
  for (const part of [low, (1 + low) / 2, 1]) {
    put(svg, "line", { x1: left, x2: right, y1: y(part), y2: y(part), stroke: "var(--line)" });
    put(svg, "text", { x: left - 6, y: y(part) + 4, "text-anchor": "end" }, format.percent(part));
  }
  for (let back = 20; back >= 0; back -= 5) {
    put(svg, "text", { x: x(end - back * hour), y: 145, "text-anchor": back ? "middle" : "end" }, format.hour(end - back * hour));
  }
  let piece = [];
  const finish = () => {
    if (piece.length > 1) put(svg, "polyline", { points: piece.join(" "), fill: "none", stroke: "var(--good)", "stroke-width": 3 });
    piece = [];
  };
  known.forEach(([moment, part], at) => {
    if (at && moment - known[at - 1][0] > hour) finish();
    piece.push(`${x(moment)},${y(part)}`);
    put(put(svg, "circle", { cx: x(moment), cy: y(part), r: 4, fill: "var(--good)" }), "title", {}, `${format.hour(moment)}: ${format.fine(part)}`);
  });
  finish();
}
