//! The types of the tables of workloads.

/// Workloads that are measured together.
#[derive(Copy, Clone)]
pub(crate) struct Group {
    pub(crate) name: &'static str,
    pub(crate) workloads: &'static [Workload],
}

/// One program in a version for each contestant. The first contestant is ours.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    /// The values that a run returns, in this order.
    pub(crate) metrics: &'static [Metric],
    pub(crate) contestants: &'static [(&'static str, Contestant)],
}

/// Runs the workload once, and returns a value for each metric.
pub(crate) type Contestant = fn() -> Vec<f64>;

/// The row, unit and direction of a value.
pub(crate) struct Metric {
    pub(crate) row: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
}

/// Whether the larger or the smaller value is better.
#[derive(Copy, Clone)]
pub(crate) enum Better {
    More,
    Less,
}

impl Better {
    /// How much better `ours` is than `theirs`; above 1 ours is better.
    pub(crate) fn ratio(self, ours: f64, theirs: f64) -> f64 {
        match self {
            Self::More => ours / theirs,
            Self::Less => theirs / ours,
        }
    }
}
