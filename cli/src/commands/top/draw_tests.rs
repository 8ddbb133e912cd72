//! The screen, character by character.

use super::super::snapshot::Map;
use super::*;
use crate::commands::matrix::Matrix;
use ratatui::Terminal;
use ratatui::backend::TestBackend;

fn row(name: &str, state: &str, verdict: &str) -> JobRow {
    JobRow {
        name: name.into(),
        state: state.into(),
        verdict: verdict.into(),
        phase: "pretrain".into(),
        progress: Some(0.42),
        loss: "4.264".into(),
        speed: "1.23k".into(),
        left: "3 min 05 s".into(),
        curve: vec![8.0, 6.0, 5.0, 4.0],
    }
}

fn snapshot() -> Snapshot {
    let tile = |title: &str, state: &str| Tile {
        title: title.into(),
        value: "4.264 nats/token".into(),
        state: state.into(),
        change: "-13.3%".into(),
        rule: "a rule".into(),
        curve: vec![8.0, 6.0, 5.0, 4.0],
    };
    Snapshot {
        jobs: vec![row("tiny", "running", "watch"), row("old", "succeeded", "healthy")],
        detail: Some(Detail {
            row: row("tiny", "running", "watch"),
            since: "2026-11-25T01:40:14Z".into(),
            reasons: vec![("watch".into(), "The loss jumped (since step 41)".into())],
            next: "Wait".into(),
            tiles: [
                "Loss",
                "Gradient norm",
                "Throughput",
                "Expert balance",
                "Numerics",
                "Infrastructure",
            ]
            .map(|title| tile(title, "healthy"))
            .into(),
            map: Some(Map {
                steps: "step 118".into(),
                load: Matrix {
                    columns: 4,
                    values: vec![0.0, 3.0, 4.0, 9.0, 4.0, 4.0, 4.0, 4.0],
                },
            }),
            events: (0..30).map(|number| ("info".into(), format!("event {number}"))).collect(),
            lines: vec![("error".into(), "line of the log".into())],
        }),
        time: "2026-11-25T01:41:00Z".into(),
        problem: None,
    }
}

fn screen(width: u16, height: u16, snapshot: &Snapshot, view: &View) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, snapshot, view)).unwrap();
    let buffer = terminal.backend().buffer().clone();
    let cells: Vec<&str> = buffer.content().iter().map(ratatui::buffer::Cell::symbol).collect();
    cells
        .chunks(usize::from(width))
        .map(|cells| cells.concat().trim_end().to_owned())
        .collect()
}

#[test]
fn jobs_are_a_table() {
    let lines = screen(110, 6, &snapshot(), &View::new(None, true));
    assert_eq!(
        lines,
        [
            "fathom top  2 jobs                                                                        2026-11-25T01:41:00Z",
            "JOB               STATE     HEALTH   PHASE         DONE     LOSS TOKENS/S        LEFT LOSS OVER TIME",
            "tiny              running   watch    pretrain       42%    4.264    1.23k  3 min 05 s █▄▂▁",
            "old               succeeded healthy  pretrain       42%    4.264    1.23k  3 min 05 s █▄▂▁",
            "",
            "q quit  up/down choose  enter show  ? keys",
        ]
    );
}

#[test]
fn narrow_screens_keep_the_name() {
    for width in [40, 60, 84, 85, 109] {
        let lines = screen(width, 6, &snapshot(), &View::new(None, true));
        assert!(
            lines[2].starts_with("tiny ") && lines[2].contains("running") && lines[2].contains("4.264"),
            "{width}: {lines:?}"
        );
    }
}

#[test]
fn a_job_shows_verdict_vitals_map_events_and_log() {
    let view = View::new(Some("tiny".into()), false);
    for (width, height) in [(140, 40), (80, 40), (80, 24)] {
        let lines = screen(width, height, &snapshot(), &view);
        let all = lines.join("\n");
        let wanted = [
            "WATCH since 2026-11-25T01:40:14Z",
            "watch    The loss jumped (since step 41)",
            "Next: Wait",
            " Overview ",
            "Infrastructure",
        ];
        for wanted in wanted {
            assert!(all.contains(wanted), "{wanted:?} at {width} x {height}:\n{all}");
        }
        if height >= 40 {
            for wanted in ["0 ·▒▓█", "1 ▓▓▓▓", "event 29", "line of the log"] {
                assert!(all.contains(wanted), "{wanted:?} at {width} x {height}:\n{all}");
            }
        }
    }
}

#[test]
fn pages_scroll_from_the_newest() {
    let mut view = View {
        tab: Tab::Events,
        ..View::new(Some("tiny".into()), false)
    };
    let newest = screen(60, 16, &snapshot(), &view).join("\n");
    assert!(newest.contains("event 29") && !newest.contains("event 19"), "{newest}");
    view.scroll = 10;
    let older = screen(60, 16, &snapshot(), &view).join("\n");
    assert!(older.contains("event 19") && !older.contains("event 20"), "{older}");
}

#[test]
fn what_is_missing_is_said() {
    let mut snapshot = Snapshot {
        problem: Some("the server does not answer".into()),
        ..Snapshot::default()
    };
    let lines = screen(60, 5, &snapshot, &View::new(None, false));
    assert_eq!(lines[1], "No jobs yet. Start one with `fathom run FILE`.");
    assert_eq!(lines[4], "not up to date: the server does not answer");
    snapshot.detail = Some(Detail {
        row: row("x", "running", "no data"),
        ..Detail::default()
    });
    let lines = screen(80, 30, &snapshot, &View::new(Some("x".into()), false)).join("\n");
    assert!(lines.contains("No load of experts was measured yet."), "{lines}");
    let other = screen(80, 30, &snapshot, &View::new(Some("y".into()), false)).join("\n");
    assert!(other.contains("Reading") && !other.contains("NO DATA"), "{other}");
}

#[test]
fn every_size_is_drawn() {
    let mut view = View::new(Some("tiny".into()), true);
    view.help = true;
    for width in [1, 2, 7, 20, 60, 200] {
        for height in [1, 2, 5, 9, 30] {
            for (tab, _) in Tab::ALL {
                view.tab = tab;
                screen(width, height, &snapshot(), &view);
                screen(width, height, &snapshot(), &View::new(None, true));
            }
        }
    }
}

#[test]
fn the_keys_are_explained() {
    let mut view = View::new(None, false);
    view.help = true;
    let lines = screen(80, 20, &snapshot(), &view).join("\n");
    for (key, what) in KEYS {
        assert!(lines.contains(&format!("{key:<20}{what}")), "{lines}");
    }
}
