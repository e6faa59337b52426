//! `remote_coro`: messages between two processes with one secret, while a third with another finds nobody. With TLS, a
//! fourth that knows the secret but has no certificate does not either.

use super::cast::{Cast, Role};

const MESSAGES: usize = 10;

pub(super) fn play(cast: &mut Cast) -> Result<String, String> {
    let server = cast.start("server", "remote_coro_server", &[])?;
    cast.listen_until("the server's location", |cast| !cast.printed(server).is_empty())?;
    let stranger =
        cast.start_with_secret("stranger", "remote_coro_client", "another key", &["--timeout", "1"])?;
    let bare = cast
        .has_tls()
        .then(|| cast.start_without_tls("bare", "remote_coro_client", &["--timeout", "1"]))
        .transpose()?;
    let client = cast.start("client", "remote_coro_client", &[])?;
    cast.listen_until("ten messages", |cast| received(cast.printed(server)).len() >= MESSAGES)?;
    cast.wait_for_end(client)?;
    for outsider in [Some(stranger), bare].into_iter().flatten() {
        found_nobody(cast, outsider)?;
    }
    cast.end_input(server);
    cast.wait_for_end(server)?;

    let location = cast.printed(server)[0].replacen("server at", "server is at", 1);
    if cast.printed(client) != [location] {
        return Err(format!("the client found another server: {:?}", cast.printed(client)));
    }
    let wanted: Vec<String> = (0..MESSAGES).map(|x| format!("message {x}")).collect();
    if received(cast.printed(server)) != wanted {
        return Err("the messages are not the client's ten in order".into());
    }
    let outsiders = if cast.has_tls() { "another secret, or no certificate," } else { "another secret" };
    Ok(format!("{MESSAGES} messages in order; {outsiders} found nobody"))
}

/// Waits until a process has said that it found nobody, and ended so.
fn found_nobody(cast: &mut Cast, outsider: Role) -> Result<(), String> {
    cast.wait_for_bad_end(outsider)?;
    match cast.printed(outsider) {
        [line] if line.starts_with("nothing sent: ") => Ok(()),
        other => Err(format!("an outsider did not say that it found nobody: {other:?}")),
    }
}

fn received(printed: &[String]) -> Vec<&str> {
    printed.iter().filter_map(|line| line.strip_prefix("Received ")).collect()
}
