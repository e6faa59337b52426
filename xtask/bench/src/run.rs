//! Runs workloads, each measurement in a process of its own.
//!
//! Contestants take turns: ours, the other library, the bound, ours, .. A ratio is the median of the ratios of the rounds,
//! so it compares runs that were seconds apart. A run that fails costs its own ratio in that round; a contestant that fails in all
//! rounds has no ratio.

use std::error::Error;
use std::process::Command;

use crate::group::{Group, Metric, Workload};
use crate::table::Row;
use crate::{Options, files};

/// Runs one measurement, and prints its values.
pub(crate) fn one(groups: &[Group], names: &[String]) -> Result<(), Box<dyn Error>> {
    let [group, workload, contestant] = names else {
        return Err("--one needs a group, a workload and a contestant".into());
    };
    let group = groups.iter().find(|g| g.name == *group).ok_or("no group has this name")?;
    let workload = group
        .workloads
        .iter()
        .find(|w| w.name == *workload)
        .ok_or("the group has no workload of this name")?;
    let found = workload.contestants.iter().find(|(name, _)| name == contestant);
    let (_, contestant) = found.ok_or("the workload has no contestant of this name")?;
    for value in contestant() {
        println!("{value}");
    }
    Ok(())
}

/// Measures the workloads of a group that `--only` selects.
pub(crate) fn group(group: &Group, options: &Options) -> Result<Vec<Row>, Box<dyn Error>> {
    let mut rows = Vec::new();
    for workload in group.workloads.iter().filter(|w| w.name.starts_with(&options.only)) {
        eprintln!("{} {} ..", group.name, workload.name);
        let taken = if options.peers { workload.contestants.len() } else { 1 };
        // Values by contestant, then by round, then by metric.
        let mut values = vec![Vec::new(); taken];
        for _ in 0..options.rounds.max(1) {
            for ((name, _), values) in workload.contestants.iter().zip(&mut values) {
                let measured = in_new_process(group.name, workload, name, options.mib);
                values.push(measured.inspect_err(|error| eprintln!("{error}")).ok());
            }
        }
        let found = workload.metrics.iter().enumerate();
        rows.extend(found.filter_map(|(at, metric)| row(workload, metric, at, &values)));
    }
    Ok(rows)
}

/// The values of the rounds of one contestant; `None` for a run that failed.
type Rounds = Vec<Option<Vec<f64>>>;

fn in_new_process(
    group: &str,
    workload: &Workload,
    contestant: &str,
    mib: u64,
) -> Result<Vec<f64>, Box<dyn Error>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--one", group, workload.name, contestant]).env(files::MIB, mib.to_string());
    let output = command.output()?;
    let text = String::from_utf8(output.stdout)?;
    let values: Vec<f64> = text.lines().map(str::parse).collect::<Result<_, _>>()?;
    if !output.status.success() || values.len() != workload.metrics.len() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{} by {contestant} failed: {}\n{errors}", workload.name, output.status).into());
    }
    Ok(values)
}

/// The row of a metric; `None` if each of our runs has failed.
fn row(workload: &Workload, metric: &Metric, at: usize, values: &[Rounds]) -> Option<Row> {
    let of = |contestant: usize| values[contestant].iter().map(|round| round.as_ref().map(|round| round[at]));
    let ours: Vec<f64> = of(0).flatten().collect();
    let ratios = (1..values.len()).filter_map(|peer| {
        let both = of(0).zip(of(peer)).filter_map(|(ours, theirs)| ours.zip(theirs));
        let ratios = both.map(|(ours, theirs)| metric.better.ratio(ours, theirs));
        Some((workload.contestants[peer].0, median(ratios.collect())?))
    });
    Some(Row {
        name: metric.row,
        unit: metric.unit,
        ratios: ratios.collect(),
        min: ours.iter().copied().fold(f64::INFINITY, f64::min),
        max: ours.iter().copied().fold(0.0, f64::max),
        value: median(ours)?,
    })
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::Better;

    #[test]
    fn failed_runs_cost_their_own_ratio_only() {
        const METRIC: Metric = Metric { row: "row", unit: "x", better: Better::More };
        const WORKLOAD: Workload = Workload {
            name: "work",
            metrics: &[METRIC],
            contestants: &[("ours", Vec::new), ("peer", Vec::new), ("broken", Vec::new)],
        };
        let ran = |values: [Option<f64>; 3]| values.map(|value| value.map(|value| vec![value])).to_vec();
        let (ours, peer) = (ran([Some(4.0), Some(6.0), None]), ran([Some(2.0), None, Some(1.0)]));
        let broken = ran([None, None, None]);
        let found = row(&WORKLOAD, &METRIC, 0, &[ours, peer.clone(), broken.clone()]).expect("ours has run");
        assert_eq!((found.value, found.min, found.max), (6.0, 4.0, 6.0));
        assert_eq!(found.ratios, [("peer", 2.0)]);
        assert!(row(&WORKLOAD, &METRIC, 0, &[broken, peer.clone(), peer]).is_none());
    }
}
