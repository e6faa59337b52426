//! `remote_channel`: a channel between two processes; each delivery waits for both subscribers.

use super::cast::Cast;

const MESSAGES: usize = 10;

pub(super) fn play(cast: &mut Cast) -> Result<String, String> {
    let server = cast.start("server", "remote_channel_server", &["--wait", "500"])?;
    cast.listen_until("the server's location", |cast| !cast.printed(server).is_empty())?;
    let client = cast.start("client", "remote_channel_client", &[])?;
    cast.wait_for_end(client)?;
    cast.listen_until("ten messages", |cast| cast.printed(server).len() > MESSAGES)?;
    cast.end_input(server);
    cast.wait_for_end(server)?;

    let printed = cast.printed(client);
    let delivered = printed.iter().filter(|line| *line == "delivered to: 2").count();
    let heard: Vec<&String> = printed.iter().filter(|line| line.starts_with("Heard ")).collect();
    let wanted: Vec<String> = (0..MESSAGES).map(|x| format!("Heard \"message {x}\"")).collect();
    if delivered != MESSAGES || heard != wanted.iter().collect::<Vec<_>>() {
        return Err(format!("the client printed something else: {printed:?}"));
    }
    let received = &cast.printed(server)[1..];
    let fits = |(x, line): (usize, &String)| {
        let at = line.strip_prefix(&format!("Received \"message {x}\" from sender at "));
        at.is_some_and(|at| at.parse::<std::net::SocketAddr>().is_ok())
    };
    if received.len() != MESSAGES || !received.iter().enumerate().all(fits) {
        return Err(format!("the server received something else: {received:?}"));
    }
    Ok(format!("{MESSAGES} messages, each to two subscribers"))
}
