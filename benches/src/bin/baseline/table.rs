//! Prints the results.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use benches::running::Outcome;

use crate::rows::{Group, ROWS, Row};
use crate::{Agent, Cell, Results};

/// Prints the head: date, machine and the names of the agents.
pub(crate) fn head(agents: &[Agent]) {
    let (kernel, load, date) = machine();
    println!("{date} · Linux {kernel} · load average {load}");
    let names: String = agents.iter().map(|agent| format!("{:>14}", agent.name)).collect();
    println!("{:<62}{names}{:>8}{:>12}", "", "ratio", "aim");
}

/// Prints the rows of a group.
pub(crate) fn rows(group: &Group, agents: &[Agent], results: &[Results]) {
    for row in ROWS.iter().filter(|row| row.group() == group.id) {
        let cells: Vec<Option<&Cell>> = results.iter().map(|results| results.get(row.id)).collect();
        let texts: String = cells.iter().map(|cell| format!("{:>14}", text(row, *cell))).collect();
        let aim = row.aim.map_or_else(String::new, |aim| value(row, aim));
        println!("{:<62}{texts}{:>8}{aim:>12}", row.title, ratio(&cells));
    }
    for (agent, results) in agents.iter().zip(results) {
        let cells = ROWS.iter().filter(|row| row.group() == group.id).filter_map(|row| results.get(row.id));
        let failures: BTreeSet<&String> = cells.flat_map(|cell| &cell.failures).collect();
        failures.iter().for_each(|failure| println!("    {}: {failure}", agent.name));
    }
}

/// The ratio of the first agent's median to the second's.
fn ratio(cells: &[Option<&Cell>]) -> String {
    let median = |number: usize| cells.get(number).copied().flatten().and_then(|cell| cell.median);
    match (median(0), median(1)) {
        (Some(first), Some(second)) if second > 0.0 => format!("{:.2}", first / second),
        _ => String::new(),
    }
}

fn text(row: &Row, cell: Option<&Cell>) -> String {
    match cell {
        Some(Cell { median: Some(median), .. }) => value(row, *median),
        Some(Cell { failures, .. }) if !failures.is_empty() => "see below".to_owned(),
        _ => "–".to_owned(),
    }
}

fn value(row: &Row, value: f64) -> String {
    let digits = match value.abs() {
        value if value >= 100.0 || value.fract() == 0.0 => 0,
        value if value >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$} {}", row.unit).trim_end().to_owned()
}

/// All results as JSON.
pub(crate) fn json(agents: &[Agent], results: &[Results]) -> Outcome<String> {
    let (kernel, load, date) = machine();
    let row = |row: &Row| {
        let cell = |(agent, results): (&Agent, &Results)| (agent.name.clone(), results.get(row.id).cloned());
        let cells: BTreeMap<_, _> = agents.iter().zip(results).map(cell).collect();
        serde_json::json!({ "id": row.id, "title": row.title, "unit": row.unit, "aim": row.aim, "agents": cells })
    };
    let measured = ROWS.iter().filter(|row| results.iter().any(|results| results.contains_key(row.id)));
    let rows: Vec<_> = measured.map(row).collect();
    let all =
        serde_json::json!({ "date": date, "kernel": kernel, "load_average_at_the_end": load, "rows": rows });
    Ok(serde_json::to_string_pretty(&all)?)
}

fn machine() -> (String, String, String) {
    let read = |path| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let date = std::process::Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]).output();
    let date =
        date.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    let load = read("/proc/loadavg");
    let load = load.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
    (read("/proc/sys/kernel/osrelease"), load, date)
}
