//! `rci_monitor`: five actors, started on another node and monitored from here.

use super::processes::Processes;

const EXITS: [&str; 5] = [
    "finished with: msg:0",
    "finished with: msg:2",
    "finished with: msg:4",
    "failed with: invalid invocation: 1",
    "failed with: invalid invocation: 3",
];

pub(super) fn run(processes: &mut Processes) -> Result<String, String> {
    let server = processes.start("server", "rci_monitor_server", &["--second", "200"])?;
    processes.wait_until("the server's location", |processes| !processes.printed(server).is_empty())?;
    let client = processes.start("client", "rci_monitor_client", &[])?;
    processes.wait_for_success(client)?;
    processes.end_input(server);
    processes.wait_for_success(server)?;

    let location = processes.printed(server)[0].replacen("server at", "rci_1 is at", 1);
    let printed = processes.printed(client);
    // Each line begins with the actor's own id.
    let end_of = |line: &String| line.split_once(' ').map(|(_, end)| end.to_owned()).unwrap_or_default();
    let mut ends: Vec<String> = printed.iter().skip(1).map(end_of).collect();
    ends.sort_unstable();
    let mut expected = EXITS;
    expected.sort_unstable();
    if printed.first() != Some(&location) || ends != expected {
        return Err(format!("the client printed something else: {printed:?}"));
    }
    let mut started = processes.printed(server)[1..].to_vec();
    started.sort_unstable();
    let expected: Vec<String> = (0..5).map(|b| format!("running with test{b}, {b}")).collect();
    if started != expected {
        return Err(format!("the server started something else: {started:?}"));
    }
    Ok("five actors, each with its exit reason".into())
}
