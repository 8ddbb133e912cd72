import { type QueryChange, changeQuery } from "../lib/query";
import { type Route, matchRoute } from "../routes";

// Browsers drop history changes beyond about 200 in half a minute, and a slider makes sixty a second.
const WRITE_MS = 200;

class Router {
  path = $state(location.pathname);
  query = $state.raw(new URLSearchParams(location.search));
  readonly route: Route = $derived(matchRoute(this.path));

  private unwritten: string | null = null;
  private writing: ReturnType<typeof setTimeout> | undefined;

  constructor() {
    addEventListener("popstate", () => {
      this.unwritten = null;
      this.show(location.pathname + location.search);
    });
    addEventListener("pagehide", () => this.write());
    document.addEventListener("click", (event) => this.follow(event));
  }

  go(address: string, replace = false): void {
    const before = this.path;
    if (replace) {
      this.unwritten = address;
      this.writing ??= setTimeout(() => this.write(), WRITE_MS);
    } else {
      this.write();
      history.pushState(null, "", address);
    }
    this.show(address);
    if (this.path !== before) scrollTo(0, 0);
  }

  /** Changes the view state of this page. Scrubbing and typing replace the entry: Back leaves the page, not the last pixel. */
  set(change: QueryChange, replace = true): void {
    const query = changeQuery(this.query, change).toString();
    this.go(query === "" ? this.path : `${this.path}?${query}`, replace);
  }

  private show(address: string): void {
    const { pathname, searchParams } = new URL(address, location.origin);
    this.path = pathname;
    if (this.query.toString() !== searchParams.toString()) this.query = searchParams;
  }

  private write(): void {
    clearTimeout(this.writing);
    this.writing = undefined;
    if (this.unwritten !== null) history.replaceState(null, "", this.unwritten);
    this.unwritten = null;
  }

  private follow(event: MouseEvent): void {
    if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const link = event.target instanceof Element ? event.target.closest("a") : null;
    if (!link || link.target !== "" || link.hasAttribute("download") || link.origin !== location.origin) return;
    if (link.pathname.startsWith("/api/") || link.pathname === "/docs" || link.hash !== "") return;
    event.preventDefault();
    this.go(link.pathname + link.search);
  }
}

export const router = new Router();
