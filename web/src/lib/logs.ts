import type { Event, LogLine } from "../api/types";

/** One row of the merged time line. */
export type Entry = { kind: "line"; time: number; line: LogLine } | { kind: "event"; time: number; event: Event };

/** New lines behind the known ones, each once: a live read and the first read may overlap. */
export function mergeLines(known: readonly LogLine[], added: readonly LogLine[], limit: number): LogLine[] {
  const byId = new Map([...known, ...added].map((line) => [line.id, line]));
  const merged = [...byId.values()].sort((a, b) => a.id - b.id);
  return merged.length > limit ? merged.slice(merged.length - limit) : merged;
}

/**
 * Lines in the order in which the store has them, with events placed by their times. Only events of the time that the lines cover: older
 * ones would pile up on top as if they had just happened.
 */
export function timeline(lines: readonly LogLine[], events: readonly Event[], complete: boolean): Entry[] {
  const entries: Entry[] = lines.map((line) => ({ kind: "line", time: Date.parse(line.time), line }));
  const start = entries[0]?.time ?? Number.NEGATIVE_INFINITY;
  const placed = events
    .map((event): Entry => ({ kind: "event", time: Date.parse(event.time), event }))
    .filter(({ time }) => complete || time >= start)
    .sort((a, b) => a.time - b.time);
  const merged: Entry[] = [];
  let next = 0;
  for (const entry of entries) {
    while (next < placed.length && (placed[next] as Entry).time < entry.time) merged.push(placed[next++] as Entry);
    merged.push(entry);
  }
  return [...merged, ...placed.slice(next)];
}

/** Parts of a text around the places where `needle` occurs, for marking them without building HTML. */
export function markParts(text: string, needle: string): { text: string; hit: boolean }[] {
  if (needle === "") return [{ text, hit: false }];
  const parts: { text: string; hit: boolean }[] = [];
  const [haystack, wanted] = [text.toLowerCase(), needle.toLowerCase()];
  let position = 0;
  for (let found = haystack.indexOf(wanted); found >= 0; found = haystack.indexOf(wanted, position)) {
    if (found > position) parts.push({ text: text.slice(position, found), hit: false });
    position = found + wanted.length;
    parts.push({ text: text.slice(found, position), hit: true });
  }
  if (position < text.length) parts.push({ text: text.slice(position), hit: false });
  return parts;
}
