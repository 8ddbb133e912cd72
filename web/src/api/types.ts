// The names of the HTTP contract, from the document that the server writes about itself.
import type { components } from "./schema.gen";

type Schemas = components["schemas"];
/** What the server sends: it leaves no field out, one without a value is null. */
type Sent<T> = T extends object ? { [K in keyof T]-?: Sent<Exclude<T[K], undefined>> } : T;
type Answer<Name extends keyof Schemas> = Sent<Schemas[Name]>;

/** The document's `Number`, which is not JavaScript's: non-finite values travel as strings. */
export type Float = Schemas["Number"];
export type Action = Schemas["Action"];
export type Axis = Schemas["Axis"];
export type EventSeverity = Schemas["EventSeverity"];
export type JobState = Schemas["JobState"];
export type LogLevel = Schemas["LogLevel"];
export type PhaseStateWord = Schemas["PhaseStateWord"];
export type Verdict = Schemas["Verdict"];

export type Attempt = Answer<"Attempt">;
export type Checkpoint = Answer<"Checkpoint">;
export type Event = Answer<"Event">;
export type Generation = Answer<"Generation">;
export type GenerationMark = Answer<"GenerationMark">;
export type Health = Answer<"Health">;
export type Job = Answer<"Job">;
export type Lineage = Answer<"Lineage">;
export type LineageNode = Answer<"LineageNode">;
export type LogLine = Answer<"LogLine">;
export type MatrixRows = Answer<"MatrixRows">;
export type MatrixView = Answer<"MatrixView">;
export type Metric = Answer<"Metric">;
export type Phase = Answer<"Phase">;
export type Reason = Answer<"Reason">;
export type Run = Answer<"Run">;
export type Series = Answer<"Series">;
export type SeriesColumns = Answer<"SeriesColumns">;
export type SeriesOfRun = Answer<"SeriesOfRun">;
export type Tile = Answer<"Tile">;
/** An answer of something that is no Fathom server, or of none, is made into one of these too. */
export type Problem = Schemas["Problem"];
export type SeriesRequest = Schemas["SeriesRequest"];
export type ForkRequest = Schemas["ForkRequest"];

export type RunData = Answer<"RunData">;
export type Comparison = Answer<"Comparison">;

/** One part of a list; `nextCursor` asks for the next. */
export interface List<T> {
  items: T[];
  nextCursor: string | null;
}

// The document describes messages as they are on the wire, with `data` as text; these are what they become.
export type MetricsMessage = Answer<"MetricsMessage">;

export type LiveMessage =
  | { event: "metrics"; data: MetricsMessage }
  | { event: "event"; data: Event }
  | { event: "job"; data: Answer<"JobMessage"> }
  | { event: "health"; data: Answer<"HealthMessage"> }
  | { event: "log"; data: Answer<"LogMessage"> }
  | { event: "gap"; data: Answer<"GapMessage"> };
