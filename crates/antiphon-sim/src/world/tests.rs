//! The effects of each fault on machines that only count what they receive.

use super::*;

/// Sends numbered datagrams and bytes to `target`; counts what it receives.
struct Counter {
    target: Option<SocketAddr>,
    datagrams: Vec<u8>,
    bytes: u64,
    closed: u64,
}

impl Machine for Counter {
    fn handle(&mut self, now: Time, input: MachineInput<'_>, out: &mut Outputs) {
        match input {
            MachineInput::Start => {
                if let Some(target) = self.target {
                    (0..200).for_each(|number| {
                        out.push(MachineOutput::Datagram { to: target, bytes: vec![number] })
                    });
                    out.dial(target);
                }
            }
            MachineInput::Connected(conn) | MachineInput::Writable(conn) => {
                out.push(MachineOutput::Write { conn, bytes: vec![1; 10_000] });
                out.push(MachineOutput::Wake(now + Duration::from_millis(1)));
            }
            MachineInput::Bytes { bytes, .. } => self.bytes += bytes.len() as u64,
            MachineInput::Closed(_) => self.closed += 1,
            MachineInput::Datagram { bytes, .. } => self.datagrams.extend_from_slice(bytes),
            MachineInput::Timer | MachineInput::Accepted { .. } | MachineInput::DialFailed(_) => {}
        }
    }

    fn on_stall(&mut self, _now: Time, _span: Duration, _out: &mut Outputs) {}

    fn check(&self) {}
}

/// Two machines, of which the first sends to the second.
fn counters(faults: Faults) -> (World<Counter>, [SocketAddr; 2]) {
    let locations = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let mut world = World::new(1, faults);
    world.add(locations[1], |_| Counter { target: None, datagrams: Vec::new(), bytes: 0, closed: 0 });
    world.run_for(Duration::from_millis(5));
    let target = Some(locations[1]);
    world.add(locations[0], move |_| Counter { target, datagrams: Vec::new(), bytes: 0, closed: 0 });
    (world, locations)
}

#[test]
fn datagrams_are_lost_duplicated_and_reordered() {
    let (mut world, locations) = counters(Faults { datagram_lost_once_in: 10, ..Faults::default() });
    world.run_for(Duration::from_millis(5));
    let received = world.machine(locations[1]).expect("it is running").datagrams.clone();
    let times = |number: u8| received.iter().filter(|received| **received == number).count();
    assert!((0..200).any(|number| times(number) == 0), "no datagram was lost");
    assert!((0..200).any(|number| times(number) == 2), "no datagram was duplicated");
    assert!(!received.is_sorted(), "no datagram overtook another");
}

#[test]
fn cut_ends_stream_early_and_closes_both_ends() {
    let (mut world, locations) =
        counters(Faults { cut_every: Duration::from_millis(20), ..Faults::default() });
    world.run_for(Duration::from_millis(200));
    assert_eq!(world.fault_counts().cuts, 1, "the only connection is cut once");
    for location in locations {
        assert_eq!(world.machine(location).expect("it is running").closed, 1);
    }
    let arrived = world.machine(locations[1]).expect("it is running").bytes;
    assert!(arrived > 0 && arrived % 10_000 != 0, "the cut is not within a write: {arrived} bytes arrived");
}

#[test]
fn crash_closes_connections_and_restarts_machine() {
    let (mut world, locations) = counters(Faults::default());
    world.run_for(Duration::from_millis(20));
    let arrived = world.machine(locations[1]).expect("it is running").bytes;
    assert!(arrived > 0, "no bytes arrived before the crash");
    world.crash(locations[1]);
    assert!(world.machine(locations[1]).is_none());
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.machine(locations[0]).expect("it is running").closed, 1);
    assert_eq!(
        world.machine(locations[1]).expect("it started again").bytes,
        0,
        "the second start kept state"
    );
}

