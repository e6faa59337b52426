//! A server that prints the messages that it receives. Clients locate it by name: start `tut_client` beside it.
//!
//! It ends at `quit`, or at the end of its input.

use antiphon::prelude::*;
use clap::Parser;

#[derive(Parser)]
#[command(about = "Prints what clients send to `server_coro`")]
struct Args {
    /// The secret that server and clients share
    #[arg(long, default_value = "key")]
    secret: String,
    /// A file with the secrets, in place of `--secret`. Each line is a number and a secret; the first is the own one
    #[arg(long)]
    secret_file: Option<std::path::PathBuf>,
    /// The UDP port on which nodes find each other
    #[arg(long, default_value_t = 51350)]
    udp_port: u16,
    /// A PEM file with a certificate and its key, the same for all nodes; switches TLS on
    #[arg(long)]
    tls: Option<std::path::PathBuf>,
    /// The TCP port to listen on; 0 picks a free one
    #[arg(long, default_value_t = 0)]
    tcp_port: u16,
}

fn main() -> Result<(), Failure> {
    antiphon::log_to_stderr();
    let args = Args::parse();
    let mut node = Node::new(Config {
        name: Some("server".into()),
        secret: args.secret_file.is_none().then(|| args.secret.into()),
        secret_file: args.secret_file.clone(),
        udp_port: Some(args.udp_port),
        // At SIGHUP the files are read again.
        reload_on_hangup: args.tls.is_some() || args.secret_file.is_some(),
        certfile: args.tls,
        tcp_port: args.tcp_port,
        ..Config::default()
    })?;
    println!("server at {}", node.location());

    node.spawn(|cx: &mut Cx<String>, event| {
        match event {
            Event::Start => {
                cx.set_daemon(true);
                cx.register("server_coro")?;
            }
            Event::Message(text) => println!("processing {text}"),
            _ => {}
        }
        receive()
    });

    // The daemon does not keep the node running. This actor does, until the input ends.
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
