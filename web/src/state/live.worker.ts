// A browser allows six connections a host, and an event stream holds one: tabs share the one that is read here.
import { FanOut } from "./fanOut";
import { readStream } from "./stream";

const tabs = new FanOut(readStream);

addEventListener("connect", (event) => {
  const port = (event as MessageEvent).ports[0];
  if (!port) return;
  // The only thing that a tab says is that it goes.
  port.onmessage = () => tabs.remove(port);
  tabs.add(port);
});
