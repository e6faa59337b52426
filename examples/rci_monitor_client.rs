//! Starts five actors by a function of another node, and monitors them. Start `rci_monitor_server` beside it.

use antiphon::prelude::*;
use clap::Parser;

#[derive(Parser)]
#[command(about = "Calls the function `rci_1` of the node `server` five times")]
struct Args {
    /// The secret that server and clients share
    #[arg(long, default_value = "test")]
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

/// A function of a text and a number, which starts an actor that receives texts.
type Function = Rci<(String, u64), String>;

enum Client {
    Found(Result<Function, LocateError>),
    Server(Result<Location, LocateError>),
    FoundThere(Result<Function, LocateError>),
    Spawned(u64, Result<Addr<String>, CallError>),
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

    let mut spawned = 0;
    let caller = node.spawn(move |cx, event| match event {
        Event::Start => {
            cx.locate("rci_1", secs(args.timeout), Client::Found);
            receive()
        }
        Event::Message(Client::Found(rci)) => {
            println!("rci_1 is at {}", cx.location_of(rci?.node())?);
            cx.locate_node("server", secs(5), Client::Server);
            receive()
        }
        Event::Message(Client::Server(server)) => {
            cx.locate_at("rci_1", server?, secs(5), Client::FoundThere);
            receive()
        }
        Event::Message(Client::FoundThere(rci)) => {
            let rci = rci?;
            let monitor = cx.spawn_actor(monitor());
            for b in 0..5 {
                let arguments = (format!("test{b}"), b);
                cx.call_monitored(rci, arguments, monitor, secs(5), move |actor| Client::Spawned(b, actor));
            }
            receive()
        }
        Event::Message(Client::Spawned(b, actor)) => {
            cx.send(actor?, format!("msg:{b}"))?;
            spawned += 1;
            if spawned == 5 { stop() } else { receive() }
        }
        _ => receive(),
    });
    let caller = node.join_handle::<()>(caller);
    node.run()?;
    Ok(caller.join(secs(0))?)
}

/// Prints the exit reasons of five actors.
fn monitor() -> impl Actor<()> {
    let mut exits = 0;
    actor(move |_cx, event| {
        let Event::Down(Down { actor, reason }) = event else { return receive() };
        match reason {
            ExitReason::Done(value) => println!("{actor} finished with: {}", value.get::<String>()?),
            ExitReason::Failed(text) => println!("{actor} failed with: {text}"),
            reason => println!("{actor} ended: {reason}"),
        }
        exits += 1;
        if exits == 5 { stop() } else { receive() }
    })
}
