//! The wall clock, and times and durations as people read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds since the Unix epoch.
pub fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

/// RFC 3339 in UTC, to the second (`2026-11-24T21:33:09Z`).
pub fn rfc3339(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as i64;
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// A time in RFC 3339 with milliseconds: what happens within a second keeps its order.
pub fn rfc3339_fine(seconds: f64) -> String {
    let whole = rfc3339(seconds);
    let milliseconds = (seconds.max(0.0).fract() * 1e3) as u32;
    format!("{}.{milliseconds:03}Z", whole.trim_end_matches('Z'))
}

/// The date of a day counted from 1970-01-01 in the proleptic Gregorian calendar: years begin in March, so that the leap day is the last.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// Two leading units of a duration: `0.4 s`, `42 s`, `3 min 05 s`, `2 h 07 min`, `3 d 4 h`.
pub fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// [`human`] of a number of seconds; negative and non-finite ones are 0.
pub fn human_seconds(seconds: f64) -> String {
    human(Duration::try_from_secs_f64(seconds).unwrap_or(if seconds > 0.0 { Duration::MAX } else { Duration::ZERO }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (seconds, text) in [
            (0.0, "1970-01-01T00:00:00Z"),
            (951_782_400.0, "2000-02-29T00:00:00Z"),
            (1_709_251_199.9, "2024-02-29T23:59:59Z"),
            (4_102_444_800.0, "2100-01-01T00:00:00Z"),
            (4_107_542_400.0, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
        assert_eq!(rfc3339_fine(951_782_400.25), "2000-02-29T00:00:00.250Z");
        assert_eq!(rfc3339_fine(-1.5), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn durations() {
        for (seconds, text) in [
            (0.44, "0.4 s"),
            (59.9, "59 s"),
            (185.0, "3 min 05 s"),
            (7620.0, "2 h 07 min"),
            (273_600.0, "3 d 4 h"),
            (-1.0, "0.0 s"),
            (f64::NAN, "0.0 s"),
        ] {
            assert_eq!(human_seconds(seconds), text);
        }
    }
}
