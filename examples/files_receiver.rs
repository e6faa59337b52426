//! Accepts files from peers into one folder. Start `files_sender` beside it.
//!
//! It ends at `quit`, or at the end of its input.

use std::path::PathBuf;

use antiphon::prelude::*;
use clap::Parser;

#[derive(Parser)]
#[command(about = "Accepts files from `files_sender`")]
struct Args {
    /// The folder in which files are stored and deleted
    dest: PathBuf,
    /// The largest file that is accepted, in bytes; without it, any that fits on the disk
    #[arg(long)]
    max_file_size: Option<u64>,
    /// The secret that receiver and senders share
    #[arg(long, default_value = "key")]
    secret: String,
    /// The UDP port on which nodes find each other
    #[arg(long, default_value_t = 51350)]
    udp_port: u16,
    /// A PEM file with a certificate and its key, the same for all nodes; switches TLS on
    #[arg(long)]
    tls: Option<PathBuf>,
}

fn main() -> Result<(), Failure> {
    antiphon::log_to_stderr();
    let args = Args::parse();
    // A node with a `dest_path` accepts files by itself; no actor is needed.
    let mut node = Node::new(Config {
        name: Some("receiver".into()),
        secret: Some(args.secret.into()),
        udp_port: Some(args.udp_port),
        // At SIGHUP the files are read again.
        reload_on_hangup: args.tls.is_some(),
        certfile: args.tls,
        dest_path: Some(args.dest),
        max_file_size: args.max_file_size,
        ..Config::default()
    })?;
    println!("receiver at {}", node.location());

    // Keeps the node running until the input ends.
    node.spawn(|cx, event| match event {
        Event::Start | Event::Message(Ok(false)) => {
            cx.blocking(input_is_over, |over| over);
            receive()
        }
        Event::Message(_) => stop(),
        _ => receive(),
    });
    Ok(node.run()?)
}

fn input_is_over() -> bool {
    std::io::stdin().lines().next().and_then(Result::ok).is_none_or(|line| line.trim() == "quit")
}
