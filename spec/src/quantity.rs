//! Quantities as people write them: `4M` tokens, `10T`, `512MiB`, `2h`, `67.6%`.
//!
//! Counts are exact: a spelling that is not a whole number of units is refused, and no count passes through floating point. YAML
//! may carry them as strings or as numbers.

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

/// A count of tokens: an integer, or a number with one of the decimal suffixes `k`, `M`, `B` (or `G`) and `T`.
///
/// Serialised as a plain integer, so that a resolved manifest has one spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Tokens(pub u64);

/// A number of bytes: an integer, or a number with `kB`, `MB`, `GB`, `TB` (powers of 1000) or `KiB`, `MiB`, `GiB`, `TiB` (powers of 1024).
///
/// Serialised as a plain integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

/// A length of time in milliseconds, written with a unit: `500ms`, `30s`, `30m`, `2h`, `1d`.
///
/// Serialised in the largest unit that holds it exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(pub u64);

/// A point in a run, either a token count or a percentage of the phase's tokens.
///
/// Serialised as an integer or as a percentage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Milestone {
    /// An absolute number of tokens.
    Tokens(Tokens),
    /// A share of the phase's tokens, from 0 to 1; written `67.6%`.
    Fraction(f64),
}

impl Milestone {
    /// The milestone in tokens, of a phase that sees `total` tokens; rounded to the nearest token.
    #[must_use]
    pub fn resolve(self, total: Tokens) -> Tokens {
        match self {
            Self::Tokens(tokens) => tokens,
            Self::Fraction(fraction) => Tokens((fraction * total.0 as f64).round() as u64),
        }
    }
}

/// Why a spelling is not a quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// The text is no number with a known unit.
    #[error("`{text}` is not {expected}")]
    Unreadable {
        /// The spelling, shortened.
        text: String,
        /// What was expected, with examples.
        expected: &'static str,
    },
    /// The number has a fraction of its smallest unit.
    #[error("`{text}` is not a whole number of {unit}")]
    Fractional {
        /// The spelling, shortened.
        text: String,
        /// The smallest unit.
        unit: &'static str,
    },
    /// The number does not fit.
    #[error("`{text}` is too large; the limit is 2^64 - 1 {unit}")]
    TooLarge {
        /// The spelling, shortened.
        text: String,
        /// The smallest unit.
        unit: &'static str,
    },
    /// A percentage outside of 0 to 100.
    #[error("`{text}` is outside of 0% to 100%")]
    OutOfRange {
        /// The spelling, shortened.
        text: String,
    },
    /// A fraction that was probably meant as a percentage.
    #[error("`{text}` is neither a whole number of tokens nor a percentage; for that share of the phase write `{percent}`")]
    BareFraction {
        /// The spelling, shortened.
        text: String,
        /// The same share as a percentage.
        percent: String,
    },
}

const TOKEN_UNITS: &[(&str, u128)] = &[
    ("", 1),
    ("k", 1_000),
    ("K", 1_000),
    ("M", 1_000_000),
    ("B", 1_000_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
];

const BYTE_UNITS: &[(&str, u128)] = &[
    ("", 1),
    ("B", 1),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

const DURATION_UNITS: &[(&str, u128)] = &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// A type that is written as a number with a unit. Implemented by the types of this module only.
pub trait Quantity: FromStr<Err = QuantityError> {
    /// What a spelling looks like, for messages.
    const EXPECTED: &'static str;
}

impl Quantity for Tokens {
    const EXPECTED: &'static str = "a number of tokens such as 4000000, 512k, 4M, 1.5B or 10T";
}

impl Quantity for Bytes {
    const EXPECTED: &'static str = "a size in bytes such as 1048576, 64MiB or 2GB";
}

impl Quantity for Duration {
    const EXPECTED: &'static str = "a length of time such as 500ms, 30s, 30m, 2h or 1d";
}

impl Quantity for Milestone {
    const EXPECTED: &'static str = "a number of tokens such as 4M, or a percentage of the phase such as 67.6%";
}

impl FromStr for Tokens {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        exact(text, TOKEN_UNITS, "tokens", Self::EXPECTED).map(Self)
    }
}

impl FromStr for Bytes {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        exact(text, BYTE_UNITS, "bytes", Self::EXPECTED).map(Self)
    }
}

impl FromStr for Duration {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        exact(text, DURATION_UNITS, "milliseconds", Self::EXPECTED).map(Self)
    }
}

impl FromStr for Milestone {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let unreadable = || QuantityError::Unreadable {
            text: shorten(text),
            expected: Self::EXPECTED,
        };
        if let Some(number) = text.trim().strip_suffix('%') {
            let number = number.trim_end();
            Decimal::parse(number).ok_or_else(unreadable)?;
            // Shifting the decimal point in the text keeps 67.6% equal to the literal 0.676.
            let (digits, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
            let exponent: i32 = exponent.parse().map_err(|_| unreadable())?;
            let fraction: f64 = format!("{}e{}", digits.replace('_', ""), exponent - 2)
                .parse()
                .map_err(|_| unreadable())?;
            return if fraction <= 1.0 {
                Ok(Self::Fraction(fraction))
            } else {
                Err(QuantityError::OutOfRange { text: shorten(text) })
            };
        }
        exact(text, TOKEN_UNITS, "tokens", Self::EXPECTED)
            .map(|tokens| Self::Tokens(Tokens(tokens)))
            .map_err(|error| match (&error, text.trim().parse::<f64>()) {
                (QuantityError::Fractional { .. }, Ok(share)) if share < 1.0 => QuantityError::BareFraction {
                    text: shorten(text),
                    percent: percent(share),
                },
                _ => error,
            })
    }
}

