//! The expert map: layers down, experts across, the load of each relative to its layer's fair share.

use super::snapshot::Map;
use crate::commands::matrix::squeezed;
use ratatui::style::Color;
use ratatui::text::{Line, Span};

/// Columns of a layer's number.
const LABEL: usize = 4;
/// Below a tenth of the fair share an expert gets next to nothing.
const LITTLE: f32 = 0.1;

/// Lines of the map in `width` columns, and what its signs mean.
pub fn lines(map: &Map, width: usize, colour: bool) -> Vec<Line<'static>> {
    let room = width.saturating_sub(LABEL).max(1);
    let rows = map.load.rows().enumerate().map(|(layer, row)| {
        let mut spans = vec![Span::raw(format!("{layer:>3} "))];
        for share in squeezed(&relative(row), room) {
            let (sign, tint) = shade(share);
            let sign = sign.to_string();
            spans.push(if colour { Span::raw(sign).style(tint) } else { Span::raw(sign) });
        }
        Line::from(spans)
    });
    rows.collect()
}

/// What the signs mean, and how many experts share one.
pub fn legend(map: &Map, width: usize) -> String {
    let shared = map.load.columns.div_ceil(width.saturating_sub(LABEL).max(1));
    let shared = if shared > 1 {
        format!("; a sign is {shared} experts")
    } else {
        String::new()
    };
    format!("{}; fair share 1: · <0.1 ░ <0.5 ▒ <1 ▓ <2 █ more{shared}", map.steps)
}

/// A layer's loads over their mean.
fn relative(row: &[f32]) -> Vec<f32> {
    let mean = row.iter().sum::<f32>() / row.len().max(1) as f32;
    row.iter().map(|load| load / mean).collect()
}

/// Sign and colour of a relative load. The sign alone says it all.
fn shade(share: f32) -> (char, Color) {
    match share {
        share if !share.is_finite() => ('!', Color::Red),
        share if share < LITTLE => ('·', Color::Blue),
        share if share < 0.5 => ('░', Color::Blue),
        share if share < 1.0 => ('▒', Color::Cyan),
        share if share < 2.0 => ('▓', Color::Yellow),
        _ => ('█', Color::LightRed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::matrix::Matrix;

    fn map(columns: usize, values: &[f32]) -> Map {
        Map {
            steps: "step 3".into(),
            load: Matrix {
                columns,
                values: values.to_vec(),
            },
        }
    }

    fn text(line: &Line<'_>) -> String {
        line.spans.iter().map(|span| span.content.as_ref()).collect()
    }

    #[test]
    fn loads_are_relative_to_their_layer() {
        let map = map(4, &[0.0, 3.0, 4.0, 9.0, 100.0, 100.0, 100.0, 100.0, 0.0, 0.0, 0.0, 0.0]);
        let lines: Vec<String> = lines(&map, 20, true).iter().map(text).collect();
        assert_eq!(lines, ["  0 ·▒▓█", "  1 ▓▓▓▓", "  2 !!!!"]);
        assert!(!legend(&map, 20).contains("a sign is"));
    }

    #[test]
    fn what_stands_out_is_seen_in_few_columns() {
        let mut values = vec![1.0; 256];
        values[100] = 0.0;
        let lines: Vec<String> = lines(&map(256, &values), 68, false).iter().map(text).collect();
        assert_eq!(lines[0].chars().filter(|&sign| sign == '·').count(), 1);
        assert_eq!(lines[0].chars().count(), 68);
        assert!(legend(&map(256, &values), 68).ends_with("a sign is 4 experts"));
    }
}
