//! The screen as a function of what is known and of where the user is.

use super::map;
use super::snapshot::{Detail, JobRow, Snapshot, Tile};
use super::view::{Tab, View};
use crate::commands::health::curve;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Row, Table, TableState, Wrap};

/// Columns from which vital signs and map are side by side.
const WIDE: u16 = 110;
/// Columns from which the list of jobs has room for all but the curve.
const MEDIUM: u16 = 85;
/// Columns of the vital signs beside a map.
const VITALS: u16 = 76;
/// Columns of the vital signs without their curves.
const VITALS_TEXT: u16 = 53;
/// Characters of a curve in the list of jobs.
const CURVE: usize = 24;
/// The list of jobs: heading, whether it holds numbers, and width.
const COLUMNS: [(&str, bool, Constraint); 9] = [
    ("JOB", false, Constraint::Fill(1)),
    ("STATE", false, Constraint::Length(9)),
    ("HEALTH", false, Constraint::Length(8)),
    ("PHASE", false, Constraint::Length(12)),
    ("DONE", true, Constraint::Length(5)),
    ("LOSS", true, Constraint::Length(8)),
    ("TOKENS/S", true, Constraint::Length(8)),
    ("LEFT", true, Constraint::Length(11)),
    ("LOSS OVER TIME", false, Constraint::Length(CURVE as u16)),
];
/// The widest column.
const CURVE_COLUMN: usize = 8;
/// Columns for a narrow screen.
const NARROW_COLUMNS: [usize; 5] = [0, 1, 2, 4, 5];
/// The keys, as the help shows them.
const KEYS: [(&str, &str); 8] = [
    ("q", "quit"),
    ("?", "this help"),
    ("up, down", "choose a job; move in lists"),
    ("page up, page down", "move by ten"),
    ("enter", "show the chosen job"),
    ("esc", "back to the jobs"),
    ("tab", "next page of a job"),
    ("shift tab", "page before"),
];

/// Draws everything.
pub fn draw(frame: &mut Frame<'_>, snapshot: &Snapshot, view: &View) {
    let [title, body, foot] = Layout::vertical([Constraint::Length(1), Constraint::Min(1), Constraint::Length(1)]).areas(frame.area());
    let left = match &view.job {
        Some(job) => format!("fathom top  {job}"),
        None if snapshot.jobs.len() == 1 => "fathom top  1 job".to_owned(),
        None => format!("fathom top  {} jobs", snapshot.jobs.len()),
    };
    let bold = Style::new().add_modifier(Modifier::BOLD);
    frame.render_widget(Line::styled(left, bold), title);
    frame.render_widget(Line::raw(snapshot.time.as_str()).right_aligned(), title);
    match (&view.job, &snapshot.detail) {
        (None, _) => jobs(frame, body, snapshot, view),
        // What is known may still be about the job that was shown before.
        (Some(name), Some(detail)) if detail.row.name == *name => job(frame, body, detail, view),
        (Some(_), _) => frame.render_widget(Paragraph::new("Reading…"), body),
    }
    let foot_line = match &snapshot.problem {
        Some(problem) => Line::styled(format!("not up to date: {problem}"), tint("error", view)),
        None if view.job.is_some() => Line::raw("q quit  tab page  up/down move  esc jobs  ? keys"),
        None => Line::raw("q quit  up/down choose  enter show  ? keys"),
    };
    frame.render_widget(foot_line, foot);
    if view.help {
        help(frame);
    }
}

