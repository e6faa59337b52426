//! Runs workloads, each measurement in a process of its own.
//!
//! Contestants take turns: ours, the other library, the bound, ours, .. A ratio is the median of the ratios of the rounds,
//! so it compares runs that were seconds apart.

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
                values.push(in_new_process(group.name, workload, name, options.mib)?);
            }
        }
        let found = workload.metrics.iter().enumerate();
        rows.extend(found.map(|(at, metric)| row(workload, metric, at, &values)));
    }
    Ok(rows)
}

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

fn row(workload: &Workload, metric: &Metric, at: usize, values: &[Vec<Vec<f64>>]) -> Row {
    let of = |contestant: usize| values[contestant].iter().map(|round| round[at]).collect::<Vec<f64>>();
    let ours = of(0);
    let ratios = (1..values.len()).map(|peer| {
        let ratios = ours.iter().zip(of(peer)).map(|(ours, theirs)| metric.better.ratio(*ours, theirs));
        (workload.contestants[peer].0, median(ratios.collect()))
    });
    Row {
        name: metric.row,
        unit: metric.unit,
        ratios: ratios.collect(),
        min: ours.iter().copied().fold(f64::INFINITY, f64::min),
        max: ours.iter().copied().fold(0.0, f64::max),
        value: median(ours),
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
