//! `chat_sock`: a chat room over sockets, with three clients. With TLS, a client without a certificate and one with another
//! certificate are refused.

use super::certificate::Certificate;
use super::processes::{ProcessId, Processes};

/// Three clients join, send, and leave in three ways: by `quit`, at the end of their input, and with the server.
pub(super) fn run(processes: &mut Processes) -> Result<String, String> {
    let server = processes.start_alone("server", "chat_sock_server", &["--port", "0"])?;
    processes.wait_until("the server's address", |processes| port(processes.printed(server)).is_some())?;
    let port = port(processes.printed(server)).ok_or("the server printed no port")?;
    let anna = join(processes, "anna", &port, "id: 1")?;
    let ben = join(processes, "ben", &port, "id: 2")?;
    processes.wait_until("ben's arrival", |processes| has(processes, anna, "2 joined"))?;
    let cleo = join(processes, "cleo", &port, "id: 3")?;
    processes.wait_until("cleo's arrival", |processes| {
        has(processes, anna, "3 joined") && has(processes, ben, "3 joined")
    })?;
    if processes.has_tls() {
        refuse_outsiders(processes, &port)?;
    }
    processes.type_line(anna, "hello")?;
    processes.wait_until("the greeting", |processes| {
        has(processes, ben, "1 says: hello") && has(processes, cleo, "1 says: hello")
    })?;
    processes.type_line(ben, "hello yourself")?;
    processes.type_line(ben, "quit")?;
    processes.wait_for_success(ben)?;
    processes.wait_until("ben's end", |processes| {
        has(processes, anna, "2 left") && has(processes, cleo, "2 left")
    })?;
    processes.end_input(cleo);
    processes.wait_for_success(cleo)?;
    processes.wait_until("cleo's end", |processes| has(processes, anna, "3 left"))?;
    processes.end_input(server);
    processes.wait_for_success(server)?;
    processes.wait_for_success(anna)?;
    check(processes, anna, &["id: 1", "2 joined", "3 joined", "2 says: hello yourself", "2 left", "3 left"])?;
    check(processes, ben, &["id: 2", "3 joined", "1 says: hello"])?;
    check(processes, cleo, &["id: 3", "1 says: hello", "2 says: hello yourself", "2 left"])?;
    let outsiders = if processes.has_tls() { "; clients without the certificate were refused" } else { "" };
    Ok(format!("three clients, each received the lines of the others and not its own{outsiders}"))
}

/// A client without a certificate, or with another one, fails before it has joined.
fn refuse_outsiders(processes: &mut Processes, port: &str) -> Result<(), String> {
    let other = Certificate::make()?;
    let other = other.file().display().to_string();
    let bare = processes.start_plain("bare", "chat_sock_client", &["--port", port])?;
    let foreign = processes.start_plain("foreign", "chat_sock_client", &["--port", port, "--tls", &other])?;
    // Its connection is plain TCP, and the line that it sends is no TLS record.
    processes.type_line(bare, "hello?")?;
    for outsider in [bare, foreign] {
        processes.wait_for_failure(outsider)?;
        check(processes, outsider, &[])?;
    }
    Ok(())
}

fn join(
    processes: &mut Processes,
    name: &'static str,
    port: &str,
    greeting: &str,
) -> Result<ProcessId, String> {
    let client = processes.start_alone(name, "chat_sock_client", &["--port", port])?;
    processes.wait_until("a number", |processes| has(processes, client, greeting))?;
    Ok(client)
}

fn has(processes: &Processes, id: ProcessId, line: &str) -> bool {
    processes.printed(id).iter().any(|printed| printed == line)
}

fn check(processes: &Processes, id: ProcessId, expected: &[&str]) -> Result<(), String> {
    match processes.printed(id) {
        printed if printed == expected => Ok(()),
        printed => Err(format!("a client printed {printed:?} instead of {expected:?}")),
    }
}

/// The port in `server at 127.0.0.1:1234`.
fn port(printed: &[String]) -> Option<String> {
    let at = printed.first()?.strip_prefix("server at ")?;
    Some(at.rsplit_once(':')?.1.to_owned())
}
