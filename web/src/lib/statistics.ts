import { formatBytes, formatCount, formatNumber, formatPercent } from "./number";

// Statistics are the trainer's own record of a data phase: fields come and go with its versions, so names tell the format.

export interface Fact {
  name: string;
  label: string;
  text: string;
}

export interface SourceRow {
  name: string;
  values: Record<string, number>;
}

/** `fim_share` as people read it. */
export const statisticLabel = (name: string): string => {
  const text = name.replaceAll("_", " ").replace(/([a-z])([A-Z])/g, "$1 $2").toLowerCase();
  return (text.charAt(0).toUpperCase() + text.slice(1)).replace(/\butf8\b/i, "UTF-8").replace(/\bfim\b/i, "FIM").replace(/\bzstd\b/i, "zstd");
};

export function formatStatistic(name: string, value: unknown): string {
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "string") return value;
  if (typeof value !== "number") return value === null ? "–" : JSON.stringify(value);
  if (/bytes_per|per_/.test(name)) return formatNumber(value);
  if (/bytes/i.test(name)) return formatBytes(value);
  if (/share|efficiency|fraction|ratio|rate$/i.test(name)) return formatPercent(value);
  return Number.isInteger(value) ? formatCount(value) : formatNumber(value);
}

/** Flat facts; `sources` is a table of its own. */
export function factsOf(statistics: Record<string, unknown>): Fact[] {
  return Object.entries(statistics)
    .filter(([name, value]) => name !== "sources" && (typeof value !== "object" || value === null))
    .map(([name, value]) => ({ name, label: statisticLabel(name), text: formatStatistic(name, value) }));
}

/** Nested objects other than `sources`, each a group of facts. */
export function groupsOf(statistics: Record<string, unknown>): { name: string; label: string; facts: Fact[] }[] {
  return Object.entries(statistics).flatMap(([name, value]) =>
    name !== "sources" && typeof value === "object" && value !== null
      ? [{ name, label: statisticLabel(name), facts: Object.entries(value).map(([key, one]) => ({ name: key, label: statisticLabel(key), text: formatStatistic(key, one) })) }]
      : [],
  );
}

export function sourcesOf(statistics: Record<string, unknown>): SourceRow[] {
  const { sources } = statistics;
  if (typeof sources !== "object" || sources === null) return [];
  return Object.entries(sources).map(([name, value]) => ({
    name,
    values: Object.fromEntries(Object.entries((value ?? {}) as Record<string, unknown>).filter((entry): entry is [string, number] => typeof entry[1] === "number")),
  }));
}

/** Share of each source, by tokens where they are counted and by bytes where not. */
export function mixtureOf(rows: readonly SourceRow[]): { by: string; shares: number[] } | null {
  const by = ["train_share", "train_tokens", "tokens", "text_bytes", "held_back_tokens"].find((name) => rows.some(({ values }) => values[name] !== undefined));
  if (by === undefined) return null;
  const amounts = rows.map(({ values }) => values[by] ?? 0);
  const sum = amounts.reduce((total, amount) => total + amount, 0);
  return sum > 0 ? { by, shares: amounts.map((amount) => amount / sum) } : null;
}
