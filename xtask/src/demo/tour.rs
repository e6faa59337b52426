//! `tour`: each feature once, with three nodes, of which one is killed and started again.

use std::fs;

use super::processes::{ProcessId, Processes};

pub(super) fn run(processes: &mut Processes) -> Result<String, String> {
    let folder = tempfile::tempdir().map_err(|reason| reason.to_string())?;
    let (file, dest) = (folder.path().join("letter"), folder.path().join("taken"));
    fs::write(&file, "dear bob").map_err(|reason| reason.to_string())?;

    let hub = processes.start("hub", "tour_hub", &["--file", &file.display().to_string()])?;
    let ada = processes.start("ada", "tour_guest", &["--name", "ada"])?;
    let taken = dest.display().to_string();
    let bob = processes.start("bob", "tour_guest", &["--name", "bob", "--dest-path", &taken])?;
    processes
        .wait_until("the moment to kill ada", |processes| has(processes, hub, "7 failure: kill ada now"))?;
    if fs::read(dest.join("letter")).map_err(|reason| reason.to_string())? != b"dear bob" {
        return Err("another letter arrived".into());
    }
    processes.kill(ada)?;
    processes.wait_until("the end of ada's node", |processes| {
        has(processes, hub, "7 failure: its node was lost")
    })?;
    let again = processes.start("ada", "tour_guest", &["--name", "ada"])?;
    for process in [hub, bob, again] {
        processes.wait_for_success(process)?;
    }

    for expected in [
        "peer ada is Online",
        "2 request: ada greets the hub",
        "3 receipt: the note is in bob's mailbox",
        "4 channel: received by 2",
        "5 invocation: 1 to 100 make 5050",
        "6 file: New",
        "peer ada is Offline",
        "8 again: ada greets the hub",
    ] {
        if !has(processes, hub, expected) {
            return Err(format!("the hub did not print {expected:?}"));
        }
    }
    for (process, expected) in
        [(ada, "news: the tour is on"), (bob, "news: the tour is on"), (bob, "note: see you")]
    {
        if !has(processes, process, expected) {
            return Err(format!("a guest did not print {expected:?}"));
        }
    }
    Ok("eight stops; ada was killed, reported as lost, and found again".into())
}

fn has(processes: &Processes, id: ProcessId, expected: &str) -> bool {
    processes.printed(id).iter().any(|line| line.starts_with(expected))
}
