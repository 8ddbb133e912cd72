//! Load of the experts, layer by layer.

use super::detection::Load;
use super::thresholds::BalanceThresholds;
use super::window::Window;

/// Windows that a rise is looked for in.
const RISE_BLOCKS: usize = 4;
/// A limit is broken by so large a share of the steps of a window, so that one quiet step does not hide a sustained imbalance.
const SUSTAINED: f64 = 0.9;
/// A rise that ends below this is of no interest.
const RISE_FROM: f64 = 0.5;

/// A layer above a limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Over {
    pub(super) layer: usize,
    /// Mean MaxVio over the window.
    pub(super) mean: f64,
    /// Whether it is above the limit of failing.
    pub(super) failing: bool,
    /// First step of the window.
    pub(super) since: u64,
}

/// MaxVio rising in several layers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rising {
    pub(super) layers: usize,
    /// The layer that rose most.
    pub(super) layer: usize,
    /// Its mean MaxVio in the first block.
    pub(super) from: f64,
    /// Its mean MaxVio in the last block.
    pub(super) to: f64,
    /// Last step of the first block.
    pub(super) since: u64,
}

/// An expert without tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Dead {
    pub(super) layer: usize,
    pub(super) expert: usize,
    /// Experts of the layer that are dead.
    pub(super) count: usize,
    /// First step without a token.
    pub(super) since: u64,
}

/// MaxVio of the layers on recent steps, and since when experts are idle.
#[derive(Clone, Debug)]
pub(super) struct Balance {
    rows: usize,
    columns: usize,
    /// MaxVio per layer; NaN where the layer got too few tokens to be judged.
    recent: Window<Vec<f32>>,
    /// Of `recent`, per layer.
    sums: Vec<Sums>,
    block: Vec<Sums>,
    block_steps: u32,
    /// Mean MaxVio per layer of whole windows, by their last step.
    blocks: Window<Vec<f64>>,
    rising: Option<Rising>,
    /// First step without a token, per layer and expert; 0 for an expert that has some.
    idle: Vec<u64>,
    /// Idle experts per layer, so that layers without any are skipped.
    idle_count: Vec<usize>,
    dead: Vec<Dead>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    judged: u32,
    total: f64,
    over_watch: u32,
    over_failing: u32,
}

impl Sums {
    fn count(&mut self, violation: f32, add: bool, t: &BalanceThresholds) {
        let violation = f64::from(violation);
        if violation.is_nan() {
            return;
        }
        let (watch, failing) = (violation > t.watch_max_violation, violation > t.failing_max_violation);
        if add {
            self.judged += 1;
            self.total += violation;
            self.over_watch += u32::from(watch);
            self.over_failing += u32::from(failing);
        } else {
            self.judged -= 1;
            self.total -= violation;
            self.over_watch -= u32::from(watch);
            self.over_failing -= u32::from(failing);
        }
    }

    fn mean(&self) -> f64 {
        self.total / f64::from(self.judged)
    }
}

impl Balance {
    pub(super) fn new(t: &BalanceThresholds) -> Self {
        Self {
            rows: 0,
            columns: 0,
            recent: Window::new(t.window as usize),
            sums: Vec::new(),
            block: Vec::new(),
            block_steps: 0,
            blocks: Window::new(RISE_BLOCKS),
            rising: None,
            idle: Vec::new(),
            idle_count: Vec::new(),
            dead: Vec::new(),
        }
    }

    pub(super) fn observe(&mut self, step: u64, load: Load<'_>, t: &BalanceThresholds) {
        self.dead.clear();
        if step <= u64::from(t.warmup_steps) || load.columns == 0 || load.values.len() != load.rows * load.columns {
            return;
        }
        if (self.rows, self.columns) != (load.rows, load.columns) {
            self.reshape(load.rows, load.columns, t);
        }
        let mut violations = Vec::with_capacity(self.rows);
        for (layer, tokens) in load.values.chunks_exact(load.columns).enumerate() {
            let (total, largest, smallest) = extremes(tokens);
            let mean = total / load.columns as f64;
            // Also false for counts that are no numbers.
            let judged = mean >= t.min_tokens_per_expert && mean > 0.0 && mean.is_finite();
            violations.push(if judged {
                (f64::from(largest) / mean - 1.0) as f32
            } else {
                f32::NAN
            });
            if judged && (smallest <= 0.0 || self.idle_count[layer] > 0) {
                self.track_idle(step, layer, tokens, u64::from(t.dead_steps));
            }
        }
        for (sums, violation) in self.sums.iter_mut().zip(&violations) {
            sums.count(*violation, true, t);
        }
        for (sums, violation) in self.block.iter_mut().zip(&violations) {
            sums.count(*violation, true, t);
        }
        if let Some(left) = self.recent.push(step, violations) {
            for (sums, violation) in self.sums.iter_mut().zip(left) {
                sums.count(violation, false, t);
            }
        }
        self.block_steps += 1;
        if self.block_steps >= t.window {
            self.blocks.push(step, self.block.iter().map(Sums::mean).collect());
            self.reset_block();
            self.rising = self.find_rise(t);
        }
    }

    fn reshape(&mut self, rows: usize, columns: usize, t: &BalanceThresholds) {
        *self = Self {
            rows,
            columns,
            sums: vec![Sums::default(); rows],
            block: vec![Sums::default(); rows],
            idle: vec![0; rows * columns],
            idle_count: vec![0; rows],
            ..Self::new(t)
        };
    }

