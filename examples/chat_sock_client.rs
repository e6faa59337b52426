//! Joins the chat room of `chat_sock_server`: sends the lines of its input, and prints the lines of the others.
//!
//! It ends at `quit`, at the end of its input, or when the server ends.

use std::io;

use antiphon::prelude::*;
use clap::Parser;

#[derive(Parser)]
#[command(about = "Joins the chat room of chat_sock_server")]
struct Args {
    /// Where the server is
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// The server's TCP port
    #[arg(long, default_value_t = 1234)]
    port: u16,
    /// A PEM file with a certificate and its key, the same for server and clients; switches TLS on
    #[arg(long)]
    tls: Option<std::path::PathBuf>,
}

/// Four bytes of length before each message.
const FRAMES: Framing = Framing::LengthPrefixed { max: 65_536 };

enum Client {
    Server(Conn, SocketEvent),
    Typed(Conn, Result<Option<io::Result<String>>, JobError>),
}

fn main() -> Result<(), Failure> {
    antiphon::log_to_stderr();
    let args = Args::parse();
    let mut events = Loop::new(LoopConfig::default())?;

    let tls =
        args.tls.map(|certfile| Tls::new(&TlsConfig { certfile, ..TlsConfig::default() })).transpose()?;
    let client = events.spawn(move |cx, event| {
        match event {
            Event::Start => {
                let server = TlsAt::new(tls.as_ref(), (args.host.as_str(), args.port));
                cx.connect(server, FRAMES, secs(10), Client::Server);
            }
            Event::Message(Client::Server(server, SocketEvent::Opened(_))) => read_line(cx, server),
            Event::Message(Client::Server(_, SocketEvent::Data(text))) => {
                println!("{}", String::from_utf8_lossy(&text));
            }
            Event::Message(Client::Server(_, SocketEvent::Closed(reason))) => match reason {
                None => return stop(),
                Some(reason) => return fail(format!("the connection was lost: {reason}")),
            },
            Event::Message(Client::Typed(server, line)) => match line? {
                Some(Ok(line)) if line != "quit" => {
                    cx.write(server, line);
                    read_line(cx, server);
                }
                _ => cx.close(server),
            },
            _ => {}
        }
        receive()
    });
    // The program's exit code follows the actor's exit reason.
    let client = events.join_handle::<()>(client);
    events.run()?;
    Ok(client.join(secs(0))?)
}

/// Reading standard input blocks, so a thread of the blocking pool does it.
fn read_line(cx: &mut Cx<Client>, server: Conn) {
    cx.blocking(|| io::stdin().lines().next(), move |line| Client::Typed(server, line));
}
