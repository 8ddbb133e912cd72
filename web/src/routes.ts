/** Every page of the dashboard; a link is made by `paths` and nowhere else. */
export type JobPage = "health" | "curves" | "experts" | "numerics" | "data" | "checkpoints" | "logs" | "config";

export type Route =
  | { page: "jobs" }
  | { page: "compare" }
  | { page: "job"; job: string; view: JobPage }
  | { page: "notFound"; path: string };

export const JOB_PAGES: readonly { view: JobPage; title: string; key: string }[] = [
  { view: "health", title: "Health", key: "h" },
  { view: "curves", title: "Curves", key: "c" },
  { view: "experts", title: "Experts", key: "e" },
  { view: "numerics", title: "Numerics", key: "n" },
  { view: "data", title: "Data", key: "d" },
  { view: "checkpoints", title: "Checkpoints", key: "k" },
  { view: "logs", title: "Logs", key: "l" },
  { view: "config", title: "Config", key: "g" },
];

const isView = (text: string): text is JobPage => JOB_PAGES.some(({ view }) => view === text);

type Query = Record<string, string | number | readonly string[] | null | undefined>;

function withQuery(path: string, query: Query): string {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value === null || value === undefined || value === "") continue;
    for (const one of Array.isArray(value) ? (value as readonly string[]) : [value]) parameters.append(name, String(one));
  }
  const text = parameters.toString();
  return text === "" ? path : `${path}?${text}`;
}

export const paths = {
  jobs: (query: Query = {}) => withQuery("/", query),
  compare: (runs: readonly string[] = [], query: Query = {}) => withQuery("/compare", { run: runs, ...query }),
  job: (job: string, view: JobPage = "health", query: Query = {}) =>
    withQuery(`/jobs/${encodeURIComponent(job)}${view === "health" ? "" : `/${view}`}`, query),
};

function decode(segment: string): string {
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment;
  }
}

export function matchRoute(path: string): Route {
  const segments = path.split("/").filter((segment) => segment !== "");
  const [first, job, view] = segments;
  if (first === undefined) return { page: "jobs" };
  if (first === "compare" && segments.length === 1) return { page: "compare" };
  if (first === "jobs" && segments.length === 1) return { page: "jobs" };
  if (first === "jobs" && job !== undefined && segments.length <= 3) {
    if (view === undefined) return { page: "job", job: decode(job), view: "health" };
    if (isView(view)) return { page: "job", job: decode(job), view };
  }
  return { page: "notFound", path };
}
