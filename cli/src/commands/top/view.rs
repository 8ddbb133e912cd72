//! Where the user is, and how keys change that. Pure.

use super::snapshot::Snapshot;
use ratatui::crossterm::event::KeyCode;

/// What a job is shown as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tab {
    /// A little of everything.
    #[default]
    Overview,
    /// The map of layers and experts.
    Experts,
    /// What happened.
    Events,
    /// What the workers printed.
    Log,
}

impl Tab {
    /// All of them, in order.
    pub const ALL: [(Self, &str); 4] = [
        (Self::Overview, "Overview"),
        (Self::Experts, "Experts"),
        (Self::Events, "Events"),
        (Self::Log, "Log"),
    ];

    fn moved(self, by: usize) -> Self {
        let place = Self::ALL.iter().position(|(tab, _)| *tab == self).unwrap_or(0);
        Self::ALL[(place + by) % Self::ALL.len()].0
    }
}

/// Where the user is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The job that is shown; without it, the list of jobs.
    pub job: Option<String>,
    /// Place in the list of jobs.
    pub selected: usize,
    /// What the job is shown as.
    pub tab: Tab,
    /// Lines below the first one that is shown; of events and log, above the last one.
    pub scroll: usize,
    /// The keys are explained.
    pub help: bool,
    /// Colours may be used.
    pub colour: bool,
}

/// What a key leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// The screen is drawn again.
    Stay,
    /// The end.
    Quit,
    /// Another job, or none, is shown from now on.
    Watch(Option<String>),
}

impl View {
    /// The first view.
    pub fn new(job: Option<String>, colour: bool) -> Self {
        Self {
            job,
            colour,
            ..Self::default()
        }
    }

    /// A key.
    pub fn press(&mut self, key: KeyCode, snapshot: &Snapshot) -> Next {
        if self.help {
            // Whatever it is, it closes the help.
            self.help = false;
            return if key == KeyCode::Char('q') { Next::Quit } else { Next::Stay };
        }
        match key {
            KeyCode::Char('q') => return Next::Quit,
            KeyCode::Char('?' | 'h') => self.help = true,
            KeyCode::Esc | KeyCode::Backspace | KeyCode::Left if self.job.is_some() => {
                (self.job, self.scroll) = (None, 0);
                return Next::Watch(None);
            }
            KeyCode::Enter | KeyCode::Right if self.job.is_none() => {
                if let Some(job) = snapshot.jobs.get(self.selected) {
                    (self.job, self.tab, self.scroll) = (Some(job.name.clone()), Tab::Overview, 0);
                    return Next::Watch(self.job.clone());
                }
            }
            KeyCode::Tab if self.job.is_some() => (self.tab, self.scroll) = (self.tab.moved(1), 0),
            KeyCode::BackTab if self.job.is_some() => (self.tab, self.scroll) = (self.tab.moved(Tab::ALL.len() - 1), 0),
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            KeyCode::PageUp => self.step(-10),
            KeyCode::PageDown => self.step(10),
            _ => {}
        }
        self.fit(snapshot);
        Next::Stay
    }

    fn step(&mut self, by: isize) {
        match (&self.job, self.tab) {
            (None, _) => self.selected = self.selected.saturating_add_signed(by),
            // The newest line is the last: up goes away from it.
            (Some(_), Tab::Events | Tab::Log) => self.scroll = self.scroll.saturating_add_signed(-by),
            (Some(_), Tab::Overview | Tab::Experts) => self.scroll = self.scroll.saturating_add_signed(by),
        }
    }

    /// Stays within what there is.
    pub fn fit(&mut self, snapshot: &Snapshot) {
        self.selected = self.selected.min(snapshot.jobs.len().saturating_sub(1));
        let lines = snapshot.detail.as_ref().map_or(0, |detail| match self.tab {
            Tab::Overview => 0,
            Tab::Experts => detail.map.as_ref().map_or(0, |map| map.load.rows().count()),
            Tab::Events => detail.events.len(),
            Tab::Log => detail.lines.len(),
        });
        self.scroll = self.scroll.min(lines.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::{Detail, JobRow};
    use super::*;

    fn snapshot() -> Snapshot {
        let row = |name: &str| JobRow {
            name: name.into(),
            ..JobRow::default()
        };
        Snapshot {
            jobs: vec![row("a"), row("b")],
            detail: Some(Detail {
                row: row("b"),
                events: vec![(String::new(), String::new()); 3],
                ..Detail::default()
            }),
            ..Snapshot::default()
        }
    }

    #[test]
    fn keys_lead_to_a_job_and_back() {
        let (snapshot, mut view) = (snapshot(), View::new(None, false));
        for _ in 0..5 {
            assert_eq!(view.press(KeyCode::Down, &snapshot), Next::Stay);
        }
        assert_eq!(view.selected, 1);
        assert_eq!(view.press(KeyCode::Enter, &snapshot), Next::Watch(Some("b".into())));
        view.press(KeyCode::Tab, &snapshot);
        view.press(KeyCode::Tab, &snapshot);
        assert_eq!(view.tab, Tab::Events);
        for _ in 0..9 {
            view.press(KeyCode::Up, &snapshot);
        }
        assert_eq!(view.scroll, 2);
        view.press(KeyCode::BackTab, &snapshot);
        assert_eq!((view.tab, view.scroll), (Tab::Experts, 0));
        assert_eq!(view.press(KeyCode::Esc, &snapshot), Next::Watch(None));
        assert_eq!(view.job, None);
    }

    #[test]
    fn help_closes_with_any_key() {
        let (snapshot, mut view) = (snapshot(), View::new(None, false));
        view.press(KeyCode::Char('?'), &snapshot);
        assert!(view.help);
        view.press(KeyCode::Down, &snapshot);
        assert_eq!((view.help, view.selected), (false, 0));
        assert_eq!(view.press(KeyCode::Char('q'), &snapshot), Next::Quit);
    }
}
