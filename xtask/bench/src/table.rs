//! Prints rows as a table and as JSON.

use serde_json::{Map, Value, json};

/// One measured value: the median of several runs, and its ratios to the other contestants.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// Our value against that of each other contestant; above 1 ours is better, with any unit.
    pub(crate) ratios: Vec<(&'static str, f64)>,
}

/// Prints rows as a table.
pub(crate) fn print(rows: &[Row]) {
    println!("{:<16} {:>9} {:<14} {:>9} {:>9}  better than", "", "", "", "min", "max");
    for row in rows {
        let ratios = row.ratios.iter().map(|(peer, ratio)| format!("{peer} {ratio:.2}"));
        println!(
            "{:<16} {:>9} {:<14} {:>9} {:>9}  {}",
            row.name,
            short(row.value),
            row.unit,
            short(row.min),
            short(row.max),
            ratios.collect::<Vec<_>>().join("  "),
        );
    }
}

/// Formats rows as a JSON list of objects.
pub(crate) fn json(rows: &[Row]) -> String {
    let rows = rows.iter().map(|row| {
        let ratios: Map<String, Value> =
            row.ratios.iter().map(|(peer, ratio)| ((*peer).to_owned(), json!(ratio))).collect();
        json!({
            "name": row.name, "value": row.value, "unit": row.unit,
            "min": row.min, "max": row.max, "ratios": ratios,
        })
    });
    format!("{:#}\n", Value::Array(rows.collect()))
}

fn short(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{:.1} M", v / 1e6),
        v if v >= 1e4 => format!("{:.0} k", v / 1e3),
        v => format!("{v:.1}"),
    }
}
