//! A tour of all features with two guests: names, requests, receipts, a channel, remote invocation, a file, and the
//! loss and restart of a process.
//!
//! Start it, and then `tour_guest --name ada` and `tour_guest --name bob --dest-path SOME/FOLDER`. When it prints so, kill ada, and
//! start her again.

use antiphon::prelude::*;
use clap::Parser;
use serde::{Deserialize, Serialize};

#[derive(Parser)]
#[command(about = "Shows all that nodes do for each other")]
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
    /// The file to send to bob
    #[arg(long, default_value = "Cargo.toml")]
    file: std::path::PathBuf,
}

/// The messages of a guest; the guests have the same type.
#[derive(Serialize, Deserialize)]
enum Guest {
    Greet(String, ReplyTo<String>),
    Note(String),
}
antiphon::wire!(Guest, "tour.guest/1");

/// One variant for each answer.
enum Tour {
    Peer(PeerStatus),
    Ada(Result<Addr<Guest>, LocateError>),
    Bob(Result<Addr<Guest>, LocateError>),
    Greeted(Result<String, AskError>),
    Noted(Result<(), DeliverError>),
    NewsDelivered(Result<usize, DeliverError>),
    Function(Result<Rci<u64, ()>, LocateError>),
    Started(Result<Addr<()>, CallError>),
    Sent(Result<Stored, FileError>),
    AdaAgain(Result<Addr<Guest>, LocateError>),
    GreetedAgain(Result<String, AskError>),
}

fn greet(cx: &mut Cx<Tour>, guest: Addr<Guest>, answer: fn(Result<String, AskError>) -> Tour) {
    cx.ask(guest, secs(5), |reply| Guest::Greet("the hub".into(), reply), answer);
}

fn main() -> Result<(), Failure> {
    antiphon::log_to_stderr();
    let args = Args::parse();
    let mut node = Node::new(Config {
        name: Some("hub".into()),
        secret: Some(args.secret.into()),
        udp_port: Some(args.udp_port),
        // At SIGHUP the files are read again.
        reload_on_hangup: args.tls.is_some(),
        certfile: args.tls,
        ..Config::default()
    })?;
    println!("hub at {}", node.location());
    let news = node.channel("news")?;

    let mut guests = Vec::new();
    let tour = node.spawn(move |cx, event| {
        match event {
            Event::Start => {
                cx.peer_status(Tour::Peer)?;
                cx.locate("desk_of_ada", secs(60), Tour::Ada);
            }
            Event::Message(Tour::Peer(peer)) => println!("peer {} is {:?}", peer.name, peer.status),

            // Names: a lookup waits until the name is registered.
            Event::Message(Tour::Ada(ada)) => {
                guests.push(ada?);
                cx.locate("desk_of_bob", secs(60), Tour::Bob);
            }
            Event::Message(Tour::Bob(bob)) => {
                guests.push(bob?);
                for guest in &guests {
                    println!("1 names: a desk at {}", cx.location_of(guest.node())?);
                }
                greet(cx, guests[0], Tour::Greeted);
            }

            // A request with its reply; a message with a receipt.
            Event::Message(Tour::Greeted(answer)) => {
                println!("2 request: {}", answer?);
                cx.deliver(guests[1], Guest::Note("see you".into()), secs(5), Tour::Noted);
            }
            Event::Message(Tour::Noted(done)) => {
                done?;
                println!("3 receipt: the note is in bob's mailbox");
                cx.deliver_all(news, "the tour is on".to_owned(), 2, secs(20), Tour::NewsDelivered);
            }

            // A channel, once it has two subscribers.
            Event::Message(Tour::NewsDelivered(count)) => {
                println!("4 channel: received by {}", count?);
                cx.locate("sum_at_bob", secs(20), Tour::Function);
            }

            // An actor started on another node; its exit value is the result.
            Event::Message(Tour::Function(function)) => {
                let me = cx.addr();
                cx.call_monitored(function?, 100, me, secs(5), Tour::Started);
            }
            Event::Message(Tour::Started(actor)) => drop(actor?),
            Event::Down(Down { reason: ExitReason::Done(sum), .. }) => {
                println!("5 invocation: 1 to 100 make {}", sum.get::<u64>()?);
                let bob = cx.location_of(guests[1].node())?;
                cx.send_file(bob, &args.file, FileOptions::default(), secs(20), Tour::Sent);
            }

            // A file, and then the loss of a process.
            Event::Message(Tour::Sent(stored)) => {
                println!("6 file: {:?}", stored?);
                cx.monitor(guests[0]);
                println!("7 failure: kill ada now, and start her again");
            }
            Event::Down(down) => {
                println!("7 failure: {}", down.reason);
                cx.locate("desk_of_ada", secs(60), Tour::AdaAgain);
            }
            Event::Message(Tour::AdaAgain(ada)) => greet(cx, ada?, Tour::GreetedAgain),
            Event::Message(Tour::GreetedAgain(answer)) => {
                println!("8 again: {}", answer?);
                cx.close_channel(news); // the guests receive a `Down`, and end
                return stop();
            }
            _ => {}
        }
        receive()
    });

    let tour = node.join_handle::<()>(tour);
    node.run()?;
    Ok(tour.join(secs(0))?)
}
