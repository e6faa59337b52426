//! A channel, `2clients`, and an actor that subscribes to it after a while. Start `remote_channel_client` beside it.
//!
//! It ends at the end of its input.

use antiphon::prelude::*;
use clap::Parser;
use serde::{Deserialize, Serialize};

#[derive(Parser)]
#[command(about = "Opens the channel `2clients`, and prints what is sent to it")]
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
    /// How many milliseconds to wait before subscribing
    #[arg(long, default_value_t = 2000)]
    wait: u64,
}

#[derive(Clone, Serialize, Deserialize)]
struct Line {
    text: String,
    sender: String,
    from: ActorId,
}
antiphon::wire!(Line, "remote_channel.line/1");

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

    let channel = node.channel("2clients")?; // the pattern below determines its type
    node.spawn(move |cx, event| match event {
        Event::Start => {
            cx.set_daemon(true);
            sleep(millis(args.wait)) // until then, deliveries to two subscribers wait
        }
        Event::Timeout => {
            cx.subscribe(channel, cx.addr());
            receive()
        }
        Event::Message(Some(Line { text, sender, from })) => {
            // A node that only dials others has no location.
            let location =
                cx.location_of(from.node()).map_or_else(|_| "no location".into(), |at| at.to_string());
            println!("Received {text:?} from {sender} at {location}");
            receive()
        }
        _ => receive(),
    });
    node.run_with(|_| std::io::stdin().lines().map_while(Result::ok).for_each(drop))?;
    Ok(())
}