    fn track_idle(&mut self, step: u64, layer: usize, tokens: &[f32], dead_steps: u64) {
        let idle = &mut self.idle[layer * self.columns..][..self.columns];
        let mut count = 0;
        let mut dead: Option<Dead> = None;
        for (expert, (since, tokens)) in idle.iter_mut().zip(tokens).enumerate() {
            if *tokens > 0.0 {
                *since = 0;
                continue;
            }
            if *since == 0 {
                *since = step;
            }
            count += 1;
            if step - *since + 1 >= dead_steps {
                match &mut dead {
                    Some(dead) => dead.count += 1,
                    None => {
                        dead = Some(Dead {
                            layer,
                            expert,
                            count: 1,
                            since: *since,
                        });
                    }
                }
            }
        }
        self.idle_count[layer] = count;
        self.dead.extend(dead);
    }

    fn find_rise(&self, t: &BalanceThresholds) -> Option<Rising> {
        if !self.blocks.is_full() {
            return None;
        }
        let means = |layer: usize| self.blocks.iter().map(move |(_, block)| block[layer]);
        let rise = |layer: &usize| {
            let ends = means(*layer).next()?..means(*layer).next_back()?;
            // Comparisons with the NaN of a layer that is not judged are false.
            let grows = means(*layer).zip(means(*layer).skip(1)).all(|(before, after)| after > before);
            (grows && ends.end - ends.start >= t.rise && ends.end >= RISE_FROM).then_some((*layer, ends))
        };
        let rising: Vec<_> = (0..self.rows).filter_map(|layer| rise(&layer)).collect();
        let enough = (t.rise_layers as usize).min(self.rows).max(1);
        let most = rising
            .iter()
            .max_by(|(_, a), (_, b)| (a.end - a.start).total_cmp(&(b.end - b.start)));
        most.filter(|_| rising.len() >= enough).map(|(layer, ends)| Rising {
            layers: rising.len(),
            layer: *layer,
            from: ends.start,
            to: ends.end,
            since: self.blocks.first_step().unwrap_or(0),
        })
    }

    /// Layers that are above a limit now.
    pub(super) fn over(&self) -> impl Iterator<Item = Over> {
        let enough = (SUSTAINED * self.recent.len() as f64).ceil() as u32;
        let full = self.recent.is_full();
        let since = self.recent.first_step().unwrap_or(0);
        let over = move |(_, sums): &(usize, &Sums)| full && sums.over_watch >= enough;
        self.sums.iter().enumerate().filter(over).map(move |(layer, sums)| Over {
            layer,
            mean: sums.mean(),
            failing: sums.over_failing >= enough,
            since,
        })
    }

    /// The rise that the last whole windows show.
    pub(super) const fn rising(&self) -> Option<Rising> {
        self.rising
    }

    /// The dead experts of the last step, one entry per layer.
    pub(super) fn dead(&self) -> &[Dead] {
        &self.dead
    }

    /// The layer with the highest mean MaxVio over the window, its mean and the steps that it was judged on.
    pub(super) fn worst(&self) -> Option<(usize, f64, u32)> {
        let judged = self.sums.iter().enumerate().filter(|(_, sums)| sums.judged > 0);
        let worst = judged.max_by(|(_, a), (_, b)| a.mean().total_cmp(&b.mean()))?;
        Some((worst.0, worst.1.mean(), worst.1.judged))
    }

    /// Forgets the steps after `step`.
    pub(super) fn truncate(&mut self, step: u64, t: &BalanceThresholds) {
        self.recent.truncate(step);
        self.sums.fill(Sums::default());
        for (_, violations) in self.recent.iter() {
            for (sums, violation) in self.sums.iter_mut().zip(violations) {
                sums.count(*violation, true, t);
            }
        }
        self.blocks.truncate(step);
        self.reset_block();
        self.rising = None;
        // An expert that is idle since before is still idle; one that was idle then and is not now is forgotten, which delays a detection.
        for since in self.idle.iter_mut().filter(|since| **since > step) {
            *since = 0;
        }
        self.dead.clear();
    }

    fn reset_block(&mut self) {
        self.block.fill(Sums::default());
        self.block_steps = 0;
    }
}

/// Sum, maximum and minimum. Eight lanes, because one running sum would wait for each addition: a step has 15,000 values at full size.
fn extremes(values: &[f32]) -> (f64, f32, f32) {
    let mut sums = [0.0f32; 8];
    let mut largest = [f32::NEG_INFINITY; 8];
    let mut smallest = [f32::INFINITY; 8];
    let chunks = values.chunks_exact(8);
    let rest = chunks.remainder();
    for chunk in chunks {
        for lane in 0..8 {
            sums[lane] += chunk[lane];
            largest[lane] = largest[lane].max(chunk[lane]);
            smallest[lane] = smallest[lane].min(chunk[lane]);
        }
    }
    for (lane, value) in rest.iter().enumerate() {
        sums[lane] += value;
        largest[lane] = largest[lane].max(*value);
        smallest[lane] = smallest[lane].min(*value);
    }
    (
        sums.iter().map(|sum| f64::from(*sum)).sum(),
        largest.into_iter().fold(f32::NEG_INFINITY, f32::max),
        smallest.into_iter().fold(f32::INFINITY, f32::min),
    )
}
