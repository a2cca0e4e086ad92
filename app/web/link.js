// The two ways to the server: REST, and the live feed, which is connected again whenever it is lost.
const FIRST_PAUSE_MS = 1_000;
const LONGEST_PAUSE_MS = 15_000;
const SILENCE_MS = 45_000; // the server pings every 20 s

export class NeedsKey extends Error {}

// What the server says no to; `problem` is its reason (problem+json), empty where it gave none.
export class Refused extends Error {
  constructor(status, path, problem) {
    super(`${status} ${path}`);
    Object.assign(this, { status, problem });
  }
}

export async function ask(path, options = {}) {
  const headers = { "Content-Type": "application/json", ...options.headers };
  const answer = await fetch(path, { ...options, headers, signal: AbortSignal.timeout(10_000) });
  const reading = (options.method ?? "GET") === "GET";
  if (answer.status === 401 || (answer.status === 403 && reading)) throw new NeedsKey(); // a key that opens no page
  if (!answer.ok) throw new Refused(answer.status, path, await answer.json().catch(() => ({})));
  return answer.status === 204 ? null : answer.json();
}

export class LiveLink {
  constructor({ filters, message, state }) {
    this.filters = filters;
    this.message = message;
    this.state = state;
    this.pause = FIRST_PAUSE_MS;
    this.heard = 0;
    setInterval(() => this.check(), 1_000);
  }

  open() {
    clearTimeout(this.timer);
    this.socket?.close();
    const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws/realtime`);
    this.socket = socket;
    socket.onopen = () => {
      if (socket !== this.socket) return;
      this.pause = FIRST_PAUSE_MS;
      this.heard = Date.now();
      this.subscribe();
      this.state("live");
    };
    socket.onmessage = (event) => {
      if (socket !== this.socket) return;
      this.heard = Date.now();
      this.message(JSON.parse(event.data));
    };
    socket.onclose = () => {
      if (socket !== this.socket) return;
      this.state("lost");
      this.timer = setTimeout(() => this.open(), this.pause * (0.75 + Math.random() / 2)); // dashboards must not come back in step
      this.pause = Math.min(this.pause * 2, LONGEST_PAUSE_MS);
    };
  }

  subscribe() {
    if (this.socket?.readyState === WebSocket.OPEN) {
      this.socket.send(JSON.stringify({ type: "subscribe", filters: this.filters() }));
    }
  }

  // A link that says nothing is no link, whatever the browser thinks of it.
  check() {
    if (this.socket?.readyState === WebSocket.OPEN && Date.now() - this.heard > SILENCE_MS) {
      this.state("lost");
      this.open();
    }
  }
}