/// A decimal number `mantissa * 10^exponent`, exact.
struct Decimal {
    mantissa: u128,
    exponent: i32,
}

impl Decimal {
    /// Reads `12`, `1_000`, `1.5`, `2e9`, `1.5E-3`; no sign. At most 30 significant digits.
    fn parse(text: &str) -> Option<Self> {
        let (number, exponent) = match text.split_once(['e', 'E']) {
            Some((number, exponent)) if exponent.len() <= 4 => (number, exponent.parse::<i32>().ok()?),
            Some(_) => return None,
            None => (text, 0),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || !whole.starts_with(|c: char| c.is_ascii_digit()) || (number.contains('.') && fraction.is_empty()) {
            return None;
        }
        let mut mantissa: u128 = 0;
        for character in whole.chars().filter(|&c| c != '_').chain(fraction.chars()) {
            let digit = character.to_digit(10)?;
            mantissa = mantissa.checked_mul(10)?.checked_add(u128::from(digit))?;
        }
        let exponent = exponent - i32::try_from(fraction.len()).ok()?;
        Some(Self { mantissa, exponent })
    }
}

/// The whole number of smallest units that `text` stands for.
fn exact(text: &str, units: &[(&str, u128)], unit_name: &'static str, expected: &'static str) -> Result<u64, QuantityError> {
    let trimmed = text.trim();
    let unreadable = || QuantityError::Unreadable {
        text: shorten(text),
        expected,
    };
    let too_large = || QuantityError::TooLarge {
        text: shorten(text),
        unit: unit_name,
    };
    if trimmed.len() > 64 {
        return Err(unreadable());
    }
    let (number, factor) = units
        .iter()
        .filter_map(|&(suffix, factor)| {
            let number = trimmed.strip_suffix(suffix)?.trim_end();
            Decimal::parse(number).map(|number| (number, factor))
        })
        .next()
        .ok_or_else(unreadable)?;
    if number.mantissa == 0 {
        return Ok(0);
    }
    let scaled = number.mantissa.checked_mul(factor).ok_or_else(too_large)?;
    let power = 10u128.checked_pow(number.exponent.unsigned_abs());
    let value = match (number.exponent >= 0, power) {
        (true, Some(power)) => scaled.checked_mul(power).ok_or_else(too_large)?,
        (true, None) => return Err(too_large()),
        (false, Some(power)) if scaled % power == 0 => scaled / power,
        (false, _) => {
            return Err(QuantityError::Fractional {
                text: shorten(text),
                unit: unit_name,
            });
        }
    };
    u64::try_from(value).map_err(|_| too_large())
}

/// Quotable text of bounded length.
fn shorten(text: &str) -> String {
    let text = text.trim();
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// `0.676` as `67.6%`, by moving the decimal point of the shortest spelling that reads back as the same number.
fn percent(fraction: f64) -> String {
    let scientific = format!("{fraction:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent = exponent.parse::<i32>().unwrap_or(0) + 2;
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let point = exponent + 1;
    let mut text = if point <= 0 {
        format!("0.{}{digits}", "0".repeat(point.unsigned_abs() as usize))
    } else if (point as usize) < digits.len() {
        format!("{}.{}", &digits[..point as usize], &digits[point as usize..])
    } else {
        format!("{digits}{}", "0".repeat(point as usize - digits.len()))
    };
    if text.contains('.') {
        text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
    }
    format!("{text}%")
}

/// The count in the largest of `units` that holds it exactly.
fn in_largest_unit(count: u64, units: &[(&str, u128)]) -> String {
    units
        .iter()
        .filter(|&&(_, factor)| count != 0 && u128::from(count) % factor == 0)
        .max_by_key(|&&(_, factor)| factor)
        .map_or_else(
            || format!("{count}{}", units[0].0),
            |&(suffix, factor)| format!("{}{suffix}", u128::from(count) / factor),
        )
}

impl fmt::Display for Tokens {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&in_largest_unit(
            self.0,
            &[
                ("", 1),
                ("k", 1_000),
                ("M", 1_000_000),
                ("B", 1_000_000_000),
                ("T", 1_000_000_000_000),
            ],
        ))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&in_largest_unit(
            self.0,
            &[("", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)],
        ))
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&in_largest_unit(self.0, DURATION_UNITS))
    }
}

impl fmt::Display for Milestone {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tokens(tokens) => tokens.fmt(formatter),
            Self::Fraction(fraction) => formatter.write_str(&percent(*fraction)),
        }
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Milestone {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Tokens(tokens) => tokens.serialize(serializer),
            Self::Fraction(_) => serializer.collect_str(self),
        }
    }
}

/// Reads a quantity from a string or a number.
struct QuantityVisitor<Q>(PhantomData<Q>);

impl<Q: Quantity> Visitor<'_> for QuantityVisitor<Q> {
    type Value = Q;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(Q::EXPECTED)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Q, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Q, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Q, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Q, E> {
        text.parse().map_err(E::custom)
    }
}

macro_rules! quantity {
    ($type:ty, $name:literal, $format:literal, $numeric:literal) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(QuantityVisitor(PhantomData))
            }
        }

        impl schemars::JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                if $numeric {
                    schemars::json_schema!({ "type": ["integer", "string"], "minimum": 0, "format": $format })
                } else {
                    schemars::json_schema!({ "type": "string", "format": $format })
                }
            }
        }
    };
}

quantity!(Tokens, "Tokens", "tokens", true);
quantity!(Bytes, "Bytes", "bytes", true);
quantity!(Duration, "Duration", "duration", false);
quantity!(Milestone, "Milestone", "milestone", true);
