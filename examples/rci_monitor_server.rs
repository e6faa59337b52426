//! A function that peers may call: each call starts an actor here. Start `rci_monitor_client` beside it.
//!
//! It ends at the end of its input.

use antiphon::prelude::*;
use clap::Parser;

#[derive(Parser)]
#[command(about = "Registers the function `rci_1`")]
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
    /// The unit of the actors' waiting times, in milliseconds
    #[arg(long, default_value_t = 1000)]
    second: u64,
}

fn main() -> Result<(), Failure> {
    antiphon::log_to_stderr();
    let args = Args::parse();
    let mut node = Node::new(Config {
        name: Some("server".into()),
        secret: Some(args.secret.into()),
        udp_port: Some(args.udp_port),
        // At SIGHUP the files are read again.
        reload_on_hangup: args.tls.is_some(),
        certfile: args.tls,
        ..Config::default()
    })?;
    println!("server at {}", node.location());

    node.rci("rci_1", move |(a, b): (String, u64)| {
        println!("running with {a}, {b}");
        let mut received = String::new();
        move |_cx, event| match event {
            Event::Message(text) if b % 2 == 0 => {
                received = text;
                sleep(millis(b * args.second))
            }
            Event::Message(_) => fail(format!("invalid invocation: {b}")),
            Event::Timeout => exit(std::mem::take(&mut received)),
            _ => receive(),
        }
    })?;
    node.run_with(|_| std::io::stdin().lines().map_while(Result::ok).for_each(drop))?;
    Ok(())
}
