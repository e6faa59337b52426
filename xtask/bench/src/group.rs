//! What there is to measure, as tables of functions.

/// Workloads that are measured together.
#[derive(Copy, Clone)]
pub(crate) struct Group {
    pub(crate) name: &'static str,
    pub(crate) workloads: &'static [Workload],
}

/// One program, written once for each contestant. The first contestant is ours.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    /// What a run measures, in this order.
    pub(crate) metrics: &'static [Metric],
    pub(crate) contestants: &'static [(&'static str, Contestant)],
}

/// Runs the workload once, and answers a value for each metric.
pub(crate) type Contestant = fn() -> Vec<f64>;

/// What a value means.
pub(crate) struct Metric {
    pub(crate) row: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
}

/// Which of two values wins.
#[derive(Copy, Clone)]
pub(crate) enum Better {
    More,
    Less,
}

impl Better {
    /// How much better `ours` is than `theirs`: above 1 we win.
    pub(crate) fn ratio(self, ours: f64, theirs: f64) -> f64 {
        match self {
            Self::More => ours / theirs,
            Self::Less => theirs / ours,
        }
    }
}
