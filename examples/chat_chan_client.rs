//! A chat client: each line of its input goes to all other clients. Start `chat_chan_server` beside it.
//!
//! It ends at `quit`, at the end of its input, or with the server.

use std::io;

use antiphon::prelude::*;
use clap::Parser;
use serde::{Deserialize, Serialize};

#[derive(Parser)]
#[command(about = "Joins the chat of a `chat_chan_server`")]
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
    /// How many seconds to wait for the server
    #[arg(long, default_value_t = 10)]
    timeout: u64,
}

#[derive(Serialize, Deserialize)]
enum Chat {
    Join(ReplyTo<u32>),
    Quit(u32),
}
antiphon::wire!(Chat, "chat_chan.chat/1");

enum Client {
    Server(Result<Addr<Chat>, LocateError>),
    Joined(Result<u32, AskError>),
    Channel(Result<Channel<(String, u32)>, LocateError>),
    Subscribed(Result<(), SubscribeError>),
    Received((String, u32)),
    Typed(Result<Option<io::Result<String>>, JobError>),
}

/// The state of the client, with what it has learned so far.
#[derive(Copy, Clone)]
enum Chatter {
    Locating,
    Joining(Addr<Chat>),
    Subscribing(Addr<Chat>, u32),
    Chatting(Addr<Chat>, u32, Channel<(String, u32)>),
}
use Chatter::*;

fn main() -> Result<(), Failure> {
    antiphon::log_to_stderr();
    let args = Args::parse();
    let mut node = Node::new(Config {
        secret: Some(args.secret.into()),
        udp_port: Some(args.udp_port),
        certfile: args.tls,
        ..Config::default()
    })?;
    node.spawn_fsm(Locating, move |cx, state, event| match (state, event) {
        (Locating, Event::Start) => {
            cx.locate("chat_server", secs(args.timeout), Client::Server);
            to(Locating, receive())
        }
        (Locating, Event::Message(Client::Server(server))) => {
            let server = server?;
            cx.ask(server, secs(5), Chat::Join, Client::Joined);
            to(Joining(server), receive())
        }
        (Joining(server), Event::Message(Client::Joined(id))) => {
            let location = cx.location_of(server.node())?;
            cx.locate_at("chat_channel", location, secs(5), Client::Channel);
            to(Subscribing(server, id?), receive())
        }
        (Subscribing(server, id), Event::Message(Client::Channel(channel))) => {
            let (channel, adapter) = (channel?, cx.adapter(Client::Received)?);
            cx.subscribe_within(channel, adapter, secs(5), Client::Subscribed);
            to(Chatting(server, id, channel), receive())
        }
        (Chatting(_, id, _), Event::Message(Client::Subscribed(done))) => {
            done?;
            println!("you are {id}; all others read what you type");
            read_line(cx);
            to(state, receive())
        }
        (Chatting(_, id, _), Event::Message(Client::Received((text, actor)))) => {
            if actor != id {
                println!("    {actor} {text}");
            }
            to(state, receive())
        }
        (Chatting(server, id, channel), Event::Message(Client::Typed(line))) => match line? {
            Some(Ok(line)) if line.trim() != "quit" => {
                cx.send(channel, (line, id))?;
                read_line(cx);
                to(state, receive())
            }
            _ => {
                cx.send(server, Chat::Quit(id))?;
                stop()
            }
        },
        (Chatting(_, _, channel), Event::Down(Down { actor, reason })) if actor == channel.id() => {
            println!("the chat is over: {reason}");
            stop()
        }
        (state, _) => to(state, receive()),
    });
    Ok(node.run()?)
}

/// Waits for the next line of the input, on a thread that may block.
fn read_line(cx: &mut Cx<Client>) {
    cx.blocking(|| io::stdin().lines().next(), Client::Typed);
}
