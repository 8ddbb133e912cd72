import { ABSENT } from "./number";

/** `2d 4h`, `3m 20s`: the two largest units. */
export function formatDuration(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return ABSENT;
  const whole = Math.max(0, seconds);
  if (whole < 1) return `${Math.round(whole * 1000)}ms`;
  if (whole < 60) return `${whole < 10 ? Number(whole.toFixed(1)) : Math.round(whole)}s`;
  const total = Math.round(whole);
  const [days, hours, minutes] = [Math.floor(total / 86400), Math.floor((total % 86400) / 3600), Math.floor((total % 3600) / 60)];
  if (days > 0) return hours > 0 ? `${days}d ${hours}h` : `${days}d`;
  if (hours > 0) return minutes > 0 ? `${hours}h ${minutes}m` : `${hours}h`;
  return total % 60 > 0 ? `${minutes}m ${total % 60}s` : `${minutes}m`;
}

/** Seconds from `time` to `now`, both clocks taken as they are. */
export function secondsSince(time: string | null | undefined, now: number): number | null {
  if (!time) return null;
  const at = Date.parse(time);
  return Number.isNaN(at) ? null : (now - at) / 1000;
}

export function formatAge(time: string | null | undefined, now: number): string {
  const seconds = secondsSince(time, now);
  if (seconds === null) return ABSENT;
  if (seconds < 5) return "just now";
  if (seconds < 60) return `${Math.round(seconds)}s ago`;
  return `${formatDuration(seconds < 3600 ? Math.floor(seconds / 60) * 60 : seconds)} ago`;
}

/** Local clock time with the date, seconds kept: events are matched with logs by them. */
export function formatTime(time: string | null | undefined): string {
  if (!time) return ABSENT;
  const at = new Date(time);
  if (Number.isNaN(at.getTime())) return ABSENT;
  const two = (value: number) => String(value).padStart(2, "0");
  const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  return `${day} ${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

/** Unix seconds of a wire time, which telemetry points may carry as a number. */
export function unixSeconds(time: string | number): number {
  return typeof time === "number" ? time : Date.parse(time) / 1000;
}
