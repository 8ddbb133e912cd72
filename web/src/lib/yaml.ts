export interface Token {
  kind: "key" | "string" | "number" | "comment" | "plain";
  text: string;
}

/** Colours for one line of YAML. It reads, it does not parse: a wrong guess costs a colour and nothing else. */
export function yamlTokens(line: string): Token[] {
  const comment = /(^|\s)#.*$/.exec(line);
  const code = comment ? line.slice(0, comment.index + (comment[1] ?? "").length) : line;
  const tokens: Token[] = [];
  const key = /^(\s*(?:- )*)([^\s#"'[{][^:#]*)(:)(?=\s|$)/.exec(code);
  let rest = code;
  if (key) {
    tokens.push({ kind: "plain", text: key[1] ?? "" }, { kind: "key", text: key[2] ?? "" }, { kind: "plain", text: ":" });
    rest = code.slice(key[0].length);
  }
  const value = rest.trim();
  const kind = /^["'|>]/.test(value) ? "string" : /^[-+]?[\d.]+([eE][-+]?\d+)?([kMGTB]|[KMGT]i?B|%)?$|^(true|false|null|~)$/.test(value) ? "number" : "plain";
  if (rest !== "") tokens.push({ kind, text: rest });
  if (comment) tokens.push({ kind: "comment", text: line.slice(code.length) });
  return tokens.filter(({ text }) => text !== "");
}
