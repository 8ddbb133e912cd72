//! Numbers, spans and times as people read them.

/// About three digits; a whole number above a thousand.
pub(super) fn number(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        non_finite(value).to_owned()
    } else if size >= 100.0 || value == 0.0 {
        format!("{value:.0}")
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else if size >= 1.0 {
        format!("{value:.2}")
    } else if size >= 0.001 {
        format!("{value:.3}")
    } else {
        format!("{value:.2e}")
    }
}

/// A threshold as it was written, without digits that say nothing.
pub(super) fn plain(value: f64) -> String {
    format!("{value}")
}

/// A share as a percentage: `10%`, `2.5%`.
pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent.abs() >= 10.0 || (percent - percent.round()).abs() < 0.05 {
        format!("{percent:.0}%")
    } else {
        format!("{percent:.1}%")
    }
}

/// Two leading units: `0.4 s`, `42 s`, `3 min 5 s`, `2 h 7 min`, `3 d 4 h`.
pub(super) fn span(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    if seconds < 9.95 {
        return if (seconds - seconds.round()).abs() < 0.05 {
            format!("{seconds:.0} s")
        } else {
            format!("{seconds:.1} s")
        };
    }
    let whole = seconds.round() as u64;
    let (units, names) = if whole < 60 {
        return format!("{whole} s");
    } else if whole < 3600 {
        ((whole / 60, whole % 60), ("min", "s"))
    } else if whole < 86_400 {
        ((whole / 3600, whole / 60 % 60), ("h", "min"))
    } else {
        ((whole / 86_400, whole / 3600 % 24), ("d", "h"))
    };
    match units {
        (large, 0) => format!("{large} {}", names.0),
        (large, small) => format!("{large} {} {small} {}", names.0, names.1),
    }
}

/// `1 restart`, `2 restarts`.
pub(super) fn count(count: usize, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    }
}

/// The name of a value that JSON has no number for, as in [`crate::record`].
pub(super) fn non_finite(value: f64) -> &'static str {
    if value.is_nan() {
        "NaN"
    } else if value > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    }
}

/// RFC 3339 in UTC, to the millisecond, from seconds since the Unix epoch (`2026-11-24T21:33:09.250Z`).
pub(super) fn rfc3339(seconds: f64) -> String {
    let milliseconds = (seconds.max(0.0) * 1000.0).round() as i64;
    let (days, rest) = (milliseconds.div_euclid(86_400_000), milliseconds.rem_euclid(86_400_000));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60);
    format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z",
        rest % 1000
    )
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
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}
