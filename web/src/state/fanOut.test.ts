import { describe, expect, it } from "vitest";
import { FanOut, type Port } from "./fanOut";
import type { News } from "./stream";

function fixture() {
  const streams: { tell: (news: News) => void; closed: boolean }[] = [];
  const fan = new FanOut((tell) => {
    const stream = { tell, closed: false };
    streams.push(stream);
    return () => (stream.closed = true);
  });
  const tab = () => {
    const heard: News[] = [];
    const port: Port & { heard: News[] } = { heard, postMessage: (news) => heard.push(news) };
    fan.add(port);
    return port;
  };
  return { fan, streams, tab };
}

const message: News = { type: "message", event: "job", text: "{}" };

describe("tabs share one stream", () => {
  it("which all of them hear", () => {
    const { streams, tab } = fixture();
    const [first, second] = [tab(), tab()];
    expect(streams.length).toBe(1);
    streams[0]?.tell({ type: "open" });
    streams[0]?.tell(message);
    expect(first.heard).toEqual([{ type: "open" }, message]);
    expect(second.heard).toEqual(first.heard);
  });

  it("whose state a later tab hears at once, but not its old messages", () => {
    const { streams, tab } = fixture();
    tab();
    streams[0]?.tell({ type: "open" });
    streams[0]?.tell(message);
    expect(tab().heard).toEqual([{ type: "open" }]);
    streams[0]?.tell({ type: "lost" });
    expect(tab().heard).toEqual([{ type: "lost" }]);
  });

  it("which is closed with the last tab and opened again with the next", () => {
    const { fan, streams, tab } = fixture();
    const [first, second] = [tab(), tab()];
    fan.remove(first);
    expect(streams[0]?.closed).toBe(false);
    fan.remove(second);
    expect(streams[0]?.closed).toBe(true);
    expect(tab().heard).toEqual([]);
    expect(streams.length).toBe(2);
  });
});
