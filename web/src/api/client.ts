import type {
  Action, Attempt, Axis, Checkpoint, Comparison, Event, ForkRequest, Generation, GenerationMark, Health, Job, Lineage, List, LogLine,
  MatrixRows, MatrixView, Metric, Problem, Run, RunData, Series, SeriesOfRun, SeriesRequest,
} from "./types";

/** A request that did not succeed, with what the server said about it. */
export class ApiError extends Error {
  constructor(readonly problem: Problem) {
    super(problem.detail || problem.title);
  }
}

type Parameter = string | number | boolean | readonly (string | number)[] | null | undefined;
type Parameters = Record<string, Parameter>;

/** `?a=1&b=2&b=3`; absent values are left out. */
export function encodeQuery(parameters: Parameters): string {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value === null || value === undefined || value === "") continue;
    const values = Array.isArray(value) ? value : [value];
    for (const one of values) query.append(name, String(one));
  }
  const text = query.toString();
  return text === "" ? "" : `?${text}`;
}

async function problemOf(response: Response): Promise<Problem> {
  const fallback: Problem = {
    type: "about:blank",
    title: response.statusText || `HTTP ${response.status}`,
    status: response.status,
    detail: `The server answered ${response.status} without an explanation.`,
    instance: response.url,
    code: "unknown",
    requestId: response.headers.get("x-request-id") ?? "",
  };
  if (!(response.headers.get("content-type") ?? "").includes("json")) return fallback;
  try {
    return { ...fallback, ...((await response.json()) as Partial<Problem>) };
  } catch {
    return fallback;
  }
}

const unreachable = (path: string): Problem => ({
  type: "about:blank",
  title: "The server cannot be reached",
  status: 0,
  detail: `No answer to ${path}.`,
  instance: path,
  code: "unreachable",
  hint: "Check that `fathom ui` or `fathom server` still runs; this page tries again by itself.",
  requestId: "",
});

async function request(path: string, init: RequestInit = {}): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(`/api/v1${path}`, { credentials: "same-origin", ...init });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError(unreachable(path));
  }
  if (!response.ok) throw new ApiError(await problemOf(response));
  return response;
}

async function get<T>(path: string, parameters: Parameters = {}, signal?: AbortSignal): Promise<T> {
  const response = await request(path + encodeQuery(parameters), signal ? { signal } : {});
  return (await response.json()) as T;
}

// The cookie alone must not be enough to change anything: another origin cannot set this header.
const UNSAFE_HEADERS = { "X-Fathom-Csrf": "1" };

async function post<T>(path: string, body: unknown, signal?: AbortSignal): Promise<T> {
  const response = await request(path, {
    method: "POST",
    headers: { ...UNSAFE_HEADERS, "Content-Type": "application/json" },
    body: JSON.stringify(body),
    ...(signal ? { signal } : {}),
  });
  const text = await response.text();
  return (text === "" ? null : JSON.parse(text)) as T;
}

const id = encodeURIComponent;

export interface LogFilter {
  after?: number | undefined;
  before?: number | undefined;
  level?: string | undefined;
  attempt?: number | undefined;
  contains?: string | undefined;
  limit?: number | undefined;
}

export interface SeriesWindow {
  x: Axis;
  from?: number | undefined;
  to?: number | undefined;
  points: number;
}

export const api = {
  jobs: (parameters: { state?: string; filter?: string; sort?: string; limit?: number; cursor?: string }, signal?: AbortSignal) =>
    get<List<Job>>("/jobs", parameters, signal),
  job: (job: string, signal?: AbortSignal) => get<Job>(`/jobs/${id(job)}`, {}, signal),
  health: (job: string, signal?: AbortSignal) => get<Health>(`/jobs/${id(job)}/health`, {}, signal),
  runs: (job: string, signal?: AbortSignal) => get<List<Run>>(`/jobs/${id(job)}/runs`, { limit: 500 }, signal),
  events: (job: string, parameters: { severity?: string; after?: number; limit?: number }, signal?: AbortSignal) =>
    get<List<Event>>(`/jobs/${id(job)}/events`, parameters, signal),
  logs: (job: string, filter: LogFilter, signal?: AbortSignal) => get<List<LogLine>>(`/jobs/${id(job)}/logs`, { ...filter }, signal),
  checkpoints: (job: string, signal?: AbortSignal) => get<List<Checkpoint>>(`/jobs/${id(job)}/checkpoints`, { limit: 500 }, signal),
  lineage: (job: string, signal?: AbortSignal) => get<Lineage>(`/jobs/${id(job)}/lineage`, {}, signal),
  manifest: (job: string, generation: number | null, signal?: AbortSignal) =>
    get<Generation>(`/jobs/${id(job)}/manifest`, { generation }, signal),
  generations: (job: string, signal?: AbortSignal) =>
    get<List<GenerationMark>>(`/jobs/${id(job)}/generations`, { limit: 500 }, signal),

  run: (run: string, signal?: AbortSignal) => get<Run>(`/runs/${id(run)}`, {}, signal),
  attempts: (run: string, signal?: AbortSignal) => get<{ items: Attempt[] }>(`/runs/${id(run)}/attempts`, {}, signal),
  metrics: (run: string, signal?: AbortSignal) => get<{ items: Metric[] }>(`/runs/${id(run)}/metrics`, {}, signal),
  runData: (run: string, signal?: AbortSignal) => get<RunData>(`/runs/${id(run)}/data`, {}, signal),
  ghost: (run: string, metrics: string[], attempt: number, window: SeriesWindow, signal?: AbortSignal) =>
    get<Series>(`/runs/${id(run)}/series`, { metric: metrics, attempt, ...window }, signal),
  series: (query: SeriesRequest, signal?: AbortSignal) =>
    post<{ items: SeriesOfRun[] }>("/series:query", query, signal),
  matrix: (run: string, name: string, step: number | null, signal?: AbortSignal) =>
    get<MatrixView>(`/runs/${id(run)}/matrices/${id(name)}`, { step }, signal),
  matrixRows: (run: string, name: string, reduce: MatrixRows["reduce"], points: number, signal?: AbortSignal) =>
    get<MatrixRows>(`/runs/${id(run)}/matrices/${id(name)}/rows`, { reduce, points }, signal),
  compare: (runs: readonly string[], signal?: AbortSignal) => get<Comparison>("/compare", { run: runs }, signal),

  act: (job: string, action: Exclude<Action, "fork" | "delete">) => post<Job>(`/jobs/${id(job)}:${action}`, {}),
  fork: (job: string, body: ForkRequest) => post<Job>(`/jobs/${id(job)}:fork`, body),
  /** Deletes what was read last: a job that changed in between is refused by its ETag. */
  async remove(job: string): Promise<void> {
    const seen = await request(`/jobs/${id(job)}`);
    const etag = seen.headers.get("etag");
    await request(`/jobs/${id(job)}`, { method: "DELETE", headers: { ...UNSAFE_HEADERS, ...(etag ? { "If-Match": etag } : {}) } });
  },
};
