//! `files`: a file is sent, sent again, changed, replaced, interrupted, resumed and deleted.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::processes::Processes;

/// Large enough that its transfer still runs when its sender is killed.
const LARGE_BYTES: u64 = 256 << 20;
/// The sender is killed when this much has arrived.
const INTERRUPTED_AT: u64 = 16 << 20;
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn run(processes: &mut Processes) -> Result<String, String> {
    let folder = tempfile::tempdir().map_err(text)?;
    let (dest, small, large) = (folder.path().join("dest"), folder.path().join("f"), folder.path().join("g"));
    let receiver = processes.start("receiver", "files_receiver", &[&name(&dest)])?;
    processes.wait_until("the receiver's location", |processes| !processes.printed(receiver).is_empty())?;

    fs::write(&small, "one").map_err(text)?;
    send(processes, &["send", &name(&small), "--dir", "a/b"], "stored")?;
    send(processes, &["send", &name(&small), "--dir", "a/b"], "already there")?;
    fs::write(&small, "another").map_err(text)?;
    send(
        processes,
        &["send", &name(&small), "--dir", "a/b"],
        "not stored: a different file is there (3 bytes)",
    )?;
    send(processes, &["send", &name(&small), "--dir", "a/b", "--overwrite"], "stored")?;
    same(&small, &dest.join("a/b/f"))?;

    fs::File::create(&large).and_then(|file| file.set_len(LARGE_BYTES)).map_err(text)?;
    let first = processes.start("sender", "files_sender", &["send", &name(&large)])?;
    wait_for_some(&dest)?;
    processes.kill(first)?;
    let resumed = send(processes, &["send", &name(&large)], "stored; ")?;
    same(&large, &dest.join("g"))?;

    send(processes, &["delete", "g"], "deleted")?;
    send(processes, &["delete", "g"], "not deleted: there is no such file")?;
    send(processes, &["send", &name(&small), "--dir", ".."], "not stored: the path holds `..`")?;
    processes.end_input(receiver);
    processes.wait_for_success(receiver)?;
    Ok(format!("interrupted and {resumed}"))
}

/// Runs `files_sender`; its one line of output must begin with `expected`.
fn send(processes: &mut Processes, arguments: &[&str], expected: &str) -> Result<String, String> {
    let sender = processes.start("sender", "files_sender", arguments)?;
    processes.wait_for_success(sender)?;
    match processes.printed(sender) {
        [line] if line.starts_with(expected) => Ok(line.clone()),
        other => Err(format!("{arguments:?}: printed {other:?} instead of {expected:?}")),
    }
}

/// Waits until some of a file has arrived.
fn wait_for_some(dest: &Path) -> Result<(), String> {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let entries = fs::read_dir(dest.join(".antiphon/partial")).map_err(text)?;
        let mut sizes = entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len()));
        if sizes.any(|bytes| bytes >= INTERRUPTED_AT) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Err(format!("waited {PATIENCE:?} for some of the file"))
}

fn same(one: &Path, other: &Path) -> Result<(), String> {
    let (one, other) = (fs::read(one).map_err(text)?, fs::read(other).map_err(text)?);
    if one == other { Ok(()) } else { Err("another file arrived".into()) }
}

fn name(path: &Path) -> String {
    path.display().to_string()
}

fn text(reason: std::io::Error) -> String {
    reason.to_string()
}
