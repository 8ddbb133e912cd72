import type { LiveMessage } from "../api/types";

const KINDS: readonly LiveMessage["event"][] = ["metrics", "event", "job", "health", "log", "gap"];
const RETRY_MS = 3000;

/** What the event stream says: that it is there or not, or a message of the server as it was sent. */
export type News = { type: "open" } | { type: "lost" } | { type: "message"; event: LiveMessage["event"]; text: string };

/** Reads the event stream until the returned function is called. The browser sends the session's cookie, which no script can see. */
export function readStream(tell: (news: News) => void): () => void {
  let source: EventSource;
  let retry: ReturnType<typeof setTimeout> | undefined;
  const connect = (): void => {
    source = new EventSource("/api/v1/events", { withCredentials: true });
    source.onopen = () => tell({ type: "open" });
    source.onerror = () => {
      tell({ type: "lost" });
      // A refused stream is closed for good; a broken one reconnects by itself.
      if (source.readyState === EventSource.CLOSED) retry = setTimeout(connect, RETRY_MS);
    };
    for (const event of KINDS) source.addEventListener(event, (message) => tell({ type: "message", event, text: (message as MessageEvent<string>).data }));
  };
  connect();
  return () => {
    clearTimeout(retry);
    source.close();
  };
}
