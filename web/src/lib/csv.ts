type Field = string | number | null | undefined;

/** RFC 4180. A text that a spreadsheet would run as a formula gets a leading quote: names come from outside. */
function csvField(field: Field): string {
  if (field === null || field === undefined) return "";
  if (typeof field === "number") return String(field);
  const safe = /^[=+\-@\t\r]/.test(field) ? `'${field}` : field;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

export const toCsv = (rows: readonly (readonly Field[])[]): string => rows.map((row) => row.map(csvField).join(",")).join("\r\n") + "\r\n";
