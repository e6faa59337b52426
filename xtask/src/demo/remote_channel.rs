//! `remote_channel`: a channel between two processes; each delivery waits for both subscribers.

use super::processes::Processes;

const MESSAGES: usize = 10;

pub(super) fn run(processes: &mut Processes) -> Result<String, String> {
    let server = processes.start("server", "remote_channel_server", &["--wait", "500"])?;
    processes.wait_until("the server's location", |processes| !processes.printed(server).is_empty())?;
    let client = processes.start("client", "remote_channel_client", &[])?;
    processes.wait_for_success(client)?;
    processes.wait_until("ten messages", |processes| processes.printed(server).len() > MESSAGES)?;
    processes.end_input(server);
    processes.wait_for_success(server)?;

    let printed = processes.printed(client);
    let delivered = printed.iter().filter(|line| *line == "delivered to: 2").count();
    let lines: Vec<&String> = printed.iter().filter(|line| line.starts_with("Received ")).collect();
    let expected: Vec<String> = (0..MESSAGES).map(|x| format!("Received \"message {x}\"")).collect();
    if delivered != MESSAGES || lines != expected.iter().collect::<Vec<_>>() {
        return Err(format!("the client printed something else: {printed:?}"));
    }
    let received = &processes.printed(server)[1..];
    let fits = |(x, line): (usize, &String)| {
        let at = line.strip_prefix(&format!("Received \"message {x}\" from sender at "));
        at.is_some_and(|at| at.parse::<std::net::SocketAddr>().is_ok())
    };
    if received.len() != MESSAGES || !received.iter().enumerate().all(fits) {
        return Err(format!("the server received something else: {received:?}"));
    }
    Ok(format!("{MESSAGES} messages, each to two subscribers"))
}
