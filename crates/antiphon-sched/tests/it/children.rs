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
            cx.child(command, LINES, Net::Child).unwrap()
        })
    }
}

#[test]
fn a_child_echoes_lines_and_ends_when_its_input_does() {
    let mut station = Station::new(nothing);
    let child = station.act(|cx| cx.child(Command::new("cat"), LINES, Net::Child).unwrap());
    station.write(child, "one");
    station.write(child, "two");
    station.until("the echo", |station| station.heard.has(child, "two"));
    station.act(move |cx| cx.close(child));
    assert_eq!(station.until_ended(child), "one two ended: exit status: 0");
    let stats = station.events.stats();
    assert_eq!((stats.sockets, stats.sources, stats.extras, stats.timers), (0, 0, 0, 0));
}

#[test]
fn all_that_a_child_printed_comes_before_its_exit_code() {
    let mut station = Station::new(nothing);
    let child = station.shell("echo out; echo err >&2; printf 'no end of line'; exit 3");
    let told = station.until_ended(child);
    assert!(told.ends_with("ended: exit status: 3"), "{told}");
    for line in ["out", "error: err", "no end of line"] {
        assert!(station.heard.has(child, line), "{told}");
    }
}

#[test]
fn a_child_that_dies_or_is_killed_is_told_as_such() {
    let mut station = Station::new(nothing);
    let dies = station.shell("kill -9 $$");
    assert_eq!(station.until_ended(dies), "ended: signal: 9 (SIGKILL)");
    let killed = station.shell("echo ready; exec sleep 60");
    station.until("the child", |station| station.heard.has(killed, "ready"));
    station.act(move |cx| cx.kill(killed));
    assert_eq!(station.until_ended(killed), "ready ended: signal: 9 (SIGKILL)");
}

#[test]
fn a_program_that_does_not_exist_is_an_error_at_once() {
    let mut station = Station::new(nothing);
    let reason = station.act(|cx| cx.child(Command::new("/no/such/program"), LINES, Net::Child).unwrap_err());
    assert_eq!(reason.kind(), std::io::ErrorKind::NotFound);
    let mut nowhere = Station::on(virtual_loop(), nothing);
    let reason = nowhere.act(|cx| cx.child(Command::new("cat"), LINES, Net::Child).unwrap_err());
    assert_eq!(reason.kind(), std::io::ErrorKind::Unsupported);
}

#[test]
fn the_end_does_not_wait_for_what_a_child_left_running() {
    let mut station = Station::new(nothing);
    // The second process keeps the pipe open.
    let child = station.shell("sleep 5 & echo $!; exit 0");
    let told = station.until_ended(child);
    assert!(told.ends_with("ended: exit status: 0"), "{told}");
    let left = station.heard.of(child)[0].clone();
    assert!(Command::new("kill").arg(left).status().unwrap().success(), "it had not ended yet");
}

#[test]
fn the_end_comes_also_while_what_a_child_left_running_prints_without_end() {
    let mut station = Station::new(nothing);
    // So many that the pipe is never empty. They die when it is closed.
    let child = station
        .shell("for n in 1 2 3 4 5 6 7 8; do yes 0123456789012345678901234567890123456789 & done; exit 4");
    let told = station.until_ended(child);
    assert!(told.ends_with("ended: exit status: 4"));
}

#[test]
fn a_child_that_reads_no_more_is_no_error() {
    let mut station = Station::new(nothing);
    let child = station.shell("read line; echo $line");
    for _ in 0..3000 {
        station.write(child, "x".repeat(999));
    }
    assert_eq!(station.until_ended(child), format!("{} ended: exit status: 0", "x".repeat(999)));
}

#[test]
fn a_child_that_breaks_the_framing_is_killed() {
    let mut station = Station::new(nothing);
    let child = station.shell("while :; do printf xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done");
    assert_eq!(station.until_ended(child), format!("ended: {}", SocketError::FrameTooLong { max: 1000 }));
}

#[test]
fn a_child_with_a_full_pipe_does_not_stop_the_loop_and_loses_nothing() {
    const COUNT: usize = 5000;
    let mut station = Station::new(nothing);
    let child = station.act(|cx| cx.child(Command::new("cat"), LINES, Net::Child).unwrap());
    station.act(move |cx| {
        for n in 0..COUNT {
            cx.write(child, format!("{n:0>900}"));
        }
        cx.close(child);
    });
    station.until_ended(child);
    let heard = station.heard.of(child);
    let lines: Vec<&String> = heard.iter().filter(|line| *line != "writable").collect();
    assert_eq!(lines.len(), COUNT + 1);
    assert!(lines.iter().take(COUNT).enumerate().all(|(n, line)| **line == format!("{n:0>900}")));
    assert_eq!(heard.len(), COUNT + 2, "and one `writable`");
}

#[test]
fn a_child_is_killed_with_its_actor_and_no_zombie_is_left() {
    let mut station = Station::new(nothing);
    let child = station.shell("echo $$; exec sleep 60");
    station.until("the child", |station| !station.heard.of(child).is_empty());
    let process = format!("/proc/{}", station.heard.of(child)[0]);
    let has_proc = Path::new("/proc/self").exists();
    assert!(!has_proc || Path::new(&process).exists());
    station.act(|cx| cx.terminate(cx.addr()));
    station.until("the end of the child", |_| !Path::new(&process).exists());
    assert_eq!(station.events.stats().sockets, 0);
}

#[test]
fn a_flood_of_output_does_not_starve_the_errors() {
    let mut station = Station::new(nothing);
    // The pipe of the flood is full whenever it is looked at.
    let flood = station.shell("yes & read line; echo err >&2; wait");
    station.until("the flood", |station| station.heard.has(flood, "y"));
    station.write(flood, "on");
    station.until("the error", |station| station.heard.has(flood, "error: err"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_child_that_somebody_else_has_waited_for_has_ended_with_an_error() {
    use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

    let mut station = Station::new(nothing);
    let child = station.shell("echo $$; exec sleep 60");
    station.until("the child", |station| !station.heard.of(child).is_empty());
    let pid = Pid::from_raw(station.heard.of(child)[0].parse().unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    waitpid(Some(pid), WaitOptions::empty()).unwrap();
    let told = station.until_ended(child);
    let nobody = std::io::Error::from(rustix::io::Errno::CHILD);
    assert!(told.ends_with(&format!("ended: {nobody}")), "{told}");
    assert_eq!(station.events.stats().sockets, 0);
}
