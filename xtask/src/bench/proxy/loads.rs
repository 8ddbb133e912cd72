//! What validation says of each source: its loss, and the load of every expert on it (paper, figure 9), in figures and as a picture.

use super::Table;
use crate::error::Error;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// Busiest experts that are printed.
const BUSIEST: usize = 3;
const LOSS: &str = "validation.loss.";
/// A load of so many times the fair share, or of its inverse, has the strongest colour.
const REACH: f64 = 4.0;

/// The last validation of a source.
pub(super) struct SourceLoad {
    source: String,
    loss: f64,
    /// Mean over layers.
    max_violation: f64,
    /// Tokens of each expert over the mean, per MoE layer, `[layers][E]`.
    relative: Vec<Vec<f64>>,
}

/// Reads all sources of a run from its table of scalars; `matrix` exports a matrix, an element per line.
pub(super) fn read(scalars: &Table<'_>, matrix: impl Fn(&str) -> Result<String, Error>) -> Result<Vec<SourceLoad>, Error> {
    let sources = scalars.heading.iter().filter_map(|name| name.strip_prefix(LOSS));
    let load = |source: &str| -> Result<SourceLoad, Error> {
        Ok(SourceLoad {
            source: source.to_owned(),
            loss: scalars.last(&format!("{LOSS}{source}")).unwrap_or(f64::NAN),
            max_violation: scalars.last(&format!("validation.max_violation.{source}")).unwrap_or(f64::NAN),
            relative: relative(&Table::new(&matrix(&format!("validation.load.{source}"))?)),
        })
    };
    sources.map(load).collect()
}

/// The newest matrix of a table with the columns `step`, `row`, `column` and `value`; each row over its mean.
fn relative(table: &Table<'_>) -> Vec<Vec<f64>> {
    let column = |name: &str| table.column(name).unwrap_or_default();
    let (steps, rows, values) = (column("step"), column("row"), column("value"));
    let last = steps.last().copied();
    let mut layers: Vec<Vec<f64>> = Vec::new();
    for ((step, row), value) in steps.into_iter().zip(rows).zip(values) {
        if Some(step) == last {
            let row = row as usize;
            layers.resize(layers.len().max(row + 1), Vec::new());
            layers[row].push(value);
        }
    }
    for layer in &mut layers {
        let mean = layer.iter().sum::<f64>() / layer.len() as f64;
        layer.iter_mut().for_each(|value| *value /= mean);
    }
    layers
}

/// Loss, MaxVio and, of the last layer, the busiest experts with their load over the mean, by source.
pub(super) fn figures(sources: &[SourceLoad]) -> Value {
    let figures = sources.iter().map(|one| {
        let busiest: Vec<Value> = busiest(one.relative.last().map_or(&[], Vec::as_slice))
            .into_iter()
            .map(|(expert, load)| json!({"expert": expert, "load": (load * 100.0).round() / 100.0}))
            .collect();
        let figures = json!({"loss": one.loss, "max_violation": one.max_violation, "last_layer_busiest": busiest});
        (one.source.clone(), figures)
    });
    Value::Object(figures.collect())
}

/// The busiest experts of a layer, busiest first.
fn busiest(layer: &[f64]) -> Vec<(usize, f64)> {
    let mut experts: Vec<(usize, f64)> = layer.iter().copied().enumerate().collect();
    experts.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    experts.truncate(BUSIEST);
    experts
}

