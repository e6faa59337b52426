//! `chat_sock`: a chat room over sockets, with three clients. With TLS, one that lacks it and one with another certificate do not
//! get in.

use super::cast::{Cast, Role};
use super::certificate::Certificate;

/// Three clients join, speak, and leave in three ways: by `quit`, by the end of the input, with the server.
pub(super) fn play(cast: &mut Cast) -> Result<String, String> {
    let server = cast.start_alone("server", "chat_sock_server", &["--port", "0"])?;
    cast.listen_until("the server's address", |cast| port(cast.printed(server)).is_some())?;
    let port = port(cast.printed(server)).ok_or("the server told no port")?;
    let anna = join(cast, "anna", &port, "id: 1")?;
    let ben = join(cast, "ben", &port, "id: 2")?;
    cast.listen_until("ben's arrival", |cast| hears(cast, anna, "2 joined"))?;
    let cleo = join(cast, "cleo", &port, "id: 3")?;
    cast.listen_until("cleo's arrival", |cast| {
        hears(cast, anna, "3 joined") && hears(cast, ben, "3 joined")
    })?;
    if cast.has_tls() {
        refuse_outsiders(cast, &port)?;
    }
    cast.say(anna, "hello")?;
    cast.listen_until("the greeting", |cast| {
        hears(cast, ben, "1 says: hello") && hears(cast, cleo, "1 says: hello")
    })?;
    cast.say(ben, "hello yourself")?;
    cast.say(ben, "quit")?;
    cast.wait_for_end(ben)?;
    cast.listen_until("ben's end", |cast| hears(cast, anna, "2 left") && hears(cast, cleo, "2 left"))?;
    cast.end_input(cleo);
    cast.wait_for_end(cleo)?;
    cast.listen_until("cleo's end", |cast| hears(cast, anna, "3 left"))?;
    cast.end_input(server);
    cast.wait_for_end(server)?;
    cast.wait_for_end(anna)?;
    check(cast, anna, &["id: 1", "2 joined", "3 joined", "2 says: hello yourself", "2 left", "3 left"])?;
    check(cast, ben, &["id: 2", "3 joined", "1 says: hello"])?;
    check(cast, cleo, &["id: 3", "1 says: hello", "2 says: hello yourself", "2 left"])?;
    let outsiders = if cast.has_tls() { "; nobody heard those without the certificate" } else { "" };
    Ok(format!("three clients, each heard the others and not itself{outsiders}"))
}

/// Who has no certificate, or another, ends without having joined.
fn refuse_outsiders(cast: &mut Cast, port: &str) -> Result<(), String> {
    let other = Certificate::make()?;
    let other = other.file().display().to_string();
    let bare = cast.start_plain("bare", "chat_sock_client", &["--port", port])?;
    let stranger = cast.start_plain("stranger", "chat_sock_client", &["--port", port, "--tls", &other])?;
    // It opens a plain connection, and what it says is no TLS.
    cast.say(bare, "is anybody there?")?;
    for outsider in [bare, stranger] {
        cast.wait_for_bad_end(outsider)?;
        check(cast, outsider, &[])?;
    }
    Ok(())
}

fn join(cast: &mut Cast, name: &'static str, port: &str, greeting: &str) -> Result<Role, String> {
    let client = cast.start_alone(name, "chat_sock_client", &["--port", port])?;
    cast.listen_until("a number", |cast| hears(cast, client, greeting))?;
    Ok(client)
}

fn hears(cast: &Cast, role: Role, line: &str) -> bool {
    cast.printed(role).iter().any(|printed| printed == line)
}

fn check(cast: &Cast, role: Role, expected: &[&str]) -> Result<(), String> {
    match cast.printed(role) {
        printed if printed == expected => Ok(()),
        printed => Err(format!("a client printed {printed:?}, and was to print {expected:?}")),
    }
}

/// The port in `server at 127.0.0.1:1234`.
fn port(printed: &[String]) -> Option<String> {
    let at = printed.first()?.strip_prefix("server at ")?;
    Some(at.rsplit_once(':')?.1.to_owned())
}
