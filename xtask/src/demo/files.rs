//! `files`: a file is sent, sent again, changed, replaced, interrupted, resumed and deleted.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::cast::Cast;

/// Large enough to be under way when its sender is killed.
const LARGE_BYTES: u64 = 256 << 20;
/// So much of it has arrived by then.
const INTERRUPTED_AT: u64 = 16 << 20;
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn play(cast: &mut Cast) -> Result<String, String> {
    let folder = tempfile::tempdir().map_err(text)?;
    let (dest, small, large) = (folder.path().join("dest"), folder.path().join("f"), folder.path().join("g"));
    let receiver = cast.start("receiver", "files_receiver", &[&name(&dest)])?;
    cast.listen_until("the receiver's location", |cast| !cast.printed(receiver).is_empty())?;

    fs::write(&small, "one").map_err(text)?;
    say(cast, &["send", &name(&small), "--dir", "a/b"], "stored")?;
    say(cast, &["send", &name(&small), "--dir", "a/b"], "already there")?;
    fs::write(&small, "another").map_err(text)?;
    say(cast, &["send", &name(&small), "--dir", "a/b"], "not stored: a different file is there (3 bytes)")?;
    say(cast, &["send", &name(&small), "--dir", "a/b", "--overwrite"], "stored")?;
    same(&small, &dest.join("a/b/f"))?;

    fs::File::create(&large).and_then(|file| file.set_len(LARGE_BYTES)).map_err(text)?;
    let first = cast.start("sender", "files_sender", &["send", &name(&large)])?;
    wait_for_some(&dest)?;
    cast.kill(first)?;
    let resumed = say(cast, &["send", &name(&large)], "stored; ")?;
    same(&large, &dest.join("g"))?;

    say(cast, &["delete", "g"], "deleted")?;
    say(cast, &["delete", "g"], "not deleted: there is no such file")?;
    say(cast, &["send", &name(&small), "--dir", ".."], "not stored: the path holds `..`")?;
    cast.end_input(receiver);
    cast.wait_for_end(receiver)?;
    Ok(format!("interrupted and {resumed}"))
}

/// Starts a sender, and waits until it has said this and ended.
fn say(cast: &mut Cast, arguments: &[&str], wanted: &str) -> Result<String, String> {
    let sender = cast.start("sender", "files_sender", arguments)?;
    cast.wait_for_end(sender)?;
    match cast.printed(sender) {
        [line] if line.starts_with(wanted) => Ok(line.clone()),
        other => Err(format!("{arguments:?}: {wanted:?} was to be said, not {other:?}")),
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
