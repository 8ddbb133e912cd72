import type { News } from "./stream";

/** As much of a `MessagePort` as is needed. */
export interface Port {
  postMessage(news: News): void;
}

/** One stream for all tabs: it is read while there is a tab, and a tab that comes later hears at once how the stream is. */
export class FanOut {
  private readonly ports = new Set<Port>();
  private state: News | null = null;
  private stop: (() => void) | null = null;

  constructor(private readonly read: (tell: (news: News) => void) => () => void) {}

  add(port: Port): void {
    this.ports.add(port);
    if (this.state) port.postMessage(this.state);
    this.stop ??= this.read((news) => {
      if (news.type !== "message") this.state = news;
      for (const each of this.ports) each.postMessage(news);
    });
  }

  remove(port: Port): void {
    this.ports.delete(port);
    if (this.ports.size > 0) return;
    this.stop?.();
    [this.stop, this.state] = [null, null];
  }
}
