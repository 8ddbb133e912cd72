/**
 * Score of `query` as a subsequence of `text`; null without a match. Consecutive characters and word starts count more, so that
 * `gn` finds `gradient_norm` before `learning rate`.
 */
export function fuzzyScore(query: string, text: string): number | null {
  const wanted = query.toLowerCase().replaceAll(" ", "");
  const given = text.toLowerCase();
  if (wanted === "") return 0;
  let score = 0;
  let position = -1;
  for (const character of wanted) {
    const found = given.indexOf(character, position + 1);
    if (found < 0) return null;
    if (found === position + 1) score += 3;
    if (found === 0 || /[^a-z0-9]/.test(given[found - 1] ?? "")) score += 4;
    score -= Math.min(3, (found - position - 1) * 0.2);
    position = found;
  }
  return score - given.length * 0.02;
}

export function fuzzyRank<T>(query: string, items: readonly T[], textOf: (item: T) => string, limit: number): T[] {
  return items
    .map((item) => ({ item, score: fuzzyScore(query, textOf(item)) }))
    .filter((entry): entry is { item: T; score: number } => entry.score !== null)
    .sort((a, b) => b.score - a.score)
    .slice(0, limit)
    .map(({ item }) => item);
}
