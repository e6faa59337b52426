//! A server that only clients with its secret find. Start `remote_coro_client` beside it.
//!
//! It ends at the end of its input.

use antiphon::prelude::*;
use clap::Parser;

#[derive(Parser)]
#[command(about = "Prints what clients with the same secret send to `server_coro`")]
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
}

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

    node.spawn(|cx: &mut Cx<String>, event| {
        match event {
            Event::Start => {
                cx.set_daemon(true);
                cx.register("server_coro")?;
            }
            Event::Message(text) => println!("Received {text}"),
            _ => {}
        }
        receive()
    });

    // The node runs while another thread reads the input.
    node.run_with(|_| std::io::stdin().lines().map_while(Result::ok).for_each(drop))?;
    Ok(())
}
