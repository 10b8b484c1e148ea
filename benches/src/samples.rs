//! Times of one case, and what is said of them.
//!
//! Owns the statistics. The invariant: medians and percentiles are samples that occurred (nearest
//! rank), and nothing measured is thrown away. Break it and outliers vanish from the report.

use std::time::Duration;

/// The times of one case by the rounds they were measured in.
#[derive(Default)]
pub struct Samples {
    rounds: Vec<Round>,
}

struct Round {
    number: usize,
    times_us: Vec<f64>,
}

/// In microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    pub count: usize,
    pub mean_us: f64,
    pub median_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
}

impl Samples {
    pub fn add_round(&mut self, number: usize, times: &[Duration]) {
        let times_us = times.iter().map(|time| time.as_secs_f64() * 1e6).collect();
        self.rounds.push(Round { number, times_us });
    }

    pub fn summary(&self) -> Summary {
        let all = sorted(self.rounds.iter().flat_map(|round| round.times_us.iter().copied()));
        Summary {
            count: all.len(),
            mean_us: all.iter().sum::<f64>() / all.len() as f64,
            median_us: rank(&all, 0.5),
            p99_us: rank(&all, 0.99),
            max_us: rank(&all, 1.0),
        }
    }

    /// The median of each round, in the order of the rounds.
    pub fn round_medians_us(&self) -> Vec<(usize, f64)> {
        let median = |round: &Round| rank(&sorted(round.times_us.iter().copied()), 0.5);
        self.rounds.iter().map(|round| (round.number, median(round))).collect()
    }
}

/// The value below which `part` of them lie, by nearest rank.
pub fn quantile(values: impl IntoIterator<Item = f64>, part: f64) -> f64 {
    rank(&sorted(values), part)
}

fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut all: Vec<f64> = values.into_iter().collect();
    all.sort_by(f64::total_cmp);
    all
}

fn rank(sorted: &[f64], part: f64) -> f64 {
    let place = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::{Samples, quantile};
    use std::time::Duration;

    #[test]
    fn percentiles_are_samples_that_occurred() {
        // An interpolated p99 of few samples is a time that nobody waited.
        let hundred = || (1..=100).map(f64::from);
        assert_eq!(quantile(hundred(), 0.5), 50.0);
        assert_eq!(quantile(hundred(), 0.99), 99.0);
        assert_eq!(quantile(hundred(), 1.0), 100.0);
        assert_eq!(quantile([7.0], 0.99), 7.0);
    }

    #[test]
    fn a_summary_spans_all_rounds() {
        // A summary of the last round alone would hide the drift that rounds are there for.
        let mut samples = Samples::default();
        samples.add_round(0, &[1, 2, 3].map(Duration::from_micros));
        samples.add_round(4, &[10, 20, 30].map(Duration::from_micros));
        let summary = samples.summary();
        assert_eq!((summary.count, summary.median_us.round()), (6, 3.0));
        assert_eq!(summary.max_us.round(), 30.0);
        let medians: Vec<_> =
            samples.round_medians_us().iter().map(|&(n, us)| (n, us.round())).collect();
        assert_eq!(medians, [(0, 2.0), (4, 20.0)]);
    }
}