#[test]
fn partition_holds_streams_and_loses_datagrams() {
    let (mut world, locations) = counters(Faults::default());
    world.partition_one_way(&locations[..1], &locations[1..]);
    world.run_for(Duration::from_millis(20));
    let target = world.machine(locations[1]).expect("it is running");
    assert_eq!((target.datagrams.len(), target.bytes), (0, 0));
    assert_eq!(world.fault_counts().lost_datagrams, 200);
    world.heal();
    world.run_for(Duration::from_millis(20));
    assert!(world.machine(locations[1]).expect("it is running").bytes > 0, "the stream continues");
    // The other direction: the dialling side learns of nothing, and its bytes arrive.
    world.partition_one_way(&locations[1..], &locations[..1]);
    let before = world.machine(locations[1]).expect("it is running").bytes;
    world.run_for(Duration::from_millis(20));
    assert!(world.machine(locations[1]).expect("it is running").bytes > before);
    world.take_down(locations[1]);
    world.run_for(Duration::from_millis(20));
    assert_eq!(world.machine(locations[0]).expect("it is running").closed, 0);
    world.heal();
    world.run_for(Duration::from_millis(20));
    assert_eq!(world.machine(locations[0]).expect("it is running").closed, 1);
    assert!(world.machine(locations[1]).is_none(), "it stays down");
    world.start(locations[1]);
    world.run_for(Duration::from_millis(20));
    assert!(world.machine(locations[1]).is_some());
}

/// A run with each fault that a test causes.
fn run_with_faults() -> (World<Counter>, [SocketAddr; 2]) {
    let (mut world, locations) = counters(Faults::default());
    world.run_for(Duration::from_millis(5));
    world.partition(&locations[..1], &locations[1..]);
    world.heal();
    world.stall(locations[0], Duration::from_millis(1));
    world.run_for(Duration::from_millis(5));
    world.cut_between(locations[0], locations[1]);
    world.take_down(locations[1]);
    world.start(locations[1]);
    world.run_for(Duration::from_micros(500));
    (world, locations)
}

#[test]
fn shortened_trace_holds_time_faults_and_events() {
    let (world, _) = run_with_faults();
    let text = world.shortened_trace();
    let mut rest = text.as_str();
    for expected in [
        "seed 1 at 0.015500 s",
        "faults, the last ",
        "    0.010000 s  partition between 127.0.0.1:1 and 127.0.0.1:2",
        "    0.010000 s  all partitions end",
        "    0.010000 s  127.0.0.1:1 stalls for 1ms",
        "    0.011000 s  the stall of 127.0.0.1:1 ends",
        "    0.015000 s  connection 0 of 127.0.0.1:1 to 127.0.0.1:2 is cut",
        "    0.015000 s  127.0.0.1:2 is taken down",
        "    0.015000 s  127.0.0.1:2 starts again",
        "events, the last ",
        "  127.0.0.1:2  connection 0 with 127.0.0.1:1: ",
        "  127.0.0.1:2  start",
        "  127.0.0.1:1  connection 0 with 127.0.0.1:2: closed",
    ] {
        let at = rest.find(expected).unwrap_or_else(|| panic!("no \"{expected}\" in the rest of:\n{text}"));
        rest = &rest[at + expected.len()..];
    }
    assert!(text.lines().count() <= 100, "{text}");
}

/// The environment variable that makes the test fail, in a process of its own.
const FAILS: &str = "ANTIPHON_RUN_FAILS";

#[test]
fn failed_run_prints_its_shortened_trace() {
    if std::env::var_os(FAILS).is_some() {
        let (world, _) = run_with_faults();
        panic!("the test fails at {:?}", world.now());
    }
    let name = "world::tests::failed_run_prints_its_shortened_trace";
    let program = std::env::current_exe().expect("the system knows the program of this process");
    let mut failing = std::process::Command::new(program);
    failing.args(["--exact", name, "--nocapture"]).env(FAILS, "1").env_remove("ANTIPHON_RUN_FILE");
    let output = failing.output().expect("the program of this test runs once more");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "the run did not fail: {errors}");
    let printed = format!("the run failed: {}", run_with_faults().0.shortened_trace());
    assert!(errors.contains(&printed), "{errors}\ndoes not contain\n{printed}");
}
