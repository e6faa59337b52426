//! A guest of the tour: it answers questions, hears the news, counts for others, and takes files.
//!
//! Start `tour_hub`, and two guests with different names. A guest ends when the hub closes the news.

use antiphon::prelude::*;
use clap::Parser;
use serde::{Deserialize, Serialize};

#[derive(Parser)]
#[command(about = "Answers, listens, counts and takes files for `tour_hub`")]
struct Args {
    /// What all nodes share
    #[arg(long, default_value = "key")]
    secret: String,
    /// The UDP port on which nodes find each other
    #[arg(long, default_value_t = 51350)]
    udp_port: u16,
    /// A PEM file with a certificate and its key, the same one at all nodes: they talk by TLS
    #[arg(long)]
    tls: Option<std::path::PathBuf>,
    /// The name of this guest
    #[arg(long)]
    name: String,
    /// The folder for files from others; none are taken without it
    #[arg(long)]
    dest_path: Option<std::path::PathBuf>,
}

/// What a guest takes; the hub has the same.
#[derive(Serialize, Deserialize)]
enum Guest {
    Greet(String, ReplyTo<String>),
    Note(String),
}
antiphon::wire!(Guest, "tour.guest/1");

/// What the listener to the news hears.
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

    // Whoever finds `sum` may start such an actor here.
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
            Event::Message(Guest::Greet(actor, reply)) => {
                println!("greeted by {actor}");
                cx.reply(reply, format!("{name} greets {actor}"));
            }
            Event::Message(Guest::Note(text)) => println!("note: {text}"),
            _ => {}
        }
        receive()
    });

    // This one keeps the node running, until the hub closes the channel or is gone.
    node.spawn(|cx, event| {
        match event {
            Event::Start => cx.locate("news", secs(20), Listener::Found),
            Event::Message(Listener::Found(channel)) => {
                let adapter = cx.adapter(Listener::News);
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
