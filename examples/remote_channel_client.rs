//! Delivers ten messages to a channel, each to both subscribers. Start `remote_channel_server` beside it.

use antiphon::prelude::*;
use clap::Parser;
use serde::{Deserialize, Serialize};

#[derive(Parser)]
#[command(about = "Subscribes to the channel `2clients`, and delivers ten messages to it")]
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
    /// How many seconds to wait for the channel
    #[arg(long, default_value_t = 10)]
    timeout: u64,
}

#[derive(Clone, Serialize, Deserialize)]
struct Line {
    text: String,
    sender: String,
    from: ActorId,
}
antiphon::wire!(Line, "remote_channel.line/1");

type Lines = Channel<Option<Line>>;

enum Client {
    Found(Result<Lines, LocateError>),
    Subscribed(Lines, Result<(), SubscribeError>),
    Received(Option<Line>),
}

enum Sender {
    Delivered(Result<usize, DeliverError>),
}

fn main() -> Result<(), Failure> {
    antiphon::log_to_stderr();
    let args = Args::parse();
    let mut node = Node::new(Config {
        secret: Some(args.secret.into()),
        udp_port: Some(args.udp_port),
        certfile: args.tls,
        ..Config::default()
    })?;
    let client = node.spawn(move |cx, event| match event {
        Event::Start => {
            cx.locate("2clients", secs(args.timeout), Client::Found);
            receive()
        }
        Event::Message(Client::Found(channel)) => {
            let (channel, adapter) = (channel?, cx.adapter(Client::Received)?);
            cx.subscribe_within(channel, adapter, secs(5), move |done| Client::Subscribed(channel, done));
            receive()
        }
        Event::Message(Client::Subscribed(channel, done)) => {
            done?;
            let sender = cx.spawn_actor(sender(channel));
            cx.monitor(sender);
            receive()
        }
        Event::Message(Client::Received(Some(line))) => {
            println!("Received {:?}", line.text);
            receive()
        }
        Event::Message(Client::Received(None)) => stop(), // this ends its subscription too
        Event::Down(Down { reason: ExitReason::Done(_), .. }) => receive(), // the sender has finished
        Event::Down(down) => fail(down.reason),           // the sender failed, or the channel was closed
        _ => receive(),
    });
    let client = node.join_handle::<()>(client);
    node.run()?;
    Ok(client.join(secs(0))?)
}

/// Delivers ten messages, one after the other, and then sends that there are no more.
fn sender(channel: Lines) -> impl Actor<Sender> {
    let mut x = 0;
    actor(move |cx, event| {
        match event {
            Event::Message(Sender::Delivered(subscribers)) => {
                println!("delivered to: {}", subscribers?);
                x += 1;
            }
            Event::Start => {}
            _ => return receive(),
        }
        if x == 10 {
            cx.send(channel, None)?;
            return stop();
        }
        let line = Line { text: format!("message {x}"), sender: "sender".into(), from: cx.id() };
        cx.deliver_all(channel, Some(line), 2, secs(20), Sender::Delivered);
        receive()
    })
}
