/** Long paths end the same way they begin to matter: `/a/b/c/step-7` becomes `…/step-7`. Addresses with a scheme stay whole. */
export const shortenPaths = (text: string): string =>
  text.replace(/(?<![\w.:/~])(?:\/[^\s/]+){3,}\/?/g, (path) => `…/${path.replace(/\/$/, "").split("/").at(-1)}`);

/** The command line pads its columns with spaces; in prose a dot divides them. */
export const divideColumns = (text: string): string => text.replace(/ {2,}/g, " · ");
