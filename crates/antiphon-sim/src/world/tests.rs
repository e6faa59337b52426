//! The world with toys in it: what its faults do.

use super::*;

/// Sends numbered datagrams and bytes to another; remembers what comes.
struct Toy {
    other: Option<SocketAddr>,
    datagrams: Vec<u8>,
    bytes: u64,
    closed: u64,
}

impl Machine for Toy {
    fn handle(&mut self, now: Time, input: MachineInput<'_>, out: &mut Outputs) {
        match input {
            MachineInput::Start => {
                if let Some(other) = self.other {
                    (0..200).for_each(|number| {
                        out.push(MachineOutput::Datagram { to: other, bytes: vec![number] })
                    });
                    out.dial(other);
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

    fn stood_still(&mut self, _now: Time, _span: Duration, _out: &mut Outputs) {}

    fn check(&self) {}
}

fn toys(faults: Faults) -> (World<Toy>, [SocketAddr; 2]) {
    let places = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let mut world = World::new(1, faults);
    world.add(places[1], |_| Toy { other: None, datagrams: Vec::new(), bytes: 0, closed: 0 });
    world.run_for(Duration::from_millis(5));
    world.add(places[0], move |_| Toy { other: Some(places[1]), datagrams: Vec::new(), bytes: 0, closed: 0 });
    (world, places)
}

#[test]
fn datagrams_are_lost_doubled_and_pass_each_other() {
    let (mut world, places) = toys(Faults { datagram_lost_once_in: 10, ..Faults::default() });
    world.run_for(Duration::from_millis(5));
    let heard = world.machine(places[1]).expect("it runs").datagrams.clone();
    let times = |number: u8| heard.iter().filter(|heard| **heard == number).count();
    assert!((0..200).any(|number| times(number) == 0), "some are lost");
    assert!((0..200).any(|number| times(number) == 2), "some are doubled");
    assert!(!heard.is_sorted(), "some pass others");
}

#[test]
fn a_cut_ends_a_stream_within_what_was_written_and_both_ends_hear_of_it() {
    let (mut world, places) = toys(Faults { cut_every: Duration::from_millis(20), ..Faults::default() });
    world.run_for(Duration::from_millis(200));
    assert_eq!(world.faults_so_far().0, 1, "there is one connection to cut");
    for place in places {
        assert_eq!(world.machine(place).expect("it runs").closed, 1);
    }
    let arrived = world.machine(places[1]).expect("it runs").bytes;
    assert!(arrived > 0 && arrived % 10_000 != 0, "in the middle of something: {arrived}");
}

#[test]
fn a_crash_takes_the_machine_and_its_connections_and_it_starts_again() {
    let (mut world, places) = toys(Faults::default());
    world.run_for(Duration::from_millis(20));
    world.crash(places[1]);
    assert!(world.machine(places[1]).is_none());
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.machine(places[0]).expect("it runs").closed, 1);
    assert_eq!(world.machine(places[1]).expect("it started again").bytes, 0);
}
