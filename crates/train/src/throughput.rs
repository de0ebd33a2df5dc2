//! How fast a training is, and how much of its time it waited for its data.

use crate::metrics::Metrics;
use crate::trainer::metrics;

/// A run back through a network does twice what the run through it did.
pub(crate) const FORWARD_AND_BACK: f64 = 3.0;
const TERA: f64 = 1e12;

/// Sums over the steps since the last line of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Throughput {
    seconds: f64,
    waited: f64,
    operations: f64,
}

impl Throughput {
    /// Counts a step of so many seconds, of which it waited some for its batch, and its operations, 0 if these are not
    /// counted.
    pub fn add(&mut self, seconds: f64, waited: f64, operations: f64) {
        self.seconds += seconds;
        self.waited += waited;
        self.operations += operations;
    }

    /// What the steps came to, and begins anew. `tflops` is over all of the time, waiting included; `peak_share` is its
    /// share of `peak` TFLOP/s; `waiting_share` is the share of the time that the loop waited for the world.
    pub fn take(&mut self, peak: Option<f64>) -> Metrics {
        let sums = std::mem::take(self);
        if sums.seconds <= 0.0 {
            return Metrics::new();
        }
        let mut found = metrics([("waiting_share", sums.waited / sums.seconds)]);
        if sums.operations > 0.0 {
            let rate = sums.operations / sums.seconds / TERA;
            found.extend(metrics([("tflops", rate)]));
            found.extend(peak.map(|peak| ("peak_share".into(), rate / peak)));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_all_steps_together() {
        let mut throughput = Throughput::default();
        assert!(throughput.take(Some(1.0)).is_empty());
        throughput.add(1.0, 0.0, 2e12);
        throughput.add(3.0, 1.0, 6e12);
        let found = throughput.take(Some(8.0));
        assert_eq!(found["tflops"], 2.0);
        assert_eq!(found["peak_share"], 0.25);
        assert_eq!(found["waiting_share"], 0.25);
        throughput.add(1.0, 0.5, 0.0);
        let found = throughput.take(None);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["waiting_share"]);
    }
}