fn jobs(frame: &mut Frame<'_>, area: Rect, snapshot: &Snapshot, view: &View) {
    if snapshot.jobs.is_empty() {
        frame.render_widget(Paragraph::new("No jobs yet. Start one with `fathom run FILE`."), area);
        return;
    }
    let kept = |index: &usize| match area.width {
        WIDE.. => true,
        MEDIUM.. => *index != CURVE_COLUMN,
        _ => NARROW_COLUMNS.contains(index),
    };
    let rows = snapshot.jobs.iter().map(|job| {
        let JobRow {
            name,
            state,
            verdict,
            phase,
            progress,
            loss,
            speed,
            left,
            curve: points,
        } = job;
        let cells = [
            Line::raw(name.as_str()),
            Line::styled(state.as_str(), tint(state, view)),
            Line::styled(verdict.as_str(), tint(verdict, view)),
            Line::raw(phase.as_str()),
            Line::raw(percent(*progress)).right_aligned(),
            Line::raw(loss.as_str()).right_aligned(),
            Line::raw(speed.as_str()).right_aligned(),
            Line::raw(left.as_str()).right_aligned(),
            Line::raw(curve(points, CURVE)),
        ];
        Row::new(cells.into_iter().enumerate().filter(|(index, _)| kept(index)).map(|(_, cell)| cell))
    });
    let columns = COLUMNS
        .iter()
        .enumerate()
        .filter(|(index, _)| kept(index))
        .map(|(_, column)| column);
    let heads = columns.clone().map(|(head, number, _)| {
        if *number {
            Line::raw(*head).right_aligned()
        } else {
            Line::raw(*head)
        }
    });
    let table = Table::new(rows, columns.map(|(.., width)| *width))
        .header(Row::new(heads).style(Style::new().add_modifier(Modifier::DIM)))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::new().with_selected(view.selected);
    frame.render_stateful_widget(table, area, &mut state);
}

fn job(frame: &mut Frame<'_>, area: Rect, detail: &Detail, view: &View) {
    let reasons = detail.reasons.len().min(3) as u16;
    let heights = [Constraint::Length(3 + reasons), Constraint::Length(1), Constraint::Min(1)];
    let [head, tabs, body] = Layout::vertical(heights).areas(area);
    verdict(frame, head, detail, view);
    let titles = Tab::ALL.iter().flat_map(|(tab, title)| {
        let style = if *tab == view.tab {
            Style::new().add_modifier(Modifier::REVERSED)
        } else {
            Style::new()
        };
        [Span::styled(format!(" {title} "), style), Span::raw(" ")]
    });
    frame.render_widget(Line::from_iter(titles), tabs);
    match view.tab {
        Tab::Overview => overview(frame, body, detail, view),
        Tab::Experts => experts(frame, body, detail, view),
        Tab::Events => tail(frame, body, "Events", &detail.events, view),
        Tab::Log => tail(frame, body, "Log", &detail.lines, view),
    }
}

fn verdict(frame: &mut Frame<'_>, area: Rect, detail: &Detail, view: &View) {
    let row = &detail.row;
    let bold = |style: Style| style.add_modifier(Modifier::BOLD);
    let since = if detail.since.is_empty() {
        String::new()
    } else {
        format!(" since {}", detail.since)
    };
    let mut lines = vec![
        Line::from(vec![
            Span::styled(row.verdict.to_uppercase(), bold(tint(&row.verdict, view))),
            Span::raw(since),
        ]),
        Line::from(vec![
            Span::styled(row.state.clone(), tint(&row.state, view)),
            Span::raw(format!(
                "  {}  {}  loss {}  {} tokens/s  left {}",
                if row.phase.is_empty() { "-" } else { &row.phase },
                percent(row.progress),
                row.loss,
                row.speed,
                row.left
            )),
        ]),
    ];
    for (severity, text) in detail.reasons.iter().take(3) {
        lines.push(Line::from(vec![
            Span::styled(format!("{severity:<8} "), tint(severity, view)),
            Span::raw(text.as_str()),
        ]));
    }
    lines.push(Line::raw(format!("Next: {}", detail.next)));
    frame.render_widget(Paragraph::new(lines), area);
}

fn overview(frame: &mut Frame<'_>, area: Rect, detail: &Detail, view: &View) {
    let vitals_height = detail.tiles.len() as u16 + 2;
    if area.width >= WIDE {
        let [top, bottom] = Layout::vertical([Constraint::Length(vitals_height.max(10)), Constraint::Min(3)]).areas(area);
        let [left, right] = Layout::horizontal([Constraint::Length(VITALS), Constraint::Min(20)]).areas(top);
        vitals(frame, left, &detail.tiles, view);
        experts(frame, right, detail, view);
        happened(frame, bottom, detail, view);
    } else {
        let heights = [Constraint::Length(vitals_height), Constraint::Max(8), Constraint::Min(3)];
        let [top, middle, bottom] = Layout::vertical(heights).areas(area);
        vitals(frame, top, &detail.tiles, view);
        experts(frame, middle, detail, view);
        happened(frame, bottom, detail, view);
    }
}

