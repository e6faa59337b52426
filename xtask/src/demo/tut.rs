//! `tut`: one-to-one messages between two processes.

use super::processes::Processes;

const CLIENTS: usize = 10;
const MESSAGES: usize = 3;

/// Ten clients of one process send three messages each to a server of another.
pub(super) fn run(processes: &mut Processes) -> Result<String, String> {
    let server = processes.start("server", "tut_server", &[])?;
    processes.wait_until("the server's location", |processes| has_location(processes.printed(server)))?;
    let client = processes.start("client", "tut_client", &[])?;
    processes.wait_until("thirty messages", |processes| {
        processed(processes.printed(server)).len() >= CLIENTS * MESSAGES
    })?;
    processes.wait_for_success(client)?;
    if !has_location(processes.printed(client)) {
        return Err("the client did not print its location".into());
    }
    processes.end_input(server);
    processes.wait_for_success(server)?;
    check(&processed(processes.printed(server)))?;
    Ok(format!("{} messages, each client's in order", CLIENTS * MESSAGES))
}

/// Whether the first line holds a location, `ip:port`.
fn has_location(printed: &[String]) -> bool {
    let last = printed.first().and_then(|line| line.split_whitespace().last());
    last.is_some_and(|word| word.parse::<std::net::SocketAddr>().is_ok())
}

fn processed(printed: &[String]) -> Vec<&str> {
    printed.iter().filter_map(|line| line.strip_prefix("processing ")).collect()
}

/// The three messages of each client are in order, its ids rise, and each id occurs once.
fn check(messages: &[&str]) -> Result<(), String> {
    let mut ids = Vec::new();
    let mut last = [(0, 0); CLIENTS];
    for message in messages {
        let (id, client, x) =
            parse(message).ok_or_else(|| format!("a message of another form: {message}"))?;
        let (next, last_id) =
            last.get(client).copied().ok_or_else(|| format!("an eleventh client: {message}"))?;
        if x != next || id <= last_id {
            return Err(format!("client {client}'s messages are out of order at {message:?}"));
        }
        last[client] = (x + 1, id);
        ids.push(id);
    }
    ids.sort_unstable();
    let all: Vec<usize> = (1..=CLIENTS * MESSAGES).collect();
    if ids != all {
        return Err(format!("{} messages, where each of {} was to arrive once", ids.len(), all.len()));
    }
    Ok(())
}

/// `<id>: <client> / <x>`.
fn parse(message: &str) -> Option<(usize, usize, usize)> {
    let (id, rest) = message.split_once(": ")?;
    let (client, x) = rest.split_once(" / ")?;
    Some((id.parse().ok()?, client.parse().ok()?, x.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages() -> Vec<String> {
        let all = (0..CLIENTS).flat_map(|client| (0..MESSAGES).map(move |x| (client, x)));
        all.enumerate().map(|(id, (client, x))| format!("{}: {client} / {x}", id + 1)).collect()
    }

    fn verdict(messages: &[String]) -> Result<(), String> {
        check(&messages.iter().map(String::as_str).collect::<Vec<_>>())
    }

    #[test]
    fn thirty_messages_in_order_pass() {
        assert_eq!(verdict(&messages()), Ok(()));
    }

    #[test]
    fn lost_repeated_and_swapped_messages_fail() {
        let mut lost = messages();
        lost.pop();
        assert_eq!(verdict(&lost), Err("29 messages, where each of 30 was to arrive once".into()));
        let mut repeated = messages();
        repeated.push(repeated[0].clone());
        assert!(verdict(&repeated).is_err_and(|error| error.contains("out of order")));
        let mut swapped = messages();
        swapped.swap(0, 1);
        assert!(verdict(&swapped).is_err_and(|error| error.contains("out of order")));
    }
}
