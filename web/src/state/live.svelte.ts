import type { LiveMessage } from "../api/types";

const KINDS: readonly LiveMessage["event"][] = ["metrics", "event", "job", "health", "log", "gap"];
const RETRY_MS = 3000;

export type LiveState = "connecting" | "open" | "lost";

/** The one event stream of this tab. A browser allows six connections a host, so pages share it. */
class Live {
  state = $state<LiveState>("connecting");
  lastMessageAt = $state<number | null>(null);
  /** Grows when messages may have been missed; whoever shows data reads it again. */
  epoch = $state(0);

  private readonly listeners = new Set<(message: LiveMessage) => void>();
  private opened = false;

  connect(): void {
    const source = new EventSource("/api/v1/events", { withCredentials: true });
    source.onopen = () => {
      this.state = "open";
      if (this.opened) this.epoch += 1;
      this.opened = true;
    };
    source.onerror = () => {
      this.state = "lost";
      // A refused stream is closed for good; a broken one reconnects by itself.
      if (source.readyState === EventSource.CLOSED) setTimeout(() => this.connect(), RETRY_MS);
    };
    for (const kind of KINDS) source.addEventListener(kind, (message) => this.receive(kind, (message as MessageEvent<string>).data));
  }

  /** Calls `listener` with each message until the returned function is called. */
  listen(listener: (message: LiveMessage) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  private receive(event: LiveMessage["event"], text: string): void {
    let data: unknown;
    try {
      data = JSON.parse(text);
    } catch {
      return;
    }
    this.lastMessageAt = Date.now();
    if (event === "gap") this.epoch += 1;
    for (const listener of this.listeners) listener({ event, data } as LiveMessage);
  }
}

export const live = new Live();
