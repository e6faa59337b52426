//! Sends ten messages to `server_coro`, or reports that it was not found: a client with a wrong secret finds no server.

use antiphon::prelude::*;
use clap::Parser;

#[derive(Parser)]
#[command(about = "Sends ten messages to `server_coro`")]
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
    /// How many seconds to wait for the server
    #[arg(long, default_value_t = 10)]
    timeout: u64,
}

enum Client {
    Found(Result<Addr<String>, LocateError>),
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
    let client = node.spawn(move |cx, event| match event {
        Event::Start => {
            cx.locate("server_coro", secs(args.timeout), Client::Found);
            receive()
        }
        Event::Message(Client::Found(server)) => {
            let server = server?;
            println!("server is at {}", cx.location_of(server.node())?);
            for x in 0..10 {
                cx.send(server, format!("message {x}"))?;
            }
            stop()
        }
        _ => receive(),
    });

    // `run` flushes all messages before it returns. The program's exit code follows the actor's exit reason.
    let client = node.join_handle::<()>(client);
    node.run()?;
    if let Err(reason) = client.join(secs(0)) {
        println!("nothing sent: {reason}");
        return Err(reason.into());
    }
    Ok(())
}
