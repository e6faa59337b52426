//! A walk through everything, by the side of two guests: names, questions, receipts, a channel, remote invocation, a
//! file, and what it looks like when a process dies and comes back.
//!
//! Start it, and then `tour_guest --name ada` and `tour_guest --name bob --dest-path SOME/FOLDER`. When it says so, kill ada, and
//! start her again.

use antiphon::prelude::*;
use clap::Parser;
use serde::{Deserialize, Serialize};

#[derive(Parser)]
#[command(about = "Walks through everything that nodes do for each other")]
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
    /// The file to send to bob
    #[arg(long, default_value = "Cargo.toml")]
    file: std::path::PathBuf,
}

/// What a guest takes; the guests have the same.
#[derive(Serialize, Deserialize)]
enum Guest {
    Greet(String, ReplyTo<String>),
    Note(String),
}
antiphon::wire!(Guest, "tour.guest/1");

/// One variant for each answer on the way.
enum Tour {
    Peer(PeerStatus),
    Ada(Result<Addr<Guest>, LocateError>),
    Bob(Result<Addr<Guest>, LocateError>),
    Greeted(Result<String, AskError>),
    Noted(Result<(), DeliverError>),
    Heard(Result<usize, DeliverError>),
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
        certfile: args.tls,
        ..Config::default()
    })?;
    println!("hub at {}", node.location());
    let news = node.channel("news")?;

    let mut guests = Vec::new();
    let tour = node.spawn(move |cx, event| {
        match event {
            Event::Start => {
                cx.peer_status(Tour::Peer);
                cx.locate("desk_of_ada", secs(60), Tour::Ada);
            }
            Event::Message(Tour::Peer(peer)) => println!("peer {} is {:?}", peer.name, peer.status),

            // Names: looked for until they appear.
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

            // A question with its answer; a message with a receipt.
            Event::Message(Tour::Greeted(answer)) => {
                println!("2 question: {}", answer?);
                cx.deliver(guests[1], Guest::Note("see you".into()), secs(5), Tour::Noted);
            }
            Event::Message(Tour::Noted(done)) => {
                done?;
                println!("3 receipt: the note is in bob's mailbox");
                cx.deliver_all(news, "the tour is on".to_owned(), 2, secs(20), Tour::Heard);
            }

            // A channel, once it has two subscribers.
            Event::Message(Tour::Heard(count)) => {
                println!("4 channel: heard by {}", count?);
                cx.locate("sum_at_bob", secs(20), Tour::Function);
            }

            // An actor started on another node; its end brings the result.
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

            // A file, and then the end of a process.
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
                cx.close_channel(news); // the guests are told, and end
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
