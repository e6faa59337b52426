//! A chat over a channel. Start some `chat_chan_client` beside it; it ends at `quit`, or at the end of its input.
//!
//! The channel edits each message and drops those in capitals; an actor assigns the ids.

use antiphon::prelude::*;
use clap::Parser;
use serde::{Deserialize, Serialize};

#[derive(Parser)]
#[command(about = "Opens a chat: the channel `chat_channel`, and the actor `chat_server`")]
struct Args {
    /// The secret that server and clients share
    #[arg(long, default_value = "key")]
    secret: String,
    /// The UDP port on which nodes find each other
    #[arg(long, default_value_t = 51350)]
    udp_port: u16,
    /// A PEM file with a certificate and its key, the same for all nodes; switches TLS on
    #[arg(long)]
    tls: Option<std::path::PathBuf>,
}

#[derive(Serialize, Deserialize)]
enum Chat {
    Join(ReplyTo<u32>),
    Quit(u32),
    /// From this process: peers cannot send it.
    #[serde(skip)]
    Close,
}
antiphon::wire!(Chat, "chat_chan.chat/1");

fn main() -> Result<(), Failure> {
    antiphon::log_to_stderr();
    let args = Args::parse();
    let mut node = Node::new(Config {
        secret: Some(args.secret.into()),
        udp_port: Some(args.udp_port),
        // At SIGHUP the files are read again.
        reload_on_hangup: args.tls.is_some(),
        certfile: args.tls,
        ..Config::default()
    })?;
    println!("server at {}", node.location());

    let channel =
        node.channel_with("chat_channel", |_name, (text, id): (String, u32)| Some((edit(&text)?, id)))?;
    let mut ids = 1..;
    let server = node.spawn(move |cx, event| {
        match event {
            Event::Start => cx.register("chat_server")?,
            Event::Message(Chat::Join(reply)) => {
                let id = ids.next().ok_or("out of ids")?;
                cx.tell(channel, ("joined".into(), id));
                cx.reply(reply, id);
            }
            Event::Message(Chat::Quit(id)) => cx.tell(channel, ("bye".into(), id)),
            Event::Message(Chat::Close) => return stop(),
            _ => {}
        }
        receive()
    });
    node.run_with(|handle| {
        std::io::stdin().lines().map_while(Result::ok).find(|line| line.trim() == "quit");
        handle.send(server, Chat::Close)
    })??;
    Ok(())
}

/// The text that subscribers receive; a message that gives `None` is dropped.
fn edit(text: &str) -> Option<String> {
    match text {
        "joined" => Some("joined :-)".into()),
        "bye" => Some("left :-(".into()),
        text if text.chars().any(char::is_alphabetic) && text == text.to_uppercase() => None,
        text => Some(format!("says: {text}")),
    }
}
