//! A guest of the tour: it replies to requests, subscribes to the news, sums for others, and accepts files.
//!
//! Start `tour_hub`, and two guests with different names. A guest ends when the hub closes the channel `news`.

use antiphon::prelude::*;
use clap::Parser;
use serde::{Deserialize, Serialize};

#[derive(Parser)]
#[command(about = "Replies, subscribes, sums and accepts files for `tour_hub`")]
struct Args {
    /// The secret that all nodes share
    #[arg(long, default_value = "key")]
    secret: String,
    /// The UDP port on which nodes find each other
    #[arg(long, default_value_t = 51350)]
    udp_port: u16,
    /// A PEM file with a certificate and its key, the same for all nodes; switches TLS on
    #[arg(long)]
    tls: Option<std::path::PathBuf>,
    /// The name of this guest
    #[arg(long)]
    name: String,
    /// The folder for files from peers; without it none are accepted
    #[arg(long)]
    dest_path: Option<std::path::PathBuf>,
}

/// The messages of a guest; the hub has the same type.
#[derive(Serialize, Deserialize)]
enum Guest {
    Greet(String, ReplyTo<String>),
    Note(String),
}
antiphon::wire!(Guest, "tour.guest/1");

/// The messages of the subscriber to the news.
enum Listener {
    Found(Result<Channel<String>, LocateError>),
    News(String),
}

fn main() -> Result<(), Failure> {
    antiphon::log_to_stderr();
    let args = Args::parse();
    let mut node = Node::new(Config {
        name: Some(args.name.clone()),
        secret: Some(args.secret.into()),
        udp_port: Some(args.udp_port),
        certfile: args.tls,
        dest_path: args.dest_path,
        ..Config::default()
    })?;
    println!("{} at {}", args.name, node.location());

    // Each call starts an actor here that exits with the sum.
    node.rci(&format!("sum_at_{}", args.name), |up_to: u64| {
        move |_cx: &mut Cx<()>, _event| exit((1..=up_to).sum::<u64>())
    })?;

    let name = args.name;
    let desk = format!("desk_of_{name}");
    node.spawn(move |cx, event| {
        match event {
            Event::Start => {
                cx.set_daemon(true);
                cx.register(&desk)?;
            }
            Event::Message(Guest::Greet(sender, reply)) => {
                println!("greeted by {sender}");
                cx.reply(reply, format!("{name} greets {sender}"));
            }
            Event::Message(Guest::Note(text)) => println!("note: {text}"),
            _ => {}
        }
        receive()
    });

    // This actor keeps the node running until the hub closes the channel or is lost.
    node.spawn(|cx, event| {
        match event {
            Event::Start => cx.locate("news", secs(20), Listener::Found),
            Event::Message(Listener::Found(channel)) => {
                let adapter = cx.adapter(Listener::News)?;
                cx.subscribe(channel?, adapter);
            }
            Event::Message(Listener::News(text)) => println!("news: {text}"),
            Event::Down(_) => return stop(),
            _ => {}
        }
        receive()
    });
    Ok(node.run()?)
}
