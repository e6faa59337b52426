//! `remote_coro`: messages between two processes with one secret, while a third with another finds nobody.

use super::cast::Cast;

const MESSAGES: usize = 10;

pub(super) fn play(cast: &mut Cast) -> Result<String, String> {
    let server = cast.start("server", "remote_coro_server", &[])?;
    cast.listen_until("the server's location", |cast| !cast.printed(server).is_empty())?;
    let stranger =
        cast.start_with_secret("stranger", "remote_coro_client", "another key", &["--timeout", "1"])?;
    let client = cast.start("client", "remote_coro_client", &[])?;
    cast.listen_until("ten messages", |cast| received(cast.printed(server)).len() >= MESSAGES)?;
    cast.wait_for_end(client)?;
    cast.wait_for_bad_end(stranger)?;
    cast.end_input(server);
    cast.wait_for_end(server)?;

    let location = cast.printed(server)[0].replacen("server at", "server is at", 1);
    if cast.printed(client) != [location] {
        return Err(format!("the client found another server: {:?}", cast.printed(client)));
    }
    if !matches!(cast.printed(stranger), [line] if line.starts_with("nothing sent: ")) {
        return Err(format!("the stranger did not say that it found nobody: {:?}", cast.printed(stranger)));
    }
    let wanted: Vec<String> = (0..MESSAGES).map(|x| format!("message {x}")).collect();
    if received(cast.printed(server)) != wanted {
        return Err("the messages are not the client's ten in order".into());
    }
    Ok(format!("{MESSAGES} messages in order; another secret found nobody"))
}

fn received(printed: &[String]) -> Vec<&str> {
    printed.iter().filter_map(|line| line.strip_prefix("Received ")).collect()
}
