//! A chat room over TCP. The protocol is simple: each message follows its length in four bytes. With `--tls`, the connections use
//! TLS 1.3.
//!
//! Each line of a client goes to all others. Start `chat_sock_client` beside it, a few times. It ends at `quit`, or
//! at the end of its input. It needs no node: a loop alone runs its actors.

use std::collections::BTreeSet;

use antiphon::prelude::*;
use clap::Parser;

#[derive(Parser)]
#[command(about = "A chat room over TCP, or TLS")]
struct Args {
    /// The address to listen on; for other machines too: that of an interface, with `--tls`
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// The TCP port to listen on; 0 picks a free one
    #[arg(long, default_value_t = 1234)]
    port: u16,
    /// A PEM file with a certificate and its key, the same for server and clients; switches TLS on
    #[arg(long)]
    tls: Option<std::path::PathBuf>,
}

/// Four bytes of length before each message.
const FRAMES: Framing = Framing::LengthPrefixed { max: 65_536 };

/// The room's messages: events of the clients' connections.
struct Client(Conn, SocketEvent);

fn main() -> Result<(), Failure> {
    antiphon::log_to_stderr();
    let args = Args::parse();
    let mut events = Loop::new(LoopConfig::default())?;

    let tls =
        args.tls.map(|certfile| Tls::new(&TlsConfig { certfile, ..TlsConfig::default() })).transpose()?;
    let mut clients = BTreeSet::new();
    let room = events.spawn(move |cx, event| {
        match event {
            Event::Start => {
                cx.set_daemon(true);
                let place = TlsAt::new(tls.as_ref(), (args.host.as_str(), args.port));
                let at = cx.listen(place, FRAMES, Client)?;
                println!("server at {at}");
            }
            Event::Message(Client(conn, SocketEvent::Opened(_))) => {
                cx.write(conn, format!("id: {conn}"));
                send_to_others(cx, &clients, conn, &format!("{conn} joined"));
                clients.insert(conn);
            }
            Event::Message(Client(conn, SocketEvent::Data(line))) => {
                let line = String::from_utf8_lossy(&line);
                send_to_others(cx, &clients, conn, &format!("{conn} says: {line}"));
            }
            Event::Message(Client(conn, SocketEvent::Closed(_))) => {
                clients.remove(&conn);
                send_to_others(cx, &clients, conn, &format!("{conn} left"));
            }
            _ => {}
        }
        receive()
    });

    // The room is a daemon and does not keep the loop running. This actor does, until the input or the room ends.
    let host = events.spawn(move |cx, event| match event {
        Event::Start => {
            cx.monitor(room);
            cx.blocking(input_is_over, |over| over);
            receive()
        }
        Event::Message(Ok(false)) => {
            cx.blocking(input_is_over, |over| over);
            receive()
        }
        Event::Message(_) => stop(),
        Event::Down(Down { reason, .. }) => fail(reason),
        _ => receive(),
    });
    let host = events.join_handle::<()>(host);
    events.run()?;
    Ok(host.join(secs(0))?)
}

fn send_to_others(cx: &mut Cx<Client>, clients: &BTreeSet<Conn>, conn: Conn, text: &str) {
    for other in clients.iter().filter(|client| **client != conn) {
        cx.write(*other, text);
    }
}

fn input_is_over() -> bool {
    std::io::stdin().lines().next().and_then(Result::ok).is_none_or(|line| line.trim() == "quit")
}