fn vitals(frame: &mut Frame<'_>, area: Rect, tiles: &[Tile], view: &View) {
    // The newest value is the last of the curve: it must not be cut.
    let room = usize::from(area.width.saturating_sub(VITALS_TEXT));
    let rows = tiles.iter().map(|tile| {
        let Tile {
            title,
            value,
            state,
            change,
            rule: _,
            curve: points,
        } = tile;
        Row::new([
            Line::raw(title.as_str()),
            Line::styled(state.as_str(), tint(state, view)),
            Line::raw(value.as_str()),
            Line::raw(change.as_str()).right_aligned(),
            Line::raw(curve(points, room)),
        ])
    });
    let widths = [
        Constraint::Length(14),
        Constraint::Length(8),
        Constraint::Length(18),
        Constraint::Length(7),
        Constraint::Fill(1),
    ];
    frame.render_widget(Table::new(rows, widths).block(Block::bordered().title("Vital signs")), area);
}

fn experts(frame: &mut Frame<'_>, area: Rect, detail: &Detail, view: &View) {
    let block = Block::bordered().title("Load of layers and experts");
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let Some(load) = &detail.map else {
        frame.render_widget(Paragraph::new("No load of experts was measured yet."), inner);
        return;
    };
    let width = usize::from(inner.width);
    let legend = Paragraph::new(map::legend(load, width)).wrap(Wrap { trim: true });
    let [top, bottom] = Layout::vertical([Constraint::Min(1), Constraint::Length(2)]).areas(inner);
    frame.render_widget(legend, bottom);
    let lines: Vec<Line<'_>> = map::lines(load, width, view.colour).into_iter().skip(view.scroll).collect();
    frame.render_widget(Paragraph::new(lines), top);
}

/// The newest events, or the newest lines of the log if there are no events.
fn happened(frame: &mut Frame<'_>, area: Rect, detail: &Detail, view: &View) {
    if detail.lines.is_empty() || area.height < 8 {
        tail(frame, area, "Events", &detail.events, view);
        return;
    }
    let [events, log] = Layout::vertical([Constraint::Fill(1), Constraint::Fill(1)]).areas(area);
    tail(frame, events, "Events", &detail.events, view);
    tail(frame, log, "Log", &detail.lines, view);
}

/// The last lines that fit, above those that were scrolled past.
fn tail(frame: &mut Frame<'_>, area: Rect, title: &str, lines: &[(String, String)], view: &View) {
    let block = Block::bordered().title(title.to_owned());
    let inner = block.inner(area);
    let end = lines.len().saturating_sub(view.scroll);
    let start = end.saturating_sub(usize::from(inner.height));
    let shown: Vec<Line<'_>> = lines[start..end]
        .iter()
        .map(|(severity, line)| Line::styled(line.as_str(), tint(severity, view)))
        .collect();
    frame.render_widget(Paragraph::new(shown).block(block), area);
}

fn help(frame: &mut Frame<'_>) {
    let lines: Vec<Line<'_>> = KEYS.iter().map(|(key, what)| Line::raw(format!("{key:<20}{what}"))).collect();
    let area = frame
        .area()
        .centered(Constraint::Length(54), Constraint::Length(lines.len() as u16 + 2));
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title("Keys")), area);
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.0}%", share * 100.0))
}

/// The colour of a word. The word itself says the same: without colour nothing is lost.
fn tint(word: &str, view: &View) -> Style {
    let colour = match word {
        _ if !view.colour => return Style::new(),
        "healthy" | "succeeded" => Color::Green,
        "running" => Color::Cyan,
        "watch" | "warning" | "paused" | "stopped" => Color::Yellow,
        "failing" | "stalled" | "failed" | "error" => Color::Red,
        _ => return Style::new(),
    };
    Style::new().fg(colour)
}

#[cfg(test)]
#[path = "draw_tests.rs"]
mod tests;
