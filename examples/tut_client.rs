//! Ten actors that locate `server_coro`, and send it three messages each. Start `tut_server` beside it.

use antiphon::prelude::*;
use clap::Parser;

#[derive(Parser)]
#[command(about = "Sends thirty messages to `server_coro`")]
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
        name: Some("client".into()),
        secret: args.secret_file.is_none().then(|| args.secret.into()),
        secret_file: args.secret_file,
        udp_port: Some(args.udp_port),
        certfile: args.tls,
        ..Config::default()
    })?;
    println!("client at {}", node.location());

    // All clients share one counter. They run on one thread, so it needs no lock.
    let ids = std::rc::Rc::new(std::cell::Cell::new(0));
    let mut clients = Vec::new();
    for client in 0..10 {
        let ids = ids.clone();
        let actor = node.spawn(move |cx, event| match event {
            Event::Start => {
                cx.locate("server_coro", secs(args.timeout), Client::Found);
                receive()
            }
            Event::Message(Client::Found(Ok(server))) => {
                for x in 0..3 {
                    ids.set(ids.get() + 1);
                    cx.send(server, format!("{}: {client} / {x}", ids.get()))?;
                }
                stop()
            }
            Event::Message(Client::Found(Err(reason))) => {
                println!("client {client} found no server: {reason}");
                fail(reason)
            }
            _ => receive(),
        });
        clients.push(node.join_handle::<()>(actor));
    }
    node.run()?;
    // The program fails if an actor failed.
    for client in clients {
        client.join(secs(0))?;
    }
    Ok(())
}
