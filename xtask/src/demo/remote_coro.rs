//! `remote_coro`: messages between two processes that share a secret. A third process with another secret finds no server.
//! With TLS, neither does a fourth that knows the secret but has no certificate.

use super::processes::{ProcessId, Processes};

const MESSAGES: usize = 10;

pub(super) fn run(processes: &mut Processes) -> Result<String, String> {
    let server = processes.start("server", "remote_coro_server", &[])?;
    processes.wait_until("the server's location", |processes| !processes.printed(server).is_empty())?;
    let other =
        processes.start_with_secret("other", "remote_coro_client", "another key", &["--timeout", "1"])?;
    let bare = processes
        .has_tls()
        .then(|| processes.start_without_tls("bare", "remote_coro_client", &["--timeout", "1"]))
        .transpose()?;
    let client = processes.start("client", "remote_coro_client", &[])?;
    processes
        .wait_until("ten messages", |processes| received(processes.printed(server)).len() >= MESSAGES)?;
    processes.wait_for_success(client)?;
    for outsider in [Some(other), bare].into_iter().flatten() {
        expect_no_server(processes, outsider)?;
    }
    processes.end_input(server);
    processes.wait_for_success(server)?;

    let location = processes.printed(server)[0].replacen("server at", "server is at", 1);
    if processes.printed(client) != [location] {
        return Err(format!("the client found another server: {:?}", processes.printed(client)));
    }
    let expected: Vec<String> = (0..MESSAGES).map(|x| format!("message {x}")).collect();
    if received(processes.printed(server)) != expected {
        return Err("the messages are not the client's ten in order".into());
    }
    let outsiders = if processes.has_tls() { "another secret, or no certificate," } else { "another secret" };
    Ok(format!("{MESSAGES} messages in order; {outsiders} found no server"))
}

/// Waits for a process to report that it found no server, and to fail.
fn expect_no_server(processes: &mut Processes, outsider: ProcessId) -> Result<(), String> {
    processes.wait_for_failure(outsider)?;
    match processes.printed(outsider) {
        [line] if line.starts_with("nothing sent: ") => Ok(()),
        other => Err(format!("an outsider did not report that it found no server: {other:?}")),
    }
}

fn received(printed: &[String]) -> Vec<&str> {
    printed.iter().filter_map(|line| line.strip_prefix("Received ")).collect()
}
