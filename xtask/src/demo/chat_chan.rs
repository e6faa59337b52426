//! `chat_chan`: two clients and a server; the channel edits the messages.

use super::processes::{ProcessId, Processes};

pub(super) fn run(processes: &mut Processes) -> Result<String, String> {
    let server = processes.start("server", "chat_chan_server", &[])?;
    processes.wait_until("the server's location", |processes| !processes.printed(server).is_empty())?;
    let alice = join(processes, "alice", 1)?;
    let bob = join(processes, "bob", 2)?;
    processes.wait_until("bob to be announced", |processes| has(processes, alice, "    2 joined :-)"))?;
    processes.type_line(alice, "hello")?;
    processes.wait_until("bob to read it", |processes| has(processes, bob, "    1 says: hello"))?;
    processes.type_line(bob, "FILTERED MESSAGE")?;
    processes.type_line(bob, "hello alice")?;
    processes.wait_until("alice to read it", |processes| has(processes, alice, "    2 says: hello alice"))?;
    processes.type_line(alice, "quit")?;
    processes.wait_for_success(alice)?;
    processes.wait_until("bob to see that alice left", |processes| has(processes, bob, "    1 left :-("))?;
    processes.type_line(server, "quit")?;
    processes.wait_for_success(server)?;
    // The remaining client receives a `Down` of the channel.
    processes.wait_for_success(bob)?;

    let lines = ["    2 joined :-)", "    2 says: hello alice"];
    if processes.printed(alice)[1..] != lines {
        return Err(format!("alice read something else: {:?}", processes.printed(alice)));
    }
    match &processes.printed(bob)[1..] {
        [hello, left, over]
            if hello == "    1 says: hello"
                && left == "    1 left :-("
                && over.starts_with("the chat is over") => {}
        other => return Err(format!("bob read something else: {other:?}")),
    }
    Ok("each of two clients reads what the other types, without the filtered message".into())
}

/// Starts a client, and waits until it has joined.
fn join(processes: &mut Processes, name: &'static str, id: u32) -> Result<ProcessId, String> {
    let client = processes.start(name, "chat_chan_client", &[])?;
    let welcome = format!("you are {id}; ");
    processes.wait_until("a client to join", |processes| {
        processes.printed(client).first().is_some_and(|line| line.starts_with(&welcome))
    })?;
    Ok(client)
}

fn has(processes: &Processes, id: ProcessId, line: &str) -> bool {
    processes.printed(id).iter().any(|printed| printed == line)
}
