/** What the dashboard knows about the trainer's metrics. Names that are not listed still have a page: they are searched. */
export interface Panel {
  id: string;
  title: string;
  matches: (metric: string) => boolean;
}

export const MAIN_LOSS = "loss.main";
export const EXPERT_LOAD = "moe.load";
export const ROUTING_BIAS = "moe.bias";
/** With the name of a source after it: the load on its held-out text. */
const SOURCE_LOAD = "validation.load.";
export const HEADROOM = "numerics.headroom.mean";
export const SATURATED = "numerics.saturated.mean";
export const UNDERFLOWED = "numerics.underflowed.mean";

export const sourceLoad = (source: string): string => SOURCE_LOAD + source;

/** The sources whose expert load is among these metrics. */
export const loadSources = (metrics: readonly string[]): string[] => metrics.filter((name) => name.startsWith(SOURCE_LOAD)).map((name) => name.slice(SOURCE_LOAD.length));

const oneOf = (...names: string[]) => (metric: string) => names.includes(metric);

export const PANELS: readonly Panel[] = [
  { id: "lm", title: "LM loss", matches: oneOf("loss.main") },
  { id: "mtp", title: "MTP losses", matches: (metric) => metric.startsWith("loss.mtp.") },
  { id: "validation", title: "Validation loss", matches: (metric) => metric.startsWith("validation.loss") || metric === "validation.ema.loss" },
  { id: "bpb", title: "Validation bits per byte", matches: (metric) => metric.startsWith("validation.bits_per_byte") || metric === "validation.ema.bits_per_byte" },
  { id: "lr", title: "Learning rate", matches: oneOf("learning_rate") },
  { id: "gradient", title: "Gradient norm", matches: oneOf("gradient_norm") },
  { id: "throughput", title: "Throughput", matches: oneOf("tokens_per_second") },
  { id: "balance", title: "MaxVio", matches: (metric) => metric.startsWith("moe.max_violation.") },
  { id: "sourceBalance", title: "MaxVio by source", matches: (metric) => metric.startsWith("validation.max_violation.") },
  { id: "sequenceBalance", title: "Balance loss", matches: oneOf("loss.balance") },
  // Shares of a few per cent and powers of two do not go on one axis.
  { id: "quantised", title: "Lost to quantisation", matches: oneOf(UNDERFLOWED, SATURATED) },
  { id: "headroom", title: "Quantisation headroom", matches: oneOf(HEADROOM) },
  { id: "batch", title: "Batch size", matches: oneOf("batch_sequences") },
  { id: "stepTime", title: "Step time", matches: oneOf("step_seconds") },
  { id: "schedule", title: "Auxiliary schedules", matches: oneOf("mtp_weight", "bias_update_speed") },
];

/** More lines are not told apart, and a question about metrics has a limit; the search has the others. */
const PANEL_METRICS = 12;

/** The metrics that a panel shows, in the order of `names`. */
export const panelMetrics = ({ matches }: Panel, names: readonly string[]): string[] => names.filter(matches).slice(0, PANEL_METRICS);

const TITLES: Record<string, string> = {
  "loss.main": "LM loss",
  "loss.total": "Total loss",
  "loss.balance": "Balance loss",
  "validation.loss": "Validation loss",
  "validation.bits_per_byte": "Bits per byte",
  "validation.ema.loss": "Validation loss, EMA",
  "validation.ema.bits_per_byte": "Bits per byte, EMA",
  learning_rate: "Learning rate",
  gradient_norm: "Gradient norm",
  tokens_per_second: "Tokens/s",
  step_seconds: "Step time",
  batch_sequences: "Sequences",
  mtp_weight: "MTP weight",
  bias_update_speed: "Bias update speed",
  "moe.max_violation.mean": "MaxVio, mean",
  "moe.max_violation.worst": "MaxVio, worst layer",
  [HEADROOM]: "Headroom",
  [SATURATED]: "Saturated",
  [UNDERFLOWED]: "Underflow",
  "moe.load": "Expert load",
  "moe.bias": "Routing bias",
};

const SOURCE_TITLES: Record<string, string> = {
  loss: "Validation loss",
  bits_per_byte: "Bits per byte",
  max_violation: "MaxVio",
  load: "Expert load",
};

export function metricTitle(name: string): string {
  const depth = /^loss\.mtp\.(\d+)$/.exec(name);
  if (depth) return `MTP loss ${depth[1]}`;
  const [, quantity = "", source] = /^validation\.(\w+)\.(.+)$/.exec(name) ?? [];
  const title = SOURCE_TITLES[quantity];
  return TITLES[name] ?? (title && source ? `${title}, ${source}` : name);
}
