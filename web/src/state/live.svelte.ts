import type { LiveMessage } from "../api/types";
import { type News, readStream } from "./stream";

export type LiveState = "connecting" | "open" | "lost";

/** The event stream as the pages of this tab see it. All tabs read the same one; each reads its own where workers cannot be shared. */
class Live {
  state = $state<LiveState>("connecting");
  lastMessageAt = $state<number | null>(null);
  /** Grows when messages may have been missed; whoever shows data reads it again. */
  epoch = $state(0);

  private readonly listeners = new Set<(message: LiveMessage) => void>();
  private opened = false;

  connect(): void {
    const hear = (news: News) => this.hear(news);
    if (typeof SharedWorker === "undefined") {
      readStream(hear);
      return;
    }
    const worker = new SharedWorker(new URL("./live.worker.ts", import.meta.url), { type: "module", name: "fathom-live" });
    worker.onerror = () => {
      worker.port.close();
      readStream(hear);
    };
    worker.port.onmessage = ({ data }: MessageEvent<News>) => hear(data);
    addEventListener("pagehide", () => worker.port.postMessage("gone"), { once: true });
    // A page that the browser kept for Back has missed something; the stream's state tells it so.
    addEventListener("pageshow", ({ persisted }) => persisted && this.connect(), { once: true });
  }

  /** Calls `listener` with each message until the returned function is called. */
  listen(listener: (message: LiveMessage) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  private hear(news: News): void {
    switch (news.type) {
      case "open":
        this.state = "open";
        if (this.opened) this.epoch += 1;
        this.opened = true;
        return;
      case "lost":
        this.state = "lost";
        return;
      case "message":
        this.receive(news.event, news.text);
    }
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
