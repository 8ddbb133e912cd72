import { JOB_PAGES, paths } from "../routes";
import { router } from "../state/router.svelte";
import { theme } from "../state/theme.svelte";

export interface Shortcut {
  keys: string;
  does: string;
}

export const SHORTCUTS: readonly Shortcut[] = [
  { keys: "Ctrl K", does: "Search and commands" },
  { keys: "?", does: "This list" },
  { keys: "g j", does: "Jobs" },
  { keys: "g m", does: "Compare" },
  ...JOB_PAGES.map(({ key, title }) => ({ keys: `g ${key}`, does: `${title} of this job` })),
  { keys: "t", does: "Next theme" },
  { keys: "← → + −", does: "In a chart: move the cursor, zoom" },
  { keys: "← ↑ → ↓", does: "In a map: move the cell" },
  { keys: "[ ]", does: "On Experts and Numerics: step back and forward" },
];

const isTyping = (target: EventTarget | null): boolean =>
  target instanceof HTMLElement && (target.matches("input:not([type=range]):not([type=checkbox]), textarea, select") || target.isContentEditable);

const CHORD_MS = 900;

/** Shortcuts of every page; returns their removal. */
export function installShortcuts(open: { palette: () => void; help: () => void }): () => void {
  let chordAt = Number.NEGATIVE_INFINITY;
  const onkeydown = (event: KeyboardEvent) => {
    if ((event.ctrlKey || event.metaKey) && !event.altKey && event.key.toLowerCase() === "k") {
      event.preventDefault();
      open.palette();
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target) || document.querySelector("dialog[open]")) return;
    if (event.timeStamp - chordAt < CHORD_MS) {
      chordAt = Number.NEGATIVE_INFINITY;
      const address = chordAddress(event.key);
      if (address) {
        event.preventDefault();
        router.go(address);
      }
    } else if (event.key === "g") chordAt = event.timeStamp;
    else if (event.key === "?") open.help();
    else if (event.key === "t") theme.next();
  };
  addEventListener("keydown", onkeydown);
  return () => removeEventListener("keydown", onkeydown);
}

function chordAddress(key: string): string | null {
  if (key === "j") return paths.jobs();
  if (key === "m") return paths.compare();
  const page = JOB_PAGES.find((candidate) => candidate.key === key);
  return page && router.route.page === "job" ? paths.job(router.route.job, page.view) : null;
}
