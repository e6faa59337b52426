//! Child processes of actors.

use std::path::Path;
use std::process::{Command, Stdio};

use antiphon_sched::*;

use crate::common::*;
use crate::station::*;

impl Station {
    fn shell(&mut self, script: &'static str) -> Conn {
        self.act(move |cx| {
            let mut command = Command::new("sh");
            command.args(["-c", script]).stderr(Stdio::piped());
            cx.child(command, LINES, StationMessage::Child).unwrap()
        })
    }
}

#[test]
fn child_echoes_and_exits_when_input_closes() {
    let mut station = Station::new(nothing);
    let child = station.act(|cx| cx.child(Command::new("cat"), LINES, StationMessage::Child).unwrap());
    station.write(child, "one");
    station.write(child, "two");
    station.until("the echo", |station| station.log.has(child, "two"));
    station.act(move |cx| cx.close(child));
    assert_eq!(station.until_ended(child), "one two ended: exit status: 0");
    let stats = station.events.stats();
    assert_eq!((stats.sockets, stats.sources, stats.extras, stats.timers), (0, 0, 0, 0));
}

#[test]
fn child_output_precedes_exit_status() {
    let mut station = Station::new(nothing);
    let child = station.shell("echo out; echo err >&2; printf 'no end of line'; exit 3");
    let log = station.until_ended(child);
    assert!(log.ends_with("ended: exit status: 3"), "{log}");
    for line in ["out", "error: err", "no end of line"] {
        assert!(station.log.has(child, line), "{log}");
    }
}

#[test]
fn child_killed_reports_signal() {
    let mut station = Station::new(nothing);
    let dies = station.shell("kill -9 $$");
    assert_eq!(station.until_ended(dies), "ended: signal: 9 (SIGKILL)");
    let killed = station.shell("echo ready; exec sleep 60");
    station.until("the child", |station| station.log.has(killed, "ready"));
    station.act(move |cx| cx.kill_child(killed));
    assert_eq!(station.until_ended(killed), "ready ended: signal: 9 (SIGKILL)");
}

#[test]
fn child_of_missing_program_is_refused() {
    let mut station = Station::new(nothing);
    let reason = station
        .act(|cx| cx.child(Command::new("/no/such/program"), LINES, StationMessage::Child).unwrap_err());
    assert_eq!(reason.kind(), std::io::ErrorKind::NotFound);
    let mut station = Station::on(virtual_loop(), nothing);
    let reason = station.act(|cx| cx.child(Command::new("cat"), LINES, StationMessage::Child).unwrap_err());
    assert_eq!(reason.kind(), std::io::ErrorKind::Unsupported);
}

#[test]
fn process_group_of_child_ends_with_it() {
    let group = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    };
    let mut station = Station::new(nothing);
    // The child exits; its own child would run for ever.
    let exits = group("sleep 1000 & echo $!; exit 3");
    let killed = group("sleep 1000 & echo $!; wait");
    for (command, is_killed) in [(exits, false), (killed, true)] {
        let child = station.act(move |cx| cx.child_group(command, LINES, StationMessage::Child).unwrap());
        station.until("the grandchild", |station| !station.log.of(child).is_empty());
        let process = format!("/proc/{}", station.log.of(child)[0]);
        if is_killed {
            station.act(move |cx| cx.kill_child(child));
        }
        station.until_ended(child);
        station.until("the end of the grandchild", |_| {
            // Its parent has ended, so nobody may wait for it.
            let status = std::fs::read_to_string(format!("{process}/status")).unwrap_or_default();
            status.is_empty() || status.contains("State:\tZ")
        });
    }
}

#[test]
fn child_exit_does_not_wait_for_grandchild() {
    let mut station = Station::new(nothing);
    // The grandchild keeps the pipe open.
    let child = station.shell("sleep 5 & echo $!; exit 0");
    let log = station.until_ended(child);
    assert!(log.ends_with("ended: exit status: 0"), "{log}");
    let grandchild = station.log.of(child)[0].clone();
    assert!(
        Command::new("kill").arg(grandchild).status().unwrap().success(),
        "the grandchild has ended already"
    );
}

#[test]
fn child_exit_arrives_despite_flooding_grandchildren() {
    let mut station = Station::new(nothing);
    // Eight grandchildren, so that the pipe is never empty. They exit when it is closed.
    let child = station
        .shell("for n in 1 2 3 4 5 6 7 8; do yes 0123456789012345678901234567890123456789 & done; exit 4");
    let log = station.until_ended(child);
    assert!(log.ends_with("ended: exit status: 4"));
}

#[test]
fn child_closing_its_input_is_no_error() {
    let mut station = Station::new(nothing);
    let child = station.shell("read line; echo $line");
    for _ in 0..3000 {
        station.write(child, "x".repeat(999));
    }
    assert_eq!(station.until_ended(child), format!("{} ended: exit status: 0", "x".repeat(999)));
}

#[test]
fn child_breaking_framing_is_killed() {
    let mut station = Station::new(nothing);
    let child = station.shell("while :; do printf xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done");
    assert_eq!(station.until_ended(child), format!("ended: {}", SocketError::FrameTooLong { max: 1000 }));
}

#[test]
fn child_with_full_pipe_loses_nothing() {
    const COUNT: usize = 5000;
    let mut station = Station::new(nothing);
    let child = station.act(|cx| cx.child(Command::new("cat"), LINES, StationMessage::Child).unwrap());
    station.act(move |cx| {
        for n in 0..COUNT {
            cx.write(child, format!("{n:0>900}"));
        }
        cx.close(child);
    });
    station.until_ended(child);
    let log = station.log.of(child);
    let lines: Vec<&String> = log.iter().filter(|line| *line != "writable").collect();
    assert_eq!(lines.len(), COUNT + 1);
    assert!(lines.iter().take(COUNT).enumerate().all(|(n, line)| **line == format!("{n:0>900}")));
    assert_eq!(log.len(), COUNT + 2, "there is not exactly one `writable`");
}

#[test]
fn child_dies_with_actor_without_zombie() {
    let mut station = Station::new(nothing);
    let child = station.shell("echo $$; exec sleep 60");
    station.until("the child", |station| !station.log.of(child).is_empty());
    let process = format!("/proc/{}", station.log.of(child)[0]);
    let has_proc = Path::new("/proc/self").exists();
    assert!(!has_proc || Path::new(&process).exists());
    station.act(|cx| cx.terminate(cx.addr()));
    station.until("the end of the child", |_| !Path::new(&process).exists());
    assert_eq!(station.events.stats().sockets, 0);
}

#[test]
fn child_output_flood_does_not_starve_stderr() {
    let mut station = Station::new(nothing);
    // The pipe of the flood is full at each read.
    let flood = station.shell("yes & read line; echo err >&2; wait");
    station.until("the flood", |station| station.log.has(flood, "y"));
    station.write(flood, "on");
    station.until("the error", |station| station.log.has(flood, "error: err"));
}

#[cfg(target_os = "linux")]
#[test]
fn child_reaped_by_program_ends_with_error() {
    use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

    let mut station = Station::new(nothing);
    let child = station.shell("echo $$; exec sleep 60");
    station.until("the child", |station| !station.log.of(child).is_empty());
    let pid = Pid::from_raw(station.log.of(child)[0].parse().unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    waitpid(Some(pid), WaitOptions::empty()).unwrap();
    let log = station.until_ended(child);
    let no_child = std::io::Error::from(rustix::io::Errno::CHILD);
    assert!(log.ends_with(&format!("ended: {no_child}")), "{log}");
    assert_eq!(station.events.stats().sockets, 0);
}
