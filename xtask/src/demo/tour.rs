//! `tour`: everything once, by three nodes, of which one is killed and started again.

use std::fs;

use super::cast::{Cast, Role};

pub(super) fn play(cast: &mut Cast) -> Result<String, String> {
    let folder = tempfile::tempdir().map_err(|reason| reason.to_string())?;
    let (file, dest) = (folder.path().join("letter"), folder.path().join("taken"));
    fs::write(&file, "dear bob").map_err(|reason| reason.to_string())?;

    let hub = cast.start("hub", "tour_hub", &["--file", &file.display().to_string()])?;
    let ada = cast.start("ada", "tour_guest", &["--name", "ada"])?;
    let taken = dest.display().to_string();
    let bob = cast.start("bob", "tour_guest", &["--name", "bob", "--dest-path", &taken])?;
    cast.listen_until("the moment to kill ada", |cast| has(cast, hub, "7 failure: kill ada now"))?;
    if fs::read(dest.join("letter")).map_err(|reason| reason.to_string())? != b"dear bob" {
        return Err("another letter arrived".into());
    }
    cast.kill(ada)?;
    cast.listen_until("ada's end", |cast| has(cast, hub, "7 failure: its node was lost"))?;
    let again = cast.start("ada", "tour_guest", &["--name", "ada"])?;
    for role in [hub, bob, again] {
        cast.wait_for_end(role)?;
    }

    for wanted in [
        "peer ada is Online",
        "2 question: ada greets the hub",
        "3 receipt: the note is in bob's mailbox",
        "4 channel: heard by 2",
        "5 invocation: 1 to 100 make 5050",
        "6 file: New",
        "peer ada is Offline",
        "8 again: ada greets the hub",
    ] {
        if !has(cast, hub, wanted) {
            return Err(format!("the hub did not say {wanted:?}"));
        }
    }
    for (role, wanted) in
        [(ada, "news: the tour is on"), (bob, "news: the tour is on"), (bob, "note: see you")]
    {
        if !has(cast, role, wanted) {
            return Err(format!("a guest did not say {wanted:?}"));
        }
    }
    Ok("eight stops; ada was killed, missed, and found again".into())
}

fn has(cast: &Cast, role: Role, wanted: &str) -> bool {
    cast.printed(role).iter().any(|line| line.starts_with(wanted))
}
