//! `chat_chan`: two people and a server; the channel edits what is said.

use super::cast::{Cast, Role};

pub(super) fn play(cast: &mut Cast) -> Result<String, String> {
    let server = cast.start("server", "chat_chan_server", &[])?;
    cast.listen_until("the server's location", |cast| !cast.printed(server).is_empty())?;
    let alice = join(cast, "alice", 1)?;
    let bob = join(cast, "bob", 2)?;
    cast.listen_until("bob to be announced", |cast| has(cast, alice, "    2 joined :-)"))?;
    cast.say(alice, "hello")?;
    cast.listen_until("bob to read it", |cast| has(cast, bob, "    1 says: hello"))?;
    cast.say(bob, "NOBODY SHOUTS")?;
    cast.say(bob, "hello alice")?;
    cast.listen_until("alice to read it", |cast| has(cast, alice, "    2 says: hello alice"))?;
    cast.say(alice, "quit")?;
    cast.wait_for_end(alice)?;
    cast.listen_until("bob to be told", |cast| has(cast, bob, "    1 left :-("))?;
    cast.say(server, "quit")?;
    cast.wait_for_end(server)?;
    // Who is left is told that there is no chat any more.
    cast.wait_for_end(bob)?;

    let told = ["    2 joined :-)", "    2 says: hello alice"];
    if cast.printed(alice)[1..] != told {
        return Err(format!("alice read something else: {:?}", cast.printed(alice)));
    }
    match &cast.printed(bob)[1..] {
        [hello, left, over]
            if hello == "    1 says: hello"
                && left == "    1 left :-("
                && over.starts_with("the chat is over") => {}
        other => return Err(format!("bob read something else: {other:?}")),
    }
    Ok("two in a chat read what the other says, and nobody shouts".into())
}

/// Starts a client, and waits until it is in the chat.
fn join(cast: &mut Cast, name: &'static str, id: u32) -> Result<Role, String> {
    let client = cast.start(name, "chat_chan_client", &[])?;
    let welcome = format!("you are {id}; ");
    cast.listen_until("a client to be in the chat", |cast| {
        cast.printed(client).first().is_some_and(|line| line.starts_with(&welcome))
    })?;
    Ok(client)
}

fn has(cast: &Cast, role: Role, line: &str) -> bool {
    cast.printed(role).iter().any(|printed| printed == line)
}
