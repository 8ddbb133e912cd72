// View state in the URL: each reader is total, because people edit addresses.

export const readText = (query: URLSearchParams, name: string, fallback = ""): string => query.get(name) ?? fallback;

export function readInteger(query: URLSearchParams, name: string): number | null {
  const text = query.get(name);
  if (text === null || !/^\d{1,15}$/.test(text)) return null;
  return Number(text);
}

export function readChoice<T extends string>(query: URLSearchParams, name: string, choices: readonly T[], fallback: T): T {
  const text = query.get(name);
  return choices.find((choice) => choice === text) ?? fallback;
}

export function readFraction(query: URLSearchParams, name: string, fallback: number): number {
  const value = Number(query.get(name) ?? Number.NaN);
  return Number.isFinite(value) && value >= 0 && value < 1 ? value : fallback;
}

export const readFlag = (query: URLSearchParams, name: string, fallback = false): boolean => {
  const text = query.get(name);
  return text === null ? fallback : text === "1";
};

export type QueryChange = Record<string, string | number | boolean | readonly string[] | null | undefined>;

/** The query after a change; null, undefined and "" remove a name, so that defaults leave no trace in the URL. */
export function changeQuery(query: URLSearchParams, change: QueryChange): URLSearchParams {
  const next = new URLSearchParams(query);
  for (const [name, value] of Object.entries(change)) {
    next.delete(name);
    if (value === null || value === undefined || value === "") continue;
    if (typeof value === "boolean") next.set(name, value ? "1" : "0");
    else if (Array.isArray(value)) for (const one of value as readonly string[]) next.append(name, one);
    else next.set(name, String(value));
  }
  return next;
}
