//! Sends a file to `files_receiver`, or deletes one there. A progress bar shows the transfer.
//!
//! Interrupt it, and start it again: the transfer resumes where it stopped.

use std::path::PathBuf;

use antiphon::prelude::*;
use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

#[derive(Parser)]
#[command(about = "Sends files to `files_receiver`")]
struct Args {
    /// The secret that receiver and senders share
    #[arg(long, default_value = "key")]
    secret: String,
    /// The UDP port on which nodes find each other
    #[arg(long, default_value_t = 51350)]
    udp_port: u16,
    /// A PEM file with a certificate and its key, the same for all nodes; switches TLS on
    #[arg(long)]
    tls: Option<PathBuf>,
    /// The timeout of the whole transfer in seconds
    #[arg(long, default_value_t = 600)]
    timeout: u64,
    #[command(subcommand)]
    command: FileCommand,
}

#[derive(Clone, Subcommand)]
enum FileCommand {
    /// Sends a file
    Send {
        file: PathBuf,
        /// The target folder, relative to the receiver's
        #[arg(long, default_value = ".")]
        dir: PathBuf,
        /// Replaces a different file of that name
        #[arg(long)]
        overwrite: bool,
    },
    /// Deletes a file that was sent before
    Delete {
        file: PathBuf,
        #[arg(long, default_value = ".")]
        dir: PathBuf,
    },
}

enum Sender {
    Found(Result<Location, LocateError>),
    SendAgain(Location),
    Progress(Progress),
    Sent(Location, Result<Stored, FileError>),
    Deleted(Result<(), DeleteError>),
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
    let timeout = secs(args.timeout);
    let bar = ProgressBar::no_length().with_style(ProgressStyle::with_template(
        "{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
    )?);
    let mut resumed = 0;

    let sender = node.spawn(move |cx, event| match event {
        Event::Start => {
            cx.locate_node("receiver", timeout, Sender::Found);
            receive()
        }
        Event::Message(Sender::Found(at)) => {
            let at = at?;
            match &args.command {
                FileCommand::Send { .. } => cx.push_self(Sender::SendAgain(at)),
                FileCommand::Delete { file, dir } => cx.del_file(at, file, dir, timeout, Sender::Deleted),
            }
            receive()
        }
        Event::Message(Sender::SendAgain(at)) => {
            if let FileCommand::Send { file, dir, overwrite } = args.command.clone() {
                let options = FileOptions { dir, overwrite, ..FileOptions::default() };
                let transfer = cx.send_file(at, file, options, timeout, move |done| Sender::Sent(at, done));
                cx.progress(transfer, millis(100), Sender::Progress)?;
            }
            receive()
        }
        Event::Message(Sender::Progress(progress)) => {
            bar.set_length(progress.total);
            bar.set_position(progress.done);
            resumed = progress.resumed;
            receive()
        }
        // The receiver has not noticed yet that an earlier sender of this file has ended.
        Event::Message(Sender::Sent(at, Err(FileError::Refused(FileRefused::Busy)))) => {
            cx.after(millis(200), Sender::SendAgain(at))?;
            receive()
        }
        Event::Message(Sender::Sent(_, done)) => {
            bar.finish_and_clear();
            match done {
                Ok(Stored::New) if resumed > 0 => println!("stored; {resumed} bytes were there already"),
                Ok(Stored::New) => println!("stored"),
                Ok(_) => println!("already there"),
                Err(reason) => println!("not stored: {reason}"),
            }
            stop()
        }
        Event::Message(Sender::Deleted(done)) => {
            match done {
                Ok(()) => println!("deleted"),
                Err(reason) => println!("not deleted: {reason}"),
            }
            stop()
        }
        _ => receive(),
    });
    let sender = node.join_handle::<()>(sender);
    node.run()?;
    Ok(sender.join(secs(0))?)
}