/// The load of every expert of the first and the last MoE layer, a line per variant and source, as SVG.
pub(super) fn draw(variants: &[(&str, &[SourceLoad])]) -> String {
    const LEFT: f64 = 170.0;
    const WIDTH: f64 = 800.0;
    const HEIGHT: f64 = 22.0;
    let lines: Vec<(&str, &SourceLoad)> = variants
        .iter()
        .flat_map(|&(variant, sources)| sources.iter().map(move |source| (variant, source)))
        .collect();
    let layers = lines.iter().map(|(_, load)| load.relative.len()).max().unwrap_or(0);
    let chosen = if layers > 1 { vec![0, layers - 1] } else { vec![0; layers] };
    let block = 70.0 + HEIGHT * lines.len() as f64;
    let bottom = block * chosen.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        LEFT + WIDTH + 90.0,
        bottom + 50.0
    );
    let mut text = |x: f64, y: f64, anchor: &str, text: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
    };
    let mut cells = String::new();
    for (index, &layer) in chosen.iter().enumerate() {
        let top = block * index as f64 + 40.0;
        text(
            LEFT,
            top - 12.0,
            "start",
            &format!("load of each expert, from 0, over the mean: MoE layer {layer}"),
        );
        text(LEFT + WIDTH + 80.0, top - 12.0, "end", "MaxVio");
        for (index, (variant, source)) in lines.iter().enumerate() {
            let y = top + HEIGHT * index as f64;
            let loads = source.relative.get(layer).map_or(&[][..], Vec::as_slice);
            let width = WIDTH / loads.len().max(1) as f64;
            text(LEFT - 8.0, y + 15.0, "end", &format!("{variant}, {}", source.source));
            for (expert, &load) in loads.iter().enumerate() {
                let x = LEFT + width * expert as f64;
                let _ = writeln!(
                    cells,
                    "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{}\" fill=\"{}\"><title>expert {expert}: {load:.2}</title></rect>",
                    width - 1.0,
                    HEIGHT - 1.0,
                    colour(load)
                );
                if width > 30.0 {
                    let ink = if (0.4..2.5).contains(&load) { "black" } else { "white" };
                    let _ = writeln!(
                        cells,
                        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"11\" fill=\"{ink}\">{load:.1}</text>",
                        x + width / 2.0,
                        y + 15.0
                    );
                }
            }
            let violation = loads.iter().copied().fold(0.0, f64::max) - 1.0;
            text(LEFT + WIDTH + 80.0, y + 15.0, "end", &format!("{violation:.2}"));
        }
    }
    for (index, load) in [0.25, 0.5, 1.0, 2.0, 4.0].into_iter().enumerate() {
        let x = LEFT + 60.0 * index as f64;
        let _ = writeln!(
            cells,
            "<rect x=\"{x}\" y=\"{bottom}\" width=\"20\" height=\"14\" fill=\"{}\" stroke=\"#ccc\"/>",
            colour(load)
        );
        text(x + 26.0, bottom + 12.0, "start", &load.to_string());
    }
    svg + &cells + "</svg>\n"
}

/// Blue below the fair share, white at it, orange above; halves and doubles are equally strong.
fn colour(load: f64) -> String {
    let strength = (load.max(1e-9).ln() / REACH.ln()).clamp(-1.0, 1.0);
    let strongest = if strength < 0.0 {
        [33.0, 102.0, 172.0]
    } else {
        [210.0, 90.0, 10.0]
    };
    let [red, green, blue] = strongest.map(|part: f64| (255.0 + (part - 255.0) * strength.abs()).round() as u8);
    format!("#{red:02x}{green:02x}{blue:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read_from_a_run() {
        let scalars = Table::new(
            "step,loss.main,validation.loss,validation.loss.code,validation.max_violation.code\n1,9,,,\n2,8,7,6.5,0.5\n3,8,,,\n",
        );
        let matrix = |name: &str| {
            assert_eq!(name, "validation.load.code");
            Ok("step,row,column,value\n1,0,0,9\n2,0,0,3\n2,0,1,1\n2,1,0,2\n2,1,1,2\n".to_owned())
        };
        let sources = read(&scalars, matrix).unwrap();
        assert_eq!(sources[0].relative, [[1.5, 0.5], [1.0, 1.0]]);
        let expected = json!({"code": {"loss": 6.5, "max_violation": 0.5, "last_layer_busiest": [
            {"expert": 0, "load": 1.0}, {"expert": 1, "load": 1.0},
        ]}});
        assert_eq!(figures(&sources), expected);
        let picture = draw(&[("bf16", sources.as_slice()), ("fp8", &[])]);
        for part in [
            "MoE layer 0",
            "MoE layer 1",
            "bf16, code",
            "<title>expert 1: 0.50</title>",
            ">0.50</text>",
        ] {
            assert!(picture.contains(part), "{part} in\n{picture}");
        }
        assert!(
            !picture.contains("NaN") && picture.matches("<rect").count() == 1 + 4 + 5,
            "{picture}"
        );
    }

    #[test]
    fn a_run_of_one_source_has_none() {
        let sources = read(&Table::new("step,validation.loss\n1,7\n"), |_| unreachable!()).unwrap();
        assert_eq!(figures(&sources), json!({}));
        assert!(draw(&[("bf16", sources.as_slice())]).ends_with("</svg>\n"));
    }

    #[test]
    fn colours_are_even_around_the_fair_share() {
        assert_eq!(
            (colour(1.0), colour(0.0), colour(4.0)),
            ("#ffffff".into(), "#2166ac".into(), "#d25a0a".into())
        );
        assert_eq!(colour(100.0), colour(4.0));
    }
}
