//! `rci_monitor`: five actors, started on another node, whose ends are told here.

use super::cast::Cast;

const ENDS: [&str; 5] = [
    "finished with: msg:0",
    "finished with: msg:2",
    "finished with: msg:4",
    "failed with: invalid invocation: 1",
    "failed with: invalid invocation: 3",
];

pub(super) fn play(cast: &mut Cast) -> Result<String, String> {
    let server = cast.start("server", "rci_monitor_server", &["--second", "200"])?;
    cast.listen_until("the server's location", |cast| !cast.printed(server).is_empty())?;
    let client = cast.start("client", "rci_monitor_client", &[])?;
    cast.wait_for_end(client)?;
    cast.end_input(server);
    cast.wait_for_end(server)?;

    let location = cast.printed(server)[0].replacen("server at", "rci_1 is at", 1);
    let printed = cast.printed(client);
    // Each line begins with the actor's own id.
    let end_of = |line: &String| line.split_once(' ').map(|(_, end)| end.to_owned()).unwrap_or_default();
    let mut ends: Vec<String> = printed.iter().skip(1).map(end_of).collect();
    ends.sort_unstable();
    let mut wanted = ENDS;
    wanted.sort_unstable();
    if printed.first() != Some(&location) || ends != wanted {
        return Err(format!("the client was told something else: {printed:?}"));
    }
    let mut started = cast.printed(server)[1..].to_vec();
    started.sort_unstable();
    let wanted: Vec<String> = (0..5).map(|b| format!("running with test{b}, {b}")).collect();
    if started != wanted {
        return Err(format!("the server started something else: {started:?}"));
    }
    Ok("five actors, and how each ended".into())
}
