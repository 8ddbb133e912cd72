//! Quantities: spellings, exactness, one canonical form.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use fathom_spec::quantity::{Bytes, Duration, Milestone, Tokens};
use proptest::prelude::*;

fn tokens(text: &str) -> Result<u64, String> {
    text.parse::<Tokens>().map(|tokens| tokens.0).map_err(|error| error.to_string())
}

#[test]
fn token_counts() {
    let table = [
        ("0", 0),
        ("4000000", 4_000_000),
        ("4_000_000", 4_000_000),
        ("4M", 4_000_000),
        (" 4 M ", 4_000_000),
        ("512k", 512_000),
        ("512K", 512_000),
        ("1.5B", 1_500_000_000),
        ("1.5G", 1_500_000_000),
        ("14.8T", 14_800_000_000_000),
        ("0.000001M", 1),
        ("4e6", 4_000_000),
        ("1.25E2", 125),
        ("2.5e3k", 2_500_000),
        ("9007199254740993", 9_007_199_254_740_993),
        ("18446744073709551615", u64::MAX),
        ("18.446744073709551615e18", u64::MAX),
    ];
    for (text, count) in table {
        assert_eq!(tokens(text), Ok(count), "{text}");
    }
    let expected = "a number of tokens such as 4000000, 512k, 4M, 1.5B or 10T";
    for text in [
        "",
        "M",
        "4Q",
        "-4",
        "+4",
        "4MM",
        ".5M",
        "5.M",
        "1e",
        "1e99999",
        "0x10",
        "١",
        "4M tokens",
        "NaN",
        "inf",
        "_4",
    ] {
        assert_eq!(tokens(text), Err(format!("`{text}` is not {expected}")), "{text}");
    }
    assert_eq!(tokens("1.5"), Err("`1.5` is not a whole number of tokens".into()));
    assert_eq!(tokens("1e-3k"), Ok(1));
    assert_eq!(tokens("1e-4k"), Err("`1e-4k` is not a whole number of tokens".into()));
    for text in ["18446744073709551616", "1e30", "1e400", "99999999999999999999999T"] {
        assert_eq!(tokens(text), Err(format!("`{text}` is too large; the limit is 2^64 - 1 tokens")));
    }
}

#[test]
fn bytes_and_durations() {
    for (text, count) in [
        ("64MiB", 64 << 20),
        ("2GB", 2_000_000_000),
        ("1.5KiB", 1536),
        ("7", 7),
        ("7B", 7),
        ("0.5TiB", 1 << 39),
    ] {
        assert_eq!(text.parse(), Ok(Bytes(count)), "{text}");
    }
    for (text, count) in [
        ("500ms", 500),
        ("30s", 30_000),
        ("30m", 1_800_000),
        ("2h", 7_200_000),
        ("1.5d", 129_600_000),
    ] {
        assert_eq!(text.parse(), Ok(Duration(count)), "{text}");
    }
    assert!("30".parse::<Duration>().is_err(), "a length of time needs a unit");
    assert!("1.5B".parse::<Bytes>().is_err());
}

#[test]
fn milestones() {
    let table = [
        ("67.6%", Milestone::Fraction(0.676)),
        ("100%", Milestone::Fraction(1.0)),
        ("0%", Milestone::Fraction(0.0)),
        ("96.6 %", Milestone::Fraction(0.966)),
        ("0.01%", Milestone::Fraction(0.0001)),
        ("4M", Milestone::Tokens(Tokens(4_000_000))),
        ("0", Milestone::Tokens(Tokens(0))),
        ("1", Milestone::Tokens(Tokens(1))),
    ];
    for (text, milestone) in table {
        assert_eq!(text.parse(), Ok(milestone), "{text}");
    }
    let message = |text: &str| text.parse::<Milestone>().unwrap_err().to_string();
    assert_eq!(message("101%"), "`101%` is outside of 0% to 100%");
    assert_eq!(
        message("0.676"),
        "`0.676` is neither a whole number of tokens nor a percentage; for that share of the phase write `67.6%`"
    );
    assert_eq!(message("1.5"), "`1.5` is not a whole number of tokens");
    for text in ["-1%", "%", "x%", "1e999999999%", "4M%"] {
        assert!(
            message(text).contains("is not a number of tokens such as 4M, or a percentage"),
            "{text}"
        );
    }
    assert_eq!(
        Milestone::Fraction(0.676).resolve(Tokens(14_800_000_000_000)),
        Tokens(10_004_800_000_000)
    );
}

#[test]
fn canonical_spellings() {
    assert_eq!(serde_json::to_string(&Tokens(4_000_000)).unwrap(), "4000000");
    assert_eq!(serde_json::to_string(&Bytes(1 << 20)).unwrap(), "1048576");
    assert_eq!(serde_json::to_string(&Duration(5_400_000)).unwrap(), "\"90m\"");
    assert_eq!(serde_json::to_string(&Milestone::Fraction(0.676)).unwrap(), "\"67.6%\"");
    assert_eq!(serde_json::to_string(&Milestone::Tokens(Tokens(1))).unwrap(), "1");
    for (value, text) in [(0, "0"), (1500, "1500"), (1_500_000, "1500k"), (10_000_000_000_000, "10T")] {
        assert_eq!(Tokens(value).to_string(), text);
    }
    assert_eq!(Bytes(0).to_string(), "0");
    assert_eq!(Bytes(64 << 20).to_string(), "64MiB");
    assert_eq!(Duration(0).to_string(), "0ms");
}

#[test]
fn json_numbers_are_read() {
    assert_eq!(serde_json::from_str::<Tokens>("4e6").unwrap(), Tokens(4_000_000));
    assert_eq!(serde_json::from_str::<Tokens>("18446744073709551615").unwrap(), Tokens(u64::MAX));
    assert!(serde_json::from_str::<Tokens>("-1").is_err());
    assert!(
        serde_json::from_str::<Milestone>("0.5").is_err(),
        "ambiguous without a percent sign"
    );
}

proptest! {
    #[test]
    fn every_count_round_trips(count in any::<u64>(), shift in 0u32..64) {
        let count = count >> shift;
        prop_assert_eq!(Tokens(count).to_string().parse(), Ok(Tokens(count)));
        prop_assert_eq!(Bytes(count).to_string().parse(), Ok(Bytes(count)));
        prop_assert_eq!(Duration(count).to_string().parse(), Ok(Duration(count)));
        let milestone = Milestone::Tokens(Tokens(count));
        prop_assert_eq!(serde_json::from_value::<Milestone>(serde_json::to_value(milestone).unwrap()).unwrap(), milestone);
    }

    #[test]
    fn every_fraction_round_trips(fraction in 0.0f64..=1.0) {
        let milestone = Milestone::Fraction(fraction);
        prop_assert_eq!(milestone.to_string().parse(), Ok(milestone), "{}", milestone);
    }

    #[test]
    fn any_text_is_refused_or_read(text in "\\PC{0,40}|[0-9.e%kMBT_+-]{0,20}") {
        let _ = (text.parse::<Tokens>(), text.parse::<Bytes>(), text.parse::<Duration>(), text.parse::<Milestone>());
    }
}
